"""Somebody can write to the broker: whatever is sent, forecasts go on by the right model, and the reason is reported.

What each stands for is in docs/threats.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.clock import DAY_US, iso, to_us, wall_now
from shared.manifest import Manifest, pack
from shared.signing import SigningKey, signed
from tests.bad_models import HAZARDS
from tests.integration.attacked_site import Site, copied, good, site_at
from tests.mosquitto import Broker
from tests.small_model import KEY, in_a_month, manifest_of, small_model

GOOD, STEPPED_BACK, OLD = 10, 9, 8
STRANGER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
VERSIONS = count(100)

Attack = tuple[Manifest, list[bytes], str]


@pytest.fixture(scope="module")
def site(prepared_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that ran version 8, then 9, was stepped back from that to 8, and runs version 10."""
    with copied(prepared_site, tmp_path_factory.mktemp("attacked") / "site", "edge.model_seconds=2") as attacked:
        attacked.install(OLD)
        attacked.install(STEPPED_BACK, seed=2)
        attacked.install(OLD, step_back_from=STEPPED_BACK)
        attacked.install(GOOD, seed=3)
        yield attacked


def test_a_broker_full_of_attacks_is_where_this_begins(site: Site) -> None:
    assert site.serving() == GOOD


# -- who says so -------------------------------------------------------------------------------------------------------


def flipped_bit_in_the_manifest() -> Attack:
    manifest, chunks = good(next(VERSIONS))
    return manifest.model_copy(update={"record_version": manifest.record_version ^ 1}), chunks, "bad_signature"


def flipped_bit_in_a_golden_row() -> Attack:
    manifest, chunks = good(next(VERSIONS))
    outputs = [list(row) for row in manifest.golden.outputs]
    outputs[0][0] += 2**-20
    golden = manifest.golden.model_copy(update={"outputs": outputs})
    return manifest.model_copy(update={"golden": golden}), chunks, "bad_signature"


def unsigned() -> Attack:
    manifest, chunks = good(next(VERSIONS))
    return manifest.model_copy(update={"signatures": []}), chunks, "unsigned"


def unknown_key() -> Attack:
    manifest, chunks = good(next(VERSIONS))
    return signed(manifest, [STRANGER]), chunks, "unknown_key"


def somebody_elses_signature_under_a_trusted_name() -> Attack:
    manifest, chunks = good(next(VERSIONS))
    (theirs,) = signed(manifest, [STRANGER]).signatures
    forged = theirs.model_copy(update={"key_id": KEY.trusted.id})
    return manifest.model_copy(update={"signatures": [forged]}), chunks, "bad_signature"


# -- whether it is meant for this edge, now ----------------------------------------------------------------------------


def replayed_older_manifest() -> Attack:
    return *good(OLD), "version_not_newer"


def replayed_version_that_was_stepped_back_from() -> Attack:
    return *good(STEPPED_BACK, seed=2), "version_not_newer"


def replayed_step_back() -> Attack:
    return *good(OLD, step_back_from=STEPPED_BACK), "version_not_newer"


def endless_expiry() -> Attack:
    return *good(next(VERSIONS), expires="9999-12-31T00:00:00Z"), "valid_too_long"


def frozen_and_expired() -> Attack:
    return *good(next(VERSIONS), expires=iso(to_us(wall_now()) - DAY_US)), "expired"


def another_sites_manifest() -> Attack:
    return *good(next(VERSIONS), sites=["elsewhere"]), "other_site"


def challenger_in_the_champions_place() -> Attack:
    return *good(next(VERSIONS), role="challenger"), "other_role"


def made_for_an_edge_to_come() -> Attack:
    return *good(next(VERSIONS), min_edge_version="99.0.0"), "edge_too_old"


def larger_than_an_edge_takes() -> Attack:
    return *good(next(VERSIONS), size=2**40), "too_large"


# -- whether the bytes are what was claimed ----------------------------------------------------------------------------


def flipped_bit_in_a_chunk() -> Attack:
    manifest, chunks = good(next(VERSIONS), seed=2)
    middle = len(chunks[0]) // 2
    return manifest, [chunks[0][:middle] + bytes([chunks[0][middle] ^ 1]) + chunks[0][middle + 1 :]], "bad_chunk"


def chunks_of_another_artifact() -> Attack:
    manifest, _ = good(next(VERSIONS), seed=4)
    return manifest, pack(small_model(seed=2)[0]).chunks, "bad_chunk"


def another_artifact_under_a_signed_name() -> Attack:
    packed = pack(small_model(seed=2)[0])
    claims = packed.claims | {"sha256": "0" * 64}
    return *good_of(packed.chunks, claims), "bad_digest"


def zip_bomb() -> Attack:
    packed = pack(bytes(300_000_000))
    return *good_of(packed.chunks, packed.claims | {"size": 70_000}), "bomb"


def good_of(chunks: list[bytes], claims: dict[str, Any]) -> tuple[Manifest, list[bytes]]:
    """The good model's manifest, signed with other claims about its bytes."""
    return good(next(VERSIONS), **claims)[0], chunks


SENT = [
    flipped_bit_in_the_manifest, flipped_bit_in_a_golden_row, unsigned, unknown_key,
    somebody_elses_signature_under_a_trusted_name, replayed_older_manifest,
    replayed_version_that_was_stepped_back_from, replayed_step_back, endless_expiry, frozen_and_expired,
    another_sites_manifest, challenger_in_the_champions_place, made_for_an_edge_to_come, larger_than_an_edge_takes,
    flipped_bit_in_a_chunk,
    chunks_of_another_artifact, another_artifact_under_a_signed_name, zip_bomb,
]  # fmt: skip


@pytest.mark.parametrize("attack", SENT, ids=lambda attack: attack.__name__)
def test_what_is_not_what_it_says_is_refused_with_its_reason_and_forecasts_go_on(
    site: Site, attack: Callable[[], Attack]
) -> None:
    manifest, chunks, reason = attack()
    site.watcher.offer(manifest, chunks)
    assert " " in site.refusal(manifest.version, reason)["detail"]
    assert site.serving() == GOOD
    assert not site.missed_origins()


# -- what a trusted key signed all the same ----------------------------------------------------------------------------

SIGNED = [
    "external_data", "external_data_in_a_branch", "endless_loop", "branch", "custom_domain", "gigabyte_initializer",
    "gigabyte_of_nothing", "two_outputs", "four_quantiles", "nothing_but_nan", "nan_where_a_feature_is_missing",
    "other_numbers", "chained_products", "doubled_constants", "truncated",
]  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_a_harmful_model_though_signed_is_refused_with_its_reason_and_forecasts_go_on(site: Site, name: str) -> None:
    hazard, version = HAZARDS[name](), next(VERSIONS)
    manifest = manifest_of(hazard.artifact, hazard.golden, version, expires=in_a_month())
    site.watcher.offer(manifest, pack(hazard.artifact).chunks)
    site.refusal(version, hazard.cause)
    assert site.serving() == GOOD
    assert not site.missed_origins()


def test_endless_chunks_take_no_memory_and_no_model_away(site: Site) -> None:
    artifact, golden = small_model(seed=5)

    def flood() -> tuple[int, float]:
        manifest = manifest_of(artifact, golden, next(VERSIONS), expires=in_a_month())
        site.watcher.desire(manifest)
        for number in range(100):
            topic = f"metercast/artifacts/{manifest.sha256}/{number}"
            site.watcher.connection.publish(topic, bytes([number]) * 131_000, retain=number == 0)
        site.refusal(manifest.version, "bad_chunk")
        assert site.serving() == GOOD
        return manifest.version, site.edge.resident_mb()

    _, first_mb = flood()  # how much of its 13 MB lies in the edge's queue at once depends on the machine
    version, last_mb = [flood() for _ in range(5)][-1]
    assert last_mb < first_mb + 25  # of the 65 MB of these
    site.watcher.publish_chunks(pack(artifact).claims["sha256"], pack(artifact).chunks)
    site.wait_for_champion(version)
    assert site.serving() == version
    assert not site.missed_origins()


def test_endless_manifests_take_no_memory_and_no_model_away(site: Site) -> None:
    serving, manifest = site.serving(), good(next(VERSIONS), seed=2)[0]

    def flood() -> float:
        for number in range(100):
            version = next(VERSIONS)
            forged = {"sha256": f"{number:064x}", "reason": "x" * 100_000, "version": version}
            site.watcher.desire(manifest.model_copy(update=forged))
        site.refusal(version, "bad_signature")
        return site.edge.resident_mb()

    first_mb = flood()  # how much of its 10 MB lies in the edge's queue at once depends on the machine
    assert [flood() for _ in range(5)][-1] < first_mb + 25  # of the 50 MB of these
    assert len(site.watcher.of_topic("models/reported")[-1]["refused"]) <= 20
    assert site.serving() == serving
    assert not site.missed_origins()


# -- edges of their own ------------------------------------------------------------------------------------------------


def test_a_retired_key_is_not_trusted_any_more_and_what_runs_goes_on(prepared_site: Path, tmp_path: Path) -> None:
    trusted = f'keys.trusted=["{STRANGER.trusted}"]'
    with copied(prepared_site, tmp_path / "site", trusted) as site:
        site.watcher.offer(*good(2, seed=2))
        site.refusal(2, "unknown_key")
        assert site.serving() == 1
        site.watcher.desire(signed(good(2, seed=2)[0], [KEY, STRANGER]))
        site.wait_for_champion(2)


def test_without_trusted_keys_every_model_is_refused_and_forecasts_come_from_the_other_rungs(
    broker: Broker, tmp_path: Path
) -> None:
    with site_at(broker, tmp_path / "edge", "keys.trusted=[]") as site:
        site.watcher.offer(*good(1))
        site.refusal(1, "no_trusted_keys")
        forecast = site.forecast()
        assert forecast["rung"] == "profile_mean"
        assert "no model" in forecast["reason"]


def test_a_desired_that_nobody_signed_takes_no_model_away(prepared_site: Path, tmp_path: Path) -> None:
    with copied(prepared_site, tmp_path / "site") as site:
        for payload in (b"", json.dumps({"schema": 1, "champion": None, "challenger": None}).encode(), b"\xff{"):
            site.watcher.publish("plant/models/desired", payload, retain=True)
            assert site.serving() == 1
