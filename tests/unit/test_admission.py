"""What is said of a manifest before a byte of its artifact is fetched: one cause for each thing that is wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.admission import Accepted, Here, admit
from edge.gate import Wanted
from shared.errors import ModelRefused
from shared.features import FEATURES, SCHEMA_HASH
from shared.manifest import Golden, Manifest, digest_of
from shared.refusals import Cause
from shared.signing import SigningKey, signed, trusted_by_id

NOW = datetime(2026, 1, 5, tzinfo=UTC)
KEY, STRANGER = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n] * 32))) for n in (1, 2))
HERE = Here(
    site="desk",
    trusted=trusted_by_id([KEY.trusted]),
    max_bytes=1_000_000,
    wanted=Wanted(3600, 48, (0.1, 0.5, 0.9)),
    version="1.2.3",
)
CLAIMS: dict[str, Any] = {
    "name": "metercast-fleet",
    "version": 5,
    "sha256": digest_of(b"model"),
    "size": 300_000,
    "compressed_size": 140_000,
    "chunks": 2,
    "chunk_sha256": [digest_of(b"one"), digest_of(b"two")],
    "created": "2026-01-01T00:00:00Z",
    "expires": "2026-02-01T00:00:00Z",
    "features": list(FEATURES),
    "schema_hash": SCHEMA_HASH,
    "step_s": 3600,
    "horizon_steps": 48,
    "quantiles": [0.1, 0.5, 0.9],
    "golden": Golden(inputs=[[0.0]], outputs=[[0.0]]),
    "sites": ["desk"],
    "reason": "test",
    "run_id": "run",
    "record_version": 7,
}


def _claim(**claims: Any) -> Manifest:
    return Manifest(**(CLAIMS | claims))


def _manifest(**claims: Any) -> Manifest:
    return signed(_claim(**claims), [KEY])


def _cause(
    manifest: Manifest,
    *,
    here: Here = HERE,
    role: str = "champion",
    accepted: Accepted | None = None,
    suspect: bool = False,
) -> Cause | None:
    try:
        admit(manifest, here, role=role, accepted=accepted or Accepted(), now=NOW, clock_suspect=suspect)
    except ModelRefused as refused:
        return refused.cause
    return None


def test_a_signed_manifest_that_fits_is_admitted() -> None:
    assert _cause(_manifest()) is None
    assert _cause(_manifest(sites=[])) is None
    assert _cause(signed(_claim(), [STRANGER, KEY])) is None


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"expires": "2026-01-04T23:59:59Z"}, Cause.EXPIRED),
        ({"expires": "2026-01-05T00:00:00Z"}, Cause.EXPIRED),
        ({"expires": "2026-02-01T00:00:00"}, Cause.EXPIRED),
        ({"expires": "never"}, Cause.EXPIRED),
        ({"expires": (NOW + timedelta(days=401)).isoformat()}, Cause.VALID_TOO_LONG),
        ({"expires": "9999-12-31T23:59:59Z"}, Cause.VALID_TOO_LONG),
        ({"role": "challenger"}, Cause.OTHER_ROLE),
        ({"sites": ["elsewhere"]}, Cause.OTHER_SITE),
        ({"min_edge_version": "1.2.4"}, Cause.EDGE_TOO_OLD),
        ({"min_edge_version": "1.10.0"}, Cause.EDGE_TOO_OLD),
        ({"min_edge_version": "newest"}, Cause.EDGE_TOO_OLD),
        ({"size": 1_000_001}, Cause.TOO_LARGE),
        ({"compressed_size": 1_000_001}, Cause.TOO_LARGE),
        ({"chunks": 3}, Cause.BAD_CHUNKS),
        ({"chunk_sha256": [digest_of(b"one")]}, Cause.BAD_CHUNKS),
        ({"chunk_sha256": []}, Cause.BAD_CHUNKS),
        ({"compressed_size": 10}, Cause.BAD_CHUNKS),
        ({"step_s": 900}, Cause.OTHER_FORECAST),
        ({"horizon_steps": 24}, Cause.OTHER_FORECAST),
        ({"quantiles": [0.5]}, Cause.OTHER_FORECAST),
        ({"features": ["lag_1_moon"]}, Cause.UNKNOWN_FEATURES),
        ({"schema_hash": "other"}, Cause.UNKNOWN_FEATURES),
    ],
)
def test_each_claim_that_does_not_fit_has_its_cause(claims: dict[str, Any], cause: Cause) -> None:
    assert _cause(_manifest(**claims)) is cause


def test_who_signed_it_comes_first_whatever_else_is_wrong() -> None:
    wrong = _claim(expires="never", sites=["elsewhere"], size=10**9)
    assert _cause(wrong) is Cause.UNSIGNED
    assert _cause(signed(wrong, [STRANGER])) is Cause.UNKNOWN_KEY
    assert _cause(signed(wrong, [KEY]).model_copy(update={"version": 6})) is Cause.BAD_SIGNATURE
    nobody = replace(HERE, trusted={})
    assert _cause(signed(wrong, [KEY]), here=nobody) is Cause.NO_TRUSTED_KEYS


def test_what_was_signed_cannot_be_changed_in_any_claim() -> None:
    manifest = _manifest()
    changed = {
        "version": 6,
        "sites": [],
        "expires": "2026-03-01T00:00:00Z",
        "size": 1,
        "step_back_from": 9,
        "role": "challenger",
    }
    for name, value in changed.items():
        assert _cause(manifest.model_copy(update={name: value})) is Cause.BAD_SIGNATURE, name


LAST = digest_of(b"last")


@pytest.mark.parametrize(
    ("claims", "accepted", "cause"),
    [
        ({"version": 6}, Accepted(5, 5, LAST), None),
        ({"version": 5, "sha256": LAST}, Accepted(5, 5, LAST), None),
        ({"version": 5}, Accepted(5, 5, LAST), Cause.VERSION_NOT_NEWER),
        ({"version": 4}, Accepted(5, 5, LAST), Cause.VERSION_NOT_NEWER),
        ({"version": 4, "step_back_from": 5}, Accepted(5, 5, LAST), None),
        ({"version": 4, "step_back_from": 5}, Accepted(6, 6, LAST), Cause.VERSION_NOT_NEWER),
        # after a step back from 5 to 4, neither 5 returns by its old manifest nor is 4 in doubt
        ({"version": 5}, Accepted(5, 4, LAST), Cause.VERSION_NOT_NEWER),
        ({"version": 4, "sha256": LAST}, Accepted(5, 4, LAST), None),
    ],
)
def test_versions_only_rise_but_for_the_last_one_and_a_signed_step_back(
    claims: dict[str, Any], accepted: Accepted, cause: Cause | None
) -> None:
    assert _cause(_manifest(**claims), accepted=accepted) is cause


@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_a_role_that_is_stated_is_the_only_one_it_may_take_and_one_that_is_not_may_be_either(role: str) -> None:
    others = {"champion": "challenger", "challenger": "champion"}
    assert _cause(_manifest(role=role), role=role) is None
    assert _cause(_manifest(role=others[role]), role=role) is Cause.OTHER_ROLE
    assert _cause(_manifest(), role=role) is None


def test_a_challenger_may_be_older_for_it_is_never_published() -> None:
    assert _cause(_manifest(version=1), role="challenger", accepted=Accepted(5, 5, LAST)) is None


def test_a_clock_that_is_suspect_judges_no_expiry_but_the_order_of_versions_stands() -> None:
    old = _manifest(expires="2020-01-01T00:00:00Z")
    assert _cause(old, suspect=True) is None
    assert _cause(old, suspect=True, accepted=Accepted(5, 5, LAST)) is Cause.VERSION_NOT_NEWER
