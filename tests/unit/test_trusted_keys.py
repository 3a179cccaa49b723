"""The keys an edge trusts, as texts and files, and the edge's doctor on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.doctor.keys import examine
from shared import params_file
from shared.errors import ParamsError
from shared.findings import Grade
from shared.signing import SigningKey
from shared.trusted_keys import trusted_keys

FIRST, SECOND = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))


def test_texts_and_files_are_read_in_their_order_and_each_key_once(tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_bytes(f"\ufeff# ours\r\n\r\n  # {FIRST.trusted}\r\n{SECOND.trusted} created 2026\r\n".encode())
    keys = trusted_keys([str(file), f"{FIRST.trusted} the old one", str(SECOND.trusted)])
    assert keys == (SECOND.trusted, FIRST.trusted)


def test_a_file_is_looked_up_from_here_and_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trusted").write_text(f"{FIRST.trusted}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trusted_keys(["trusted"]) == trusted_keys(["~/trusted"]) == (FIRST.trusted,)


def test_a_file_may_hold_no_key_yet(tmp_path: Path) -> None:
    (tmp_path / "trusted").write_text("# one a line\n")
    assert trusted_keys([str(tmp_path / "trusted")]) == ()


@pytest.mark.parametrize("form", ["{0}", "{0},{1}", '["{0} the old, and # 1", "{1}"]'])
def test_the_environment_can_say_it(form: str) -> None:
    texts = form.format(FIRST.trusted, SECOND.trusted)
    params = params_file.load(None, environment={"METERCAST_KEYS_TRUSTED": texts})
    assert trusted_keys(params.keys.trusted)[0] == FIRST.trusted


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (" ", "an entry is empty"),
        ("ed25519:AAAA", "'ed25519:AAAA': not an Ed25519 public key"),
        ("ed25519:%%", "not an Ed25519 public key"),
        ("ssh-ed25519 AAAA", "there is no such file, and it is no key, which begins with ed25519:"),
        ("none/such", "'none/such': there is no such file"),
        (".", "cannot be read: Is a directory"),
        ("a\0b", "cannot be read"),
        ("~nobody-of-that-name/keys", "cannot be read"),
    ],
)
def test_a_wrong_entry_is_one_sentence_that_names_the_key(
    entry: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError) as wrong:
        trusted_keys([str(FIRST.trusted), entry])
    told = str(wrong.value)
    assert told.startswith("keys.trusted: ")
    assert part in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"# ours\ned25519:AAAA\n", "line 2: 'ed25519:AAAA': not an Ed25519 public key"),
        (FIRST.pem(), "line 1: a private key stands where its public line is expected"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"#" * 70_000, "over 65,536 bytes long"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(content: bytes, part: str, tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_bytes(content)
    with pytest.raises(ParamsError, match=r"^keys\.trusted: ") as wrong:
        trusted_keys([str(file)])
    assert str(file) in str(wrong.value)
    assert part in str(wrong.value)


def test_the_doctor_tells_which_keys_are_trusted() -> None:
    (found,) = examine([str(FIRST.trusted), str(SECOND.trusted)])
    assert found.grade is Grade.OK
    assert FIRST.trusted.id in found.found
    assert SECOND.trusted.id in found.found


def test_without_a_key_the_doctor_says_what_that_means_and_fails_nobody() -> None:
    (found,) = examine([])
    assert found.grade is Grade.NOTE
    assert "every model will be refused" in found.found
    assert "central keys new" in found.mend


def test_the_doctor_mends_an_entry_that_cannot_be_read(tmp_path: Path) -> None:
    (found,) = examine([str(tmp_path / "none")])
    assert found.grade is Grade.MEND
    assert f"'{tmp_path / 'none'}': there is no such file" in found.found


def test_a_file_of_trusted_keys_that_others_may_change_is_to_mend(tmp_path: Path) -> None:
    file = tmp_path / "the trusted"
    file.write_text(f"{FIRST.trusted}\n")
    file.chmod(0o644)
    assert [one.grade for one in examine([str(file)])] == [Grade.OK]
    file.chmod(0o664)
    ok, open_to_others = examine([str(file), str(SECOND.trusted)])
    assert (ok.grade, open_to_others.grade) == (Grade.OK, Grade.MEND)
    assert open_to_others.mend.startswith(f"chmod go-w '{file}'")
