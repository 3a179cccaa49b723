"""`central keys`, as a person and as a script use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from central.cli import _parser, main
from central.doctor import examine
from shared.clock import parse_instant_us
from shared.errors import ExitCode
from shared.findings import Grade
from shared.params import Params
from shared.signing import SigningKey, TrustedKey

Keys: TypeAlias = Callable[..., str]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def keys(work: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    """Run `central keys` on an own work folder and return what it printed."""

    def run(*words: str, code: ExitCode = ExitCode.OK) -> str:
        assert main(["keys", "--set", f"central.work_dir={work}", *words]) == code
        said = capsys.readouterr()
        return said.out if code == ExitCode.OK else said.err

    return run


def rows(printed: str) -> list[dict[str, Any]]:
    content = json.loads(printed)
    assert isinstance(content, list)
    return content


def test_without_a_key_the_list_says_what_to_do(keys: Keys) -> None:
    assert keys() == keys("list") == "no key signs, so no model goes out: `central keys new` makes one\n"
    assert rows(keys("list", "--json")) == []


def test_a_new_key_is_told_with_the_line_that_edges_need(keys: Keys, work: Path) -> None:
    printed = keys("new")
    (row,) = rows(keys("--json"))
    assert row["state"] == "active"
    assert Path(row["file"]).parent == work / "keys"
    assert f'keys: {{trusted: ["{row["public"]}"]}}' in printed
    assert "into keys.trusted of every edge" in printed
    assert str(SigningKey.from_pem(Path(row["file"]).read_bytes()).trusted) == row["public"]


def test_a_script_is_told_all_of_a_key(keys: Keys) -> None:
    made = json.loads(keys("new", "--json"))
    assert list(made) == ["id", "created", "retired", "state", "public", "file"]
    assert TrustedKey.parse(made["public"]).id == made["id"]
    parse_instant_us(made["created"])
    assert rows(keys("list", "--json")) == [made]


def test_the_table_has_a_line_a_key_and_the_retired_last(keys: Keys) -> None:
    old, new = (json.loads(keys("new", "--json")) for _ in range(2))
    keys("retire", old["id"])
    head, first, second = keys().splitlines()
    assert head.split() == ["id", "state", "created", "retired", "public", "file"]
    assert first.split() == [new["id"], "active", new["created"], "–", new["public"], new["file"]]
    assert second.split()[:3] == [old["id"], "retired", old["created"]]
    assert old["public"] in second


def test_retiring_says_what_is_left_to_do_at_the_edges(keys: Keys) -> None:
    old = json.loads(keys("new", "--json"))
    keys("new")
    printed = keys("retire", old["id"])
    assert "its private part is destroyed" in printed
    assert "out of keys.trusted of every edge" in printed
    assert old["public"] in printed


def test_a_retired_key_is_told_to_scripts_with_its_date(keys: Keys) -> None:
    made = json.loads(keys("new", "--json"))
    gone = json.loads(keys("retire", "--force", "--json", made["id"]))
    parse_instant_us(gone["retired"])
    assert gone == made | {"state": "retired", "file": None, "retired": gone["retired"]}


def test_the_last_key_is_kept_unless_forced_and_the_error_says_how(keys: Keys) -> None:
    made = json.loads(keys("new", "--json"))
    assert "say --force" in keys("retire", made["id"], code=ExitCode.FAILED)
    assert "say --force" not in keys("retire", made["id"], "--force")
    assert keys().endswith("no key signs, so no model goes out: `central keys new` makes one\n")


def test_an_unknown_key_is_one_line_that_names_those_there_are(keys: Keys) -> None:
    made = json.loads(keys("new", "--json"))
    printed = keys("retire", "beef", code=ExitCode.FAILED)
    assert printed == f"central: keys: 'beef' names no key with a private part here; there are {made['id']}\n"


def test_a_key_made_elsewhere_signs_once_it_is_named(keys: Keys, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "central.pem"
    printed = keys("new", "--out", str(out))
    assert f"once keys.private is {out}" in printed
    assert rows(keys("--json")) == []
    (row,) = rows(keys("--json", "--set", f"keys.private={out}"))
    assert (row["state"], row["file"]) == ("active", str(out))


def test_the_very_file_that_keys_private_names_is_made(keys: Keys, tmp_path: Path) -> None:
    named = tmp_path / "central.pem"
    made = json.loads(keys("new", "--json", "--set", f"keys.private={named}"))
    assert (made["state"], made["file"]) == ("active", str(named))
    assert "exists already" in keys("new", "--set", f"keys.private={named}", code=ExitCode.FAILED)


def test_a_key_that_another_is_named_beside_is_idle(keys: Keys, tmp_path: Path) -> None:
    keys("new")
    settings = ("--set", f"keys.private={tmp_path / 'central.pem'}")
    keys("new", *settings)
    assert [row["state"] for row in rows(keys("--json", *settings))] == ["active", "idle"]


@pytest.mark.parametrize("words", [["--json", "list"], ["list", "--json"], ["--json"]])
def test_json_is_asked_for_on_either_side(words: list[str]) -> None:
    assert _parser().parse_args(["keys", *words]).json


def test_a_private_key_is_printed_nowhere(keys: Keys) -> None:
    made = json.loads(keys("new", "--json"))
    secret = Path(made["file"]).read_text().splitlines()[1]
    printed = keys("new") + keys() + keys("--json") + keys("retire", made["id"])
    assert secret not in printed


@pytest.mark.parametrize("verb", ["new", "retire"])
def test_the_help_says_how_to_change_keys_without_a_gap(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", verb, "--help"])
    assert ended.value.code == ExitCode.OK
    told = " ".join(capsys.readouterr().out.split())
    assert "make a new one, trust both at every edge, retire the old one" in told


def test_the_doctor_of_central_looks_at_the_keys(tmp_path: Path) -> None:
    place = tmp_path / "a file"  # where a folder should be, so that every look fails at once
    place.write_text("")
    findings = examine(Params.model_validate({"mqtt": {"port": 9}, "central": {"work_dir": str(place)}}))
    signing, folder = (one for one in findings if one.subject == "keys")
    assert signing.grade is folder.grade is Grade.MEND
    assert signing.mend == "`central keys new` makes one; put the line it prints into keys.trusted of the edges"
    assert folder.found == f"{place / 'keys'}: Not a directory"
