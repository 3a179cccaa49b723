"""The keyring: which keys sign, what they sign, and how a key comes to be and goes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from central import keys_doctor
from central.key_files import KeyFile, public_path, write_key, write_new
from central.keyring import MOST_ACTIVE, VALID, Keyring
from central.work import WorkFolder
from shared.clock import iso, to_us
from shared.errors import MetercastError, ModelRefused
from shared.findings import Finding, Grade
from shared.manifest import Golden, Manifest
from shared.params import Params
from shared.refusals import Cause
from shared.signing import SigningKey, TrustedKey, trusted_by_id, verify
from shared.trusted_keys import trusted_keys

WALL = datetime(2026, 1, 5, 10, tzinfo=UTC)
LATER = WALL + timedelta(days=60)
TEMPLATE = Manifest(
    name="metercast-fleet",
    version=3,
    sha256="a" * 64,
    size=100,
    compressed_size=60,
    chunks=1,
    created="2025-01-01T00:00:00Z",
    expires="2025-02-01T00:00:00Z",
    features=["hour"],
    schema_hash="c",
    step_s=3600,
    horizon_steps=48,
    quantiles=[0.1, 0.5, 0.9],
    golden=Golden(inputs=[[1.5]], outputs=[[0.1, 0.2, 0.3]]),
    sites=["template"],
    reason="drift",
    run_id="run",
    record_version=7,
)


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "work" / "keys")


def signed(ring: Keyring, site: str = "a", wall: datetime = WALL) -> Manifest:
    manifest = ring.signed(TEMPLATE, site=site, wall=wall)
    assert manifest is not None
    return manifest


def signers(ring: Keyring) -> set[str]:
    return {signature.key_id for signature in signed(ring).signatures}


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def to_mend(ring: Keyring) -> list[Finding]:
    return [found for found in keys_doctor.examine(ring) if found.grade is Grade.MEND]


def test_a_signed_manifest_names_its_site_and_ends_in_a_month(ring: Keyring) -> None:
    key = ring.new(WALL).key.trusted
    manifest = Manifest.model_validate_json(signed(ring, "home").model_dump_json(by_alias=True))
    verify(manifest, {key.id: key})
    assert manifest.sites == ["home"]
    assert manifest.expires == iso(to_us(WALL + VALID))
    told = {"sites", "expires", "signatures"}
    assert manifest.model_dump(exclude=told) == TEMPLATE.model_dump(exclude=told)


def test_what_was_signed_for_one_site_is_no_claim_for_another(ring: Keyring) -> None:
    key = ring.new(WALL).key.trusted
    stolen = signed(ring, "a").model_copy(update={"sites": ["b"]})
    with pytest.raises(ModelRefused) as refused:
        verify(stolen, {key.id: key})
    assert refused.value.cause is Cause.BAD_SIGNATURE


def test_without_a_key_nothing_is_signed_and_the_sentence_says_what_to_do(ring: Keyring) -> None:
    assert ring.signed(TEMPLATE, site="a", wall=WALL) is None
    assert ring.missing().startswith(str(ring.folder))
    assert "`central keys new`" in ring.missing()
    ring.new(WALL)
    assert ring.missing() == ""


def test_every_active_key_signs_and_a_new_one_counts_at_once(ring: Keyring) -> None:
    first = ring.new(WALL)
    assert signers(ring) == {first.id}
    second = ring.new(LATER)
    assert signers(ring) == {first.id, second.id}
    assert [file.created for file in ring.held().active] == [iso(to_us(WALL)), iso(to_us(LATER))]


def test_a_key_is_readable_by_its_owner_only_whatever_the_umask(ring: Keyring) -> None:
    before = os.umask(0)
    try:
        made = ring.new(WALL)
    finally:
        os.umask(before)
    assert (mode_of(made.path), mode_of(made.path.parent)) == (0o600, 0o700)
    assert sorted(path.name for path in ring.folder.iterdir()) == [made.path.name, public_path(made.path).name]
    assert to_mend(ring) == []


def test_the_public_line_is_a_file_that_edges_can_be_given(ring: Keyring) -> None:
    made = ring.new(WALL)
    assert trusted_keys([str(public_path(made.path))]) == (made.key.trusted,)


def test_a_key_is_never_written_over_another_file(ring: Keyring, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(MetercastError, match=r"taken: exists already"):
        ring.new(WALL, out=taken)
    stale = tmp_path / "central.pem"
    public_path(stale).write_text("mine")
    with pytest.raises(MetercastError, match=r"central\.pem\.pub: exists already"):
        ring.new(WALL, out=stale)
    assert taken.read_text() == public_path(stale).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["central.pem.pub", "taken"]


def test_a_write_that_was_cut_short_leaves_no_key_and_hinders_none(ring: Keyring) -> None:
    ring.folder.mkdir(parents=True)
    cut = ring.folder / f".{'0' * 16}.pem.{os.getpid()}"
    cut.write_bytes(SigningKey.new().pem()[:50])
    assert (ring.held().active, ring.held().unusable) == ((), ())
    write_new(ring.folder / f"{'0' * 16}.pem", b"whole", mode=0o600)
    assert [path.read_bytes() for path in ring.folder.iterdir()] == [b"whole"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ring = Keyring(tmp_path / "file" / "keys")
    with pytest.raises(MetercastError, match=r"file/keys: Not a directory$"):
        ring.new(WALL)
    assert ring.missing().startswith(f"{ring.folder}: Not a directory; no model goes out")


def test_the_file_that_keys_private_names_is_made_and_signs_alone(tmp_path: Path) -> None:
    named = tmp_path / "secrets" / "central.pem"
    work = WorkFolder(tmp_path / "work")
    other = Keyring.of(Params(), work).new(WALL)
    ring = Keyring.of(Params.model_validate({"keys": {"private": str(named)}}), work)
    assert ring.signed(TEMPLATE, site="a", wall=WALL) is None
    assert str(named) in ring.missing()
    made = ring.new(LATER)
    assert made.path == named
    assert signers(ring) == {made.id}
    assert [file.id for file in ring.held().idle] == [other.id]
    with pytest.raises(MetercastError, match=r"central\.pem: exists already"):
        ring.new(LATER)


def test_keys_private_is_looked_up_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    params = Params.model_validate({"keys": {"private": "~/central.pem"}})
    assert Keyring.of(params, WorkFolder(tmp_path)).private == tmp_path / "central.pem"


def test_a_file_that_is_no_key_takes_none_of_the_others_with_it(ring: Keyring) -> None:
    good = ring.new(WALL)
    (ring.folder / "bad.pem").write_text("-----BEGIN NONSENSE-----")
    assert signers(ring) == {good.id}
    (found,) = to_mend(ring)
    assert found.found == f"{ring.folder / 'bad.pem'}: not a private key in PEM"


def test_a_key_made_elsewhere_tells_its_age_by_its_file(ring: Keyring) -> None:
    ring.folder.mkdir(parents=True)
    path = ring.folder / "openssl.pem"
    path.write_bytes(SigningKey.new().pem())
    os.utime(path, (WALL.timestamp(), WALL.timestamp()))
    public_path(path).write_text(f"{SigningKey.new().trusted} created 1999-01-01T00:00:00Z\n")  # of another key
    assert KeyFile.read(path).created == iso(to_us(WALL))


def test_no_more_keys_are_active_than_a_manifest_may_bear_signatures(ring: Keyring) -> None:
    for _ in range(MOST_ACTIVE):
        ring.new(WALL)
    with pytest.raises(MetercastError, match="16 are active"):
        ring.new(WALL)
    write_key(ring.folder / "put-there.pem", SigningKey.new(), iso(to_us(LATER)))
    assert len(Manifest.model_validate_json(signed(ring).model_dump_json(by_alias=True)).signatures) == MOST_ACTIVE


def test_retiring_destroys_the_private_part_and_keeps_the_public_line(ring: Keyring) -> None:
    old, new = ring.new(WALL), ring.new(LATER)
    os.link(old.path, ring.folder / "forgotten-link")  # what was in the file is gone, not just its name
    ring.retire(old.id[:6], LATER)
    assert signers(ring) == {new.id}
    (kept,) = ring.held().retired
    assert (kept.id, kept.created, kept.retired) == (old.id, iso(to_us(WALL)), iso(to_us(LATER)))
    assert TrustedKey.parse(kept.public) == old.key.trusted
    assert not old.path.exists()
    assert not public_path(old.path).exists()
    assert set((ring.folder / "forgotten-link").read_bytes()) == {0}


def test_every_copy_of_a_retired_key_in_the_folder_is_destroyed(ring: Keyring) -> None:
    old, new = ring.new(WALL), ring.new(LATER)
    shutil.copy(old.path, ring.folder / "copy.pem")
    ring.retire(old.id, LATER)
    assert [path.name for path in ring.folder.glob("*.pem")] == [new.path.name]


def test_a_retired_key_never_signs_again_whatever_backup_is_put_back(ring: Keyring) -> None:
    old, new = ring.new(WALL), ring.new(LATER)
    pem = old.path.read_bytes()
    ring.retire(old.id, LATER)
    old.path.write_bytes(pem)
    old.path.chmod(0o600)
    assert signers(ring) == {new.id}
    assert signers(replace(ring, private=new.path)) == {new.id}
    assert replace(ring, private=old.path).signed(TEMPLATE, site="a", wall=WALL) is None
    (found,) = to_mend(ring)
    assert "still holds the private part of a retired key" in found.found
    assert found.mend == f"`central keys retire {old.id}`"


def test_a_retirement_that_was_cut_short_is_finished_and_keeps_its_date(ring: Keyring) -> None:
    old, _ = ring.new(WALL), ring.new(LATER)
    pem = old.path.read_bytes()
    ring.retire(old.id, WALL)
    old.path.write_bytes(pem)  # as if the power had gone between the note and the destruction
    assert ring.retire(old.id, LATER).retired == iso(to_us(WALL))
    assert not old.path.exists()


def test_the_last_key_that_signs_is_retired_by_force_alone(ring: Keyring) -> None:
    last = ring.new(WALL)
    with pytest.raises(MetercastError, match=f"{last.id} is the last key that signs"):
        ring.retire(last.id, LATER)
    assert signers(ring) == {last.id}
    ring.retire(last.id, LATER, force=True)
    assert ring.signed(TEMPLATE, site="a", wall=LATER) is None


def test_the_named_key_can_be_retired_and_an_idle_one_without_force(tmp_path: Path) -> None:
    folder = Keyring(tmp_path / "keys")
    idle = folder.new(WALL)
    ring = Keyring(tmp_path / "keys", tmp_path / "central.pem")
    named = ring.new(LATER)
    ring.retire(idle.id, LATER)
    ring.retire(named.id, LATER, force=True)
    assert {key.id for key in ring.held().retired} == {idle.id, named.id}
    assert not named.path.exists()


def test_a_key_that_keys_private_named_before_is_retired_by_its_file(tmp_path: Path) -> None:
    folder, old_path, new_path = tmp_path / "keys", tmp_path / "old.pem", tmp_path / "new.pem"
    before = Keyring(folder, old_path)
    old = before.new(WALL)
    with pytest.raises(MetercastError, match=f"let keys.private name it, and retire this one by its file, {old_path}"):
        before.retire(old.id, LATER)
    new = before.new(LATER, out=new_path)
    ring = Keyring(folder, new_path)
    assert ring.retire(str(old_path), LATER).id == old.id
    assert not old_path.exists()
    assert signers(ring) == {new.id}
    old_path.write_bytes(old.key.pem())
    assert before.signed(TEMPLATE, site="a", wall=LATER) is None, "whatever backup is put back"


@pytest.mark.parametrize("named", ["", "zz", "0123456789abcdef"])
def test_a_key_that_is_not_here_is_not_retired(ring: Keyring, named: str) -> None:
    made = [ring.new(WALL), ring.new(WALL)]
    with pytest.raises(MetercastError, match=f"'{named}' names no key .* there are .*{made[0].id}"):
        ring.retire(named, LATER)
    assert len(ring.held().active) == 2


def test_a_beginning_that_several_keys_share_retires_none(ring: Keyring) -> None:
    for _ in range(17):  # of which two begin with the same of sixteen digits
        write_key(ring.folder / f"{len(ring.held().active)}.pem", SigningKey.new(), iso(to_us(WALL)))
    firsts = [file.id[0] for file in ring.held().active]
    shared = max(firsts, key=firsts.count)
    with pytest.raises(MetercastError, match=f"'{shared}' names several keys"):
        ring.retire(shared, LATER)
    assert ring.held().retired == ()


def test_a_key_that_others_can_read_signs_and_the_doctor_says_how_to_mend_it(ring: Keyring) -> None:
    made = ring.new(WALL)
    made.path.chmod(0o640)
    ring.folder.chmod(0o770)
    assert signers(ring) == {made.id}
    file, folder = to_mend(ring)
    assert "(mode 0640)" in file.found
    assert file.mend.startswith(f"chmod 600 {made.path}")
    assert folder.mend.startswith(f"chmod 700 {ring.folder}")


def test_what_is_to_mend_is_logged_at_the_start(ring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    keys_doctor.warn(ring)
    (record,) = caplog.records
    told: dict[str, Any] = vars(record)
    assert "no key signs" in told["found"]
    assert "central keys new" in told["mend"]
    caplog.clear()
    ring.new(WALL)
    keys_doctor.warn(ring)
    assert caplog.records == []


def test_the_doctor_counts_keys_and_notes_those_that_do_not_sign(tmp_path: Path) -> None:
    folder = Keyring(tmp_path / "keys")
    idle = folder.new(WALL)
    ring = replace(folder, private=tmp_path / "central.pem")
    named = ring.new(LATER)
    signing, note = keys_doctor.examine(ring)
    assert (signing.grade, signing.found) == (Grade.OK, f"models are signed by {named.id}")
    assert note.grade is Grade.NOTE
    assert idle.id in note.found


def test_edges_that_trust_the_old_key_or_the_new_one_take_models_all_through_a_rotation(ring: Keyring) -> None:
    old = ring.new(WALL)
    trusting_old = trusted_by_id([old.key.trusted])
    new = ring.new(WALL)
    trusting_both, trusting_new = trusted_by_id([old.key.trusted, new.key.trusted]), trusted_by_id([new.key.trusted])
    for trusted in (trusting_old, trusting_both, trusting_new):
        verify(signed(ring), trusted)
    ring.retire(old.id, LATER)
    for trusted in (trusting_both, trusting_new):
        verify(signed(ring), trusted)
    with pytest.raises(ModelRefused) as refused:
        verify(signed(ring), trusting_old)
    assert refused.value.cause is Cause.UNKNOWN_KEY
