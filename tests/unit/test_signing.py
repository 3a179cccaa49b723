"""Signatures of manifests: what they vouch for, who may sign, and what of a manifest may change without one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import ModelRefused
from shared.manifest import Golden, Manifest, Signature
from shared.refusals import Cause
from shared.signing import SCHEME, SigningKey, TrustedKey, signed, trusted_by_id, verify

FIRST, SECOND, THIRD = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
PLAIN = Manifest(
    name="metercast-fleet",
    version=3,
    sha256="a" * 64,
    size=100,
    compressed_size=60,
    chunks=1,
    chunk_sha256=["b" * 64],
    created="2026-01-01T00:00:00Z",
    expires="2026-02-01T00:00:00Z",
    features=["lag_48h", "hour"],
    schema_hash="c",
    step_s=3600,
    horizon_steps=48,
    quantiles=[0.1, 0.5, 0.9],
    golden=Golden(inputs=[[1.5, None]], outputs=[[0.1, 0.2, 0.3]]),
    reason="drift",
    run_id="run",
    record_version=7,
)
SIGNED = signed(PLAIN, [FIRST])
# Another value for every claim there is: a new one has to be added here, or the test below fails.
OTHERWISE: dict[str, Any] = {
    "name": "other",
    "version": 4,
    "sha256": "d" * 64,
    "size": 101,
    "compressed_size": 61,
    "chunks": 2,
    "chunk_sha256": ["e" * 64],
    "created": "2026-01-01T00:00:01Z",
    "expires": "2036-02-01T00:00:00Z",
    "min_edge_version": "0.0.1",
    "features": ["hour", "lag_48h"],
    "schema_hash": "d",
    "zone": "Europe/London",
    "country": "GB",
    "step_s": 1800,
    "horizon_steps": 24,
    "quantiles": [0.1, 0.5, 0.95],
    "golden": Golden(inputs=[[1.5, 0.0]], outputs=[[0.1, 0.2, 0.3]]),
    "sites": ["elsewhere"],
    "role": "challenger",
    "predecessor": 2,
    "step_back_from": 9,
    "withdrawn": True,
    "reason": "command",
    "run_id": "walk",
    "record_version": 8,
}


def as_wire(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(by_alias=True).encode()


def from_wire(content: bytes) -> Manifest:
    return Manifest.model_validate_json(content)


def trusting(*keys: SigningKey) -> dict[str, TrustedKey]:
    return trusted_by_id(key.trusted for key in keys)


def refusal(manifest: Manifest, *keys: SigningKey) -> Cause:
    with pytest.raises(ModelRefused) as refused:
        verify(manifest, trusting(*keys))
    return refused.value.cause


def test_what_was_signed_verifies_after_the_wire() -> None:
    received = from_wire(as_wire(SIGNED))
    assert received == SIGNED
    verify(received, trusting(FIRST))


def test_signing_changes_no_claim() -> None:
    assert SIGNED.model_dump(exclude={"signatures"}) == PLAIN.model_dump(exclude={"signatures"})


def test_every_claim_there_is_can_be_changed_here() -> None:
    assert set(OTHERWISE) == set(Manifest.model_fields) - {"schema_", "signatures"}


@pytest.mark.parametrize("claim", OTHERWISE)
def test_a_claim_that_was_changed_is_refused(claim: str) -> None:
    assert getattr(PLAIN, claim) != OTHERWISE[claim]
    changed = SIGNED.model_copy(update={claim: OTHERWISE[claim]})
    assert refusal(from_wire(as_wire(changed)), FIRST) is Cause.BAD_SIGNATURE


@given(st.integers(0, 8 * len(as_wire(SIGNED)) - 1))
def test_whatever_bit_flips_the_claims_are_unreadable_refused_or_the_same(bit: int) -> None:
    content = bytearray(as_wire(SIGNED))
    content[bit // 8] ^= 1 << bit % 8
    try:
        received = from_wire(bytes(content))
        verify(received, trusting(FIRST))
    except (ValidationError, ModelRefused):
        return
    assert received.claim_bytes() == SIGNED.claim_bytes()


def without(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    *parents, leaf = path
    kept = json.loads(json.dumps(content))
    place = kept
    for name in parents:
        place = place[name]
    del place[leaf]
    return dict(kept)


DEFAULTED = [(name,) for name, field in Manifest.model_fields.items() if not field.is_required()]
DEFAULTED = [path for path in DEFAULTED if path not in {("schema_",), ("signatures",)}]


@pytest.mark.parametrize("path", [*DEFAULTED, ("golden", "absolute"), ("golden", "relative")], ids=".".join)
def test_a_writer_that_knows_fewer_keys_than_the_reader_is_believed(path: tuple[str, ...]) -> None:
    said = without(json.loads(SIGNED.model_dump_json(by_alias=True, exclude={"signatures"})), path)
    claim = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    signature = base64.b64encode(FIRST.private.sign(claim)).decode()
    said["signatures"] = [{"key_id": FIRST.trusted.id, "ed25519": signature}]
    verify(Manifest.model_validate(said), trusting(FIRST))


@pytest.mark.parametrize("path", [*DEFAULTED, ("golden", "absolute")], ids=".".join)
def test_a_claim_that_was_taken_out_is_missed_even_if_it_said_the_default(path: tuple[str, ...]) -> None:
    left = without(json.loads(as_wire(SIGNED)), path)
    assert refusal(Manifest.model_validate(left), FIRST) is Cause.BAD_SIGNATURE


@pytest.mark.parametrize("place", [(), ("golden",)], ids=["top", "golden"])
def test_a_claim_that_the_reader_does_not_know_is_not_passed_over(place: tuple[str, ...]) -> None:
    content = json.loads(as_wire(SIGNED))
    (content[place[0]] if place else content)["only_for"] = "others"
    with pytest.raises(ValidationError, match="only_for"):
        Manifest.model_validate(content)


def test_an_edge_that_trusts_either_of_two_signers_takes_the_manifest() -> None:
    both = from_wire(as_wire(signed(PLAIN, [FIRST, SECOND])))
    for trusted in ([FIRST], [SECOND], [FIRST, SECOND], [THIRD, SECOND]):
        verify(both, trusting(*trusted))


def test_a_bad_signature_of_a_trusted_key_spoils_a_good_one() -> None:
    good = signed(PLAIN, [FIRST, SECOND]).signatures
    forged = [good[0], Signature(key_id=SECOND.trusted.id, ed25519=good[0].ed25519)]
    manifest = SIGNED.model_copy(update={"signatures": forged})
    assert refusal(manifest, FIRST, SECOND) is Cause.BAD_SIGNATURE
    verify(manifest, trusting(FIRST))  # what a key says that is not trusted counts neither way


def test_signing_anew_leaves_no_older_signature() -> None:
    assert [one.key_id for one in signed(SIGNED, [SECOND]).signatures] == [SECOND.trusted.id]


@pytest.mark.parametrize(
    ("manifest", "trusted", "cause"),
    [
        (SIGNED, [], Cause.NO_TRUSTED_KEYS),
        (PLAIN, [FIRST], Cause.UNSIGNED),
        (SIGNED, [SECOND, THIRD], Cause.UNKNOWN_KEY),
    ],
)
def test_who_has_no_say_is_refused(manifest: Manifest, trusted: list[SigningKey], cause: Cause) -> None:
    assert refusal(manifest, *trusted) is cause


def test_another_key_under_a_trusted_id_is_refused() -> None:
    stolen = [Signature(key_id=FIRST.trusted.id, ed25519=signed(PLAIN, [THIRD]).signatures[0].ed25519)]
    assert refusal(SIGNED.model_copy(update={"signatures": stolen}), FIRST) is Cause.BAD_SIGNATURE


@given(st.text(max_size=128))
def test_whatever_stands_for_a_signature_is_refused(text: str) -> None:
    said = [Signature(key_id=FIRST.trusted.id, ed25519=text)]
    assert refusal(SIGNED.model_copy(update={"signatures": said}), FIRST) is Cause.BAD_SIGNATURE


@given(st.binary(min_size=32, max_size=32))
def test_a_key_reads_back_from_its_text_and_its_pem(seed: bytes) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
    assert TrustedKey.parse(f"  {key.trusted}\tthe substation's # 2\n") == key.trusted
    assert SigningKey.from_pem(key.pem()).trusted == key.trusted


@given(st.text() | st.text().map(SCHEME.__add__))
def test_whatever_is_no_key_is_told_in_a_short_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected ed25519:<base64>|not an Ed25519 public key") as wrong:
        TrustedKey.parse(text)
    assert len(str(wrong.value)) < 1000


def test_a_private_key_in_the_wrong_place_is_not_told_on() -> None:
    with pytest.raises(ValueError, match="a private key stands where") as wrong:
        TrustedKey.parse(FIRST.pem().decode().replace("\n", " "))
    assert FIRST.pem().decode().splitlines()[1] not in str(wrong.value)


def pem_of(private: Any, protection: serialization.KeySerializationEncryption) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return bytes(private.private_bytes(serialization.Encoding.PEM, form, protection))


@pytest.mark.parametrize(
    ("pem", "part"),
    [
        (b"", "not a private key"),
        (FIRST.pem()[:80], "not a private key"),
        (bytes(len(FIRST.pem())), "not a private key"),
        (str(FIRST.trusted).encode(), "not a private key"),
        (pem_of(FIRST.private, serialization.BestAvailableEncryption(b"secret")), "is encrypted"),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()), "not an Ed25519 one"),
    ],
)
def test_a_file_that_is_no_key_of_ours_says_why(pem: bytes, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        SigningKey.from_pem(pem)
