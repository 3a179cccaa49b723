"""The commands of central: what is given before a nested command counts as what is given after it."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from central.cli import _parser, load_params, main
from central.doctor import PROBE_BYTES, examine
from central.work import WorkFolder
from shared.errors import ExitCode
from shared.params import Params
from tests.unit.rollout_desk import PARAMS, Desk, manifest


@pytest.mark.parametrize(
    "words",
    [
        ["models", "--set", "site=a", "--set", "mqtt.root=r", "list"],
        ["models", "list", "--set", "site=a", "--set", "mqtt.root=r"],
        ["models", "--set", "site=b", "--set", "mqtt.root=r", "list", "--set", "site=a"],
        ["models", "--set", "site=a", "--set", "mqtt.root=r", "promote", "1"],
        ["models", "--set", "site=a", "--set", "mqtt.root=r"],
    ],
)
def test_settings_count_on_both_sides_of_a_nested_command(words: list[str]) -> None:
    params = load_params(_parser().parse_args(words))
    assert (params.site, params.mqtt.root) == ("a", "r")


@pytest.mark.parametrize("words", [["--json", "list"], ["list", "--json"], ["--json"]])
def test_json_is_asked_for_on_either_side(words: list[str]) -> None:
    assert _parser().parse_args(["models", *words]).json


def test_an_export_of_nothing_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == ExitCode.USAGE
    assert "give --readings OUT or --dead-letters OUT" in capsys.readouterr().err


def test_the_file_and_the_log_level_given_first_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("site: from-file\n")
    words = ["models", "--params", str(file), "--log-level", "error", "--nice", "prepare"]
    args = _parser().parse_args(words)
    assert (load_params(args).site, args.log_level, args.nice) == ("from-file", "error", True)


def test_without_options_every_command_has_its_defaults() -> None:
    args = _parser().parse_args(["models", "list"])
    assert (args.json, args.nice, args.log_level, load_params(args).site) == (False, False, "info", "home")


def test_what_the_doctor_finds_wrong_comes_with_its_mend(tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("")
    settings = {"mqtt": {"port": 9}, "training": {"scope": "site"}, "central": {"work_dir": str(place)}}
    findings = examine(Params.model_validate(settings))
    assert [finding.subject for finding in findings if not finding.good][:4] == [
        "parameters",
        "broker",
        "work folder",
        "record",
    ]
    assert all(finding.mend for finding in findings if not finding.good)
    assert "→ start the broker" in str(findings[1])
    assert not [finding for finding in findings if finding.found.startswith(f"{finding.subject} ")]


def test_the_doctor_of_a_full_disk_asks_for_room(tmp_path: Path) -> None:
    place = {"work_dir": str(tmp_path), "mlflow_uri": "http://127.0.0.1:9"}
    settings = {"mqtt": {"port": 9}, "central": place}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PROBE_BYTES // 2, before[1]))
    try:
        found = {finding.subject: finding for finding in examine(Params.model_validate(settings))}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found["work folder"].found == f"central.work_dir {tmp_path}: File too large"
    assert found["work folder"].mend.startswith("make room")
    assert not list(tmp_path.glob(".*doctor*"))


def test_a_country_without_holidays_is_one_line_and_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--set", "calendar.country=ZZ"]) == ExitCode.USAGE
    assert capsys.readouterr().err.strip() == "central: calendar.country: unknown country for holidays: 'ZZ'"


# -- central models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A central that has version 1 with its fleet, 2 with a canary site, and 3 in wait for a person."""
    desk = Desk(sites=4, params=PARAMS)
    desk.settle(1)
    desk.offer(2)
    desk.obey()
    desk.score(1.04, pairs=60)
    desk.wait(2)
    state = desk.state.but(waiting=(manifest(3),))
    WorkFolder(tmp_path).rollout.write_text(state.model_dump_json(by_alias=True))
    return tmp_path


def models(folder: Path, *words: str) -> int:
    return main(["models", *words, "--set", f"central.work_dir={folder}"])


def test_models_are_a_table_that_says_how_far_each_got(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(folder, "list") == ExitCode.OK
    header, *lines, remark = capsys.readouterr().out.splitlines()
    assert header.split() == ["version", "state", "sites", "since", "next", "live", "mase", "trained", "why"]
    assert lines[0].startswith("1        fleet    3: 3 running ")
    assert lines[1].split("  ")[0] == "2"
    assert all(words in lines[1] for words in ("canary", "1: 1 running", "1.04 of predecessor"))
    assert "waiting" in lines[2]
    assert "`central models approve`" in lines[2]
    assert "no private key" in remark
    assert "`central keys new`" in remark


def test_models_are_json_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(folder, "--json") == ExitCode.OK
    rows = json.loads(capsys.readouterr().out)
    assert [(row["version"], row["role"], row["state"], row["running"]) for row in rows] == [
        (1, "champion", "fleet", 3),
        (2, "challenger", "canary", 1),
        (3, "waiting", "waiting", 0),
    ]
    assert rows[1]["live_ratio"] == 1.04


def test_one_version_is_shown_with_what_each_site_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(folder, "show", "2", "--json") == ExitCode.OK
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert sorted((row["told"], row["answer"]) for row in answers) == [(2, "running")]
    assert models(folder, "show", "2") == ExitCode.OK
    assert "1 site running (told 2): s" in capsys.readouterr().out
    assert models(folder, "show", "9") == ExitCode.FAILED
    assert "version 9 is unknown here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["approve", "3"], {"verb": "approve", "version": 3, "to": None}),
        (["reject", "3"], {"verb": "reject", "version": 3, "to": None}),
        (["promote", "2"], {"verb": "promote", "version": 2, "to": None}),
        (["pause"], {"verb": "pause", "version": None, "to": None}),
        (["stop"], {"verb": "stop", "version": None, "to": None}),
        (["rollback"], {"verb": "rollback", "version": 2, "to": None}),
    ],
)
def test_an_order_is_left_for_run(folder: Path, words: list[str], order: dict[str, object]) -> None:
    assert models(folder, *words) == ExitCode.OK
    (file,) = WorkFolder(folder).orders.iterdir()
    assert json.loads(file.read_text()) == order


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["approve", "2"], "version 2 does not wait for approval; waiting: 3"),
        (["reject", "2"], "version 2 does not wait; waiting: 3"),
        (["promote", "1"], "version 1 neither waits nor is on its way; those that do: 3, 2"),
        (["resume"], "the rollout is neither paused nor stopped"),
        (["rollback", "--to", "7"], "version 7 was never accepted here; `central models` lists those that were"),
    ],
)
def test_a_wrong_order_is_refused_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert models(folder, *words) == ExitCode.FAILED
    assert capsys.readouterr().err.strip() == f"central: models: {sentence}"
    assert not WorkFolder(folder).orders.exists()
