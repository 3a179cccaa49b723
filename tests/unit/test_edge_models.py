"""Models at the edge: fetched, checked, swapped in between rounds, or refused with the running one untouched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge.effects import (
    ChunkArrived,
    DesiredArrived,
    ForecastsConfirmed,
    KeepArtifacts,
    Publish,
    Subscribe,
    Unsubscribe,
)
from shared.clock import HOUR_US
from shared.manifest import CHUNK_BYTES, Golden, Manifest, pack
from shared.messages import Desired
from tests.small_model import manifest_of, small_manifest, small_model
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

DESIRED = "metercast/desk/models/desired"


SETTINGS = ("calendar.zone=Europe/London", "edge.publish_shadow=true")


@pytest.fixture(scope="module")
def eight_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of an edge with eight days of one meter."""
    desk = EdgeAtDesk(tmp_path_factory.mktemp("prepared") / "edge", settings=SETTINGS)
    desk.send(*[("m1", reading(hour, 1.0 + hour % 24)) for hour in range(24 * 8)])
    hour = START_US // HOUR_US
    desk.tell(ForecastsConfirmed(tuple((0, hour + h) for h in range(1, 24 * 8 + 1))))
    desk.send(("m1", reading(24 * 8, 1.0)))
    desk.store.close()
    return desk.folder


@pytest.fixture
def desk(eight_days: Path, tmp_path: Path) -> EdgeAtDesk:
    desk = EdgeAtDesk(Path(shutil.copytree(eight_days, tmp_path / "edge")), settings=SETTINGS)
    desk.tick()
    return desk


def _want(desk: EdgeAtDesk, champion: Manifest | None, challenger: Manifest | None = None) -> list[Any]:
    return desk.tell(DesiredArrived(DESIRED, Desired(champion=champion, challenger=challenger).encode()))


def _deliver(desk: EdgeAtDesk, manifest: Manifest, chunks: list[bytes]) -> None:
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))


def _install(desk: EdgeAtDesk, manifest: Manifest, chunks: list[bytes]) -> None:
    _want(desk, manifest)
    _deliver(desk, manifest, chunks)


def _reported(desk: EdgeAtDesk) -> dict[str, Any]:
    return desk.of_topic("models/reported")[-1]


def _next_forecast(desk: EdgeAtDesk) -> dict[str, Any]:
    hour = (desk.node.clock.latest_us - START_US) // HOUR_US + 1
    desk.send(("m1", reading(hour, 1.0 + hour % 24)))
    return desk.of_topic("forecasts/m1")[-1]


def test_a_desired_model_is_fetched_checked_swapped_in_and_reported(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=3)
    effects = _want(desk, manifest)
    assert Subscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects
    assert _next_forecast(desk)["rung"] == "profile_mean"
    _deliver(desk, manifest, chunks)
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in desk.effects
    assert _reported(desk)["champion"]["version"] == 3
    forecast = _next_forecast(desk)
    assert forecast["rung"] == "champion"
    assert forecast["reason"] == ""
    assert forecast["model"] == {
        "name": "metercast-fleet",
        "version": 3,
        "sha256": manifest.sha256,
        "run_id": "run",
        "record_version": 7,
    }
    low, middle, high = (forecast["quantiles"][level] for level in ("0.1", "0.5", "0.9"))
    assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))


@pytest.mark.parametrize(("zone", "flags"), [("Europe/London", []), ("UTC", ["model_of_another_calendar"]), ("", [])])
def test_a_model_trained_on_another_calendar_serves_and_the_forecast_says_so(
    desk: EdgeAtDesk, zone: str, flags: list[str]
) -> None:
    _install(desk, *small_manifest(zone=zone))
    assert _next_forecast(desk)["quality"]["flags"] == flags


def test_no_origin_is_missed_across_a_swap(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    before = len(desk.of_topic("forecasts/m1"))
    _next_forecast(desk)
    _want(desk, manifest)
    _next_forecast(desk)
    _deliver(desk, manifest, chunks)
    _next_forecast(desk)
    origins = [forecast["origin"] for forecast in desk.of_topic("forecasts/m1")]
    assert len(origins) == before + 3
    assert len(set(origins)) == len(origins)


def test_a_restart_serves_the_model_at_once(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=2))
    desk.restart()
    assert _next_forecast(desk)["model"]["version"] == 2


def test_a_model_whose_file_was_damaged_on_disk_is_refused_at_start_and_fetched_again(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=2)
    _install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    assert _next_forecast(desk)["rung"] == "profile_mean"
    _install(desk, manifest, chunks)
    assert _next_forecast(desk)["rung"] == "champion"


def test_the_challenger_runs_in_the_shadow_and_is_scored_beside_the_champion(desk: EdgeAtDesk) -> None:
    old, old_chunks = small_manifest(version=1)
    new, new_chunks = small_manifest(version=2, seed=2)
    _install(desk, old, old_chunks)
    _want(desk, new, challenger=old)
    _deliver(desk, new, new_chunks)
    for _ in range(3):
        _next_forecast(desk)
    assert desk.of_topic("forecasts/m1")[-1]["model"]["version"] == 2
    shadow = desk.of_topic("shadow/m1")[-1]
    assert (shadow["rung"], shadow["model"]["version"]) == ("challenger", 1)
    roles = {(score["role"], score["model_version"]) for score in desk.rows("scores") if score["rung"] == "champion"}
    assert {("champion", 2), ("challenger", 1)} <= roles


def test_artifacts_no_longer_named_are_deleted(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    new, new_chunks = small_manifest(version=2, seed=2)
    _install(desk, new, new_chunks)
    kept = [effect for effect in desk.effects if isinstance(effect, KeepArtifacts)][-1]
    assert kept.sha256s == frozenset({new.sha256})


def test_chunks_may_come_in_any_order_and_twice(desk: EdgeAtDesk) -> None:
    artifact, golden = small_model()
    manifest, chunks = manifest_of(artifact, golden), pack(artifact).chunks
    _want(desk, manifest)
    for number in [*reversed(range(len(chunks))), 0]:
        desk.tell(ChunkArrived(manifest.sha256, number, chunks[number]))
    assert _reported(desk)["champion"]["version"] == 1


def _broken(**claims: Any) -> tuple[Manifest, list[bytes]]:
    return small_manifest(version=9, **claims)


def _not_onnx() -> tuple[Manifest, list[bytes]]:
    artifact = b"this is not a model" * 100
    return manifest_of(artifact, small_model()[1], 9), pack(artifact).chunks


def _flipped() -> tuple[Manifest, list[bytes]]:
    manifest, chunks = small_manifest(version=9, seed=2)
    damaged = bytearray(chunks[0])
    damaged[len(damaged) // 2] ^= 1
    return manifest, [bytes(damaged), *chunks[1:]]


def _wrong_golden() -> tuple[Manifest, list[bytes]]:
    artifact, golden = small_model()
    off = [[value + 0.01 for value in row] for row in golden.outputs]
    return manifest_of(artifact, golden.model_copy(update={"outputs": off}), 9), pack(artifact).chunks


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_not_onnx, "not a model onnxruntime can load"),
        (_flipped, "not gzip|digest mismatch|does not inflate"),
        (_wrong_golden, "golden outputs differ"),
        (lambda: _broken(features=["lag_1_moon"]), "features unknown here: lag_1_moon"),
        (lambda: _broken(schema_hash="other"), "feature schema other"),
        (lambda: _broken(step_s=900), "step_s is 900, this edge forecasts 3600"),
        (lambda: _broken(quantiles=[0.5]), "quantiles is"),
        (lambda: _broken(size=10**9), "edge.max_model_bytes"),
        (lambda: _broken(chunks=99), "99 chunks do not make"),
        (lambda: _broken(sites=["elsewhere"]), "meant for other sites"),
        (lambda: _broken(golden=Golden(inputs=[[1.0]], outputs=[[1.0]])), "golden rows do not fit"),
    ],
)
def test_a_model_that_fails_a_check_is_refused_in_a_sentence_and_the_running_one_stays(
    desk: EdgeAtDesk, make: Any, reason: str
) -> None:
    _install(desk, *small_manifest(version=1))
    manifest, chunks = make()
    _install(desk, manifest, chunks)
    reported = _reported(desk)
    assert reported["champion"]["version"] == 1
    (refusal,) = reported["refused"]
    assert any(part in refusal["reason"] for part in reason.split("|"))
    assert refusal["version"] == 9
    assert _next_forecast(desk)["model"]["version"] == 1


@pytest.mark.parametrize(
    "payload", [b"", b"{", b'{"schema": 99, "champion": null}', b'{"champion": {"name": 1}}', b"\xff"]
)
def test_a_desired_message_that_cannot_be_read_is_a_dead_letter_and_changes_nothing(
    desk: EdgeAtDesk, payload: bytes
) -> None:
    _install(desk, *small_manifest(version=1))
    desk.tell(DesiredArrived(DESIRED, payload))
    assert desk.dead_letters[-1]["topic"] == DESIRED
    assert _next_forecast(desk)["model"]["version"] == 1


def test_chunks_nobody_asked_for_and_chunks_too_large_are_not_kept(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    assert desk.tell(ChunkArrived(manifest.sha256, 0, b"x")) == []
    _want(desk, manifest)
    assert desk.tell(ChunkArrived(manifest.sha256, 0, b"x" * (CHUNK_BYTES + 1))) == []
    assert desk.tell(ChunkArrived(manifest.sha256, 10_000, b"x")) == []


def test_a_stalled_transfer_is_asked_for_again(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    _want(desk, manifest)
    assert desk.node.models.stalled() == [Subscribe(f"metercast/artifacts/{manifest.sha256}/+")]


def test_what_is_reported_is_retained(desk: EdgeAtDesk) -> None:
    report = desk.node.models.report()
    assert isinstance(report, Publish)
    assert report.retain
    assert json.loads(report.payload)["champion"] is None
