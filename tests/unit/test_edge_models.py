"""Models at the edge: fetched, checked, swapped in between rounds, or refused with the running one untouched."""

import gc
import gzip
import json
import shutil
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge.changes import Changes
from edge.effects import (
    ChunkArrived,
    DesiredArrived,
    ForecastsConfirmed,
    Prove,
    Publish,
    Subscribe,
    Tick,
    Unsubscribe,
)
from edge.store import Store
from shared.clock import DAY_US, HOUR_US, parse_instant_us, to_datetime
from shared.errors import ModelRefused, StateError
from shared.manifest import CHUNK_BYTES, VERSION_AT_MOST, Golden, Manifest, digest_of, pack
from shared.messages import MAX_REASON, Desired
from shared.refusals import Cause
from tests.bad_models import failing_model
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


def _fail(desk: EdgeAtDesk, role: str) -> None:
    """Let a model fail as in a round."""
    desk.node.models.fail(role, ModelRefused(Cause.FAILED_RUNNING, "test"), to_datetime(START_US))
    desk.tick()


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


def test_a_model_whose_file_was_damaged_on_disk_is_fetched_again_and_never_refused(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=2)
    _install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    forecast = _next_forecast(desk)
    assert forecast["rung"] == "profile_mean"
    assert "model 2: its file on disk was damaged or gone" in forecast["reason"]
    assert desk.node.models.stalled() == [
        Subscribe(f"metercast/artifacts/{manifest.sha256}/+")
    ]  # though none desires it
    _deliver(desk, manifest, chunks)
    assert _next_forecast(desk)["rung"] == "champion"
    assert _reported(desk)["refused"] == []


def test_a_model_whose_file_is_found_damaged_when_it_is_desired_again_is_fetched(desk: EdgeAtDesk) -> None:
    old, new = small_manifest(version=1), small_manifest(version=2, seed=2)
    _install(desk, *old)
    _install(desk, *new)
    (desk.folder / "models" / f"{old[0].sha256}.onnx").write_bytes(b"damaged")
    back = small_manifest(version=1, step_back_from=2)[0]
    _want(desk, back)
    assert desk.node.models.underway.transfers == [back.sha256]
    _want(desk, back)
    _deliver(desk, *old)
    assert _next_forecast(desk)["model"]["version"] == 1
    assert _reported(desk)["refused"] == []


def test_a_model_whose_file_was_lost_comes_back_though_the_one_before_stands_in_for_it(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    manifest, chunks = small_manifest(version=2, seed=2)
    _install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").unlink()
    for _ in range(2):
        desk.restart()
        assert _next_forecast(desk)["model"]["version"] == 1
    _install(desk, manifest, chunks)
    assert _next_forecast(desk)["model"]["version"] == 2


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


def test_the_champion_and_the_one_before_stay_on_disk_and_older_ones_go(desk: EdgeAtDesk) -> None:
    manifests = [small_manifest(version=version, seed=version) for version in (1, 2, 3)]
    for manifest, chunks in manifests:
        _install(desk, manifest, chunks)
    on_disk = {path.name for path in (desk.folder / "models").iterdir()}
    assert on_disk == {f"{manifest.sha256}.onnx" for manifest, _ in manifests[1:]}


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


def _of_another_artifact() -> tuple[Manifest, list[bytes]]:
    """What a manifest says of its chunks is true, but together they are another artifact."""
    other = pack(small_model(seed=2)[0])
    own, golden = small_model()
    return manifest_of(own, golden, 9, **other.claims | {"sha256": "0" * 64}), other.chunks


def _bomb() -> tuple[Manifest, list[bytes]]:
    """A few hundred kilobytes that inflate to 200 MB, and claim to be small."""
    packed = pack(b"\0" * 200_000_000)
    artifact, golden = small_model()
    return manifest_of(artifact, golden, 9, **packed.claims | {"size": 500_000}), packed.chunks


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_not_onnx, Cause.NOT_ONNX),
        (_flipped, Cause.BAD_CHUNK),
        (_wrong_golden, Cause.GOLDEN_ROWS),
        (_of_another_artifact, Cause.BAD_DIGEST),
        (_bomb, Cause.BOMB),
        (lambda: _broken(features=["lag_1_moon"]), Cause.UNKNOWN_FEATURES),
        (lambda: _broken(golden=Golden(inputs=[[1.0]], outputs=[[1.0]])), Cause.GOLDEN_ROWS),
    ],
)
def test_a_model_that_fails_a_check_is_refused_in_a_sentence_and_the_running_one_stays(
    desk: EdgeAtDesk, make: Any, reason: Cause
) -> None:
    _install(desk, *small_manifest(version=1))
    manifest, chunks = make()
    _install(desk, manifest, chunks)
    reported = _reported(desk)
    assert reported["champion"]["version"] == 1
    (refusal,) = reported["refused"]
    assert (refusal["reason"], refusal["version"]) == (reason, 9)
    assert " " in refusal["detail"]
    assert desk.node.models.refused.counts == {reason: 1}
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


@pytest.mark.parametrize("version", ["0", "2147483648", "1e300", "1" + "0" * 400, "NaN", "null", '"one"'])
def test_a_version_that_cannot_be_kept_is_a_dead_letter(desk: EdgeAtDesk, version: str) -> None:
    payload = Desired(champion=small_manifest(version=7)[0]).encode().decode()
    desk.tell(DesiredArrived(DESIRED, payload.replace('"version":7', f'"version":{version}').encode()))
    assert "champion.version" in desk.dead_letters[-1]["reason"] or "JSON" in desk.dead_letters[-1]["reason"]
    assert not desk.of_topic("models/reported")


def test_the_last_version_there_can_be_serves_and_is_scored(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=VERSION_AT_MOST))
    for _ in range(3):
        assert _next_forecast(desk)["model"]["version"] == VERSION_AT_MOST
    assert VERSION_AT_MOST in {row["model_version"] for row in desk.rows("scores")}


def test_a_refusal_is_told_in_a_sentence_of_bounded_length(desk: EdgeAtDesk) -> None:
    _want(desk, small_manifest(expires="x" * 10_000)[0])
    assert len(_reported(desk)["refused"][0]["detail"]) == MAX_REASON


def test_chunks_nobody_asked_for_and_chunks_too_large_are_not_kept(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    assert desk.tell(ChunkArrived(manifest.sha256, 0, b"x")) == []
    _want(desk, manifest)
    assert desk.tell(ChunkArrived(manifest.sha256, 10_000, b"x")) == []
    desk.tell(ChunkArrived(manifest.sha256, 0, b"x" * (CHUNK_BYTES + 1)))
    assert desk.node.models.underway.chunks == {"unwanted": 1, "ignored": 1, "bad": 1}
    assert not list((desk.folder / "models").glob("*"))


def test_a_stalled_transfer_is_asked_for_again(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    _want(desk, manifest)
    assert desk.node.models.stalled() == [Subscribe(f"metercast/artifacts/{manifest.sha256}/+")]


def test_an_artifact_packed_anew_while_on_its_way_is_fetched_in_its_new_pieces(desk: EdgeAtDesk) -> None:
    artifact, golden = small_model(trees=120)
    packed = gzip.compress(artifact, compresslevel=1, mtime=0)  # as another release of zlib might
    chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
    claims = {"compressed_size": len(packed), "chunks": len(chunks), "chunk_sha256": [digest_of(c) for c in chunks]}
    _want(desk, manifest_of(artifact, golden, 1))
    desk.tell(ChunkArrived(pack(artifact).sha256, 0, pack(artifact).chunks[0]))
    _install(desk, manifest_of(artifact, golden, 1, **claims), chunks)
    assert _reported(desk)["champion"]["version"] == 1


def test_what_was_said_against_the_running_model_is_no_longer_said_once_it_is_desired_as_it_is(
    desk: EdgeAtDesk,
) -> None:
    manifest, chunks = small_manifest()
    _install(desk, manifest, chunks)
    _want(desk, manifest.model_copy(update={"record_version": 99}))
    assert [one["reason"] for one in _reported(desk)["refused"]] == ["bad_signature"]
    _want(desk, manifest)
    assert _reported(desk)["refused"] == []


@pytest.mark.parametrize(("off_days", "reason"), [(-3650, "valid_too_long"), (3650, "expired")])
def test_what_a_wrong_clock_refused_is_asked_for_again_until_the_clock_is_right(
    desk: EdgeAtDesk, off_days: int, reason: str
) -> None:
    manifest, chunks = small_manifest()
    message = DesiredArrived(DESIRED, Desired(champion=manifest).encode())
    for _ in range(2):
        desk.tell_at_once(message, START_US + off_days * DAY_US)
        assert _reported(desk)["refused"][0]["reason"] == reason
        assert desk.node.models.stalled() == [Subscribe(DESIRED)]
    desk.tell_at_once(message, START_US)
    _deliver(desk, manifest, chunks)
    assert desk.node.models.stalled() == []
    assert (_reported(desk)["champion"]["version"], _reported(desk)["refused"]) == (1, [])


def _in_shadow(desk: EdgeAtDesk) -> bool:
    """Whether a model forecasts beside the champion."""
    return desk.node.models.lineup.challenger is not None


def test_one_model_in_both_roles_forecasts_once_also_after_a_restart_or_a_step_back(desk: EdgeAtDesk) -> None:
    old, bad = small_manifest(version=1), small_manifest(version=2, seed=2)
    _install(desk, *old)
    _want(desk, bad[0], challenger=old[0])
    _deliver(desk, *bad)
    assert _in_shadow(desk)
    desk.node.models.fail("champion", ModelRefused(Cause.FAILED_RUNNING, "test"), to_datetime(START_US))
    for _ in range(2):
        assert _next_forecast(desk)["model"]["version"] == 1
        assert desk.node.models.challenger is not None
        assert not _in_shadow(desk)
        desk.restart()


def test_what_is_reported_is_retained(desk: EdgeAtDesk) -> None:
    report = desk.node.models.report()
    assert isinstance(report, Publish)
    assert report.retain
    assert json.loads(report.payload)["champion"] is None


def test_where_the_champions_file_is_damaged_the_one_before_serves_until_it_has_come_again(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    manifest, chunks = small_manifest(version=2, seed=2)
    _install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    assert _next_forecast(desk)["model"]["version"] == 1
    _want(desk, manifest)
    assert _reported(desk)["refused"] == []  # the disk's fault: central would count it against the version
    assert (desk.node.models.lost, desk.node.models.refused.counts) == (1, {})
    _deliver(desk, manifest, chunks)
    assert _next_forecast(desk)["model"]["version"] == 2
    assert _reported(desk)["refused"] == []


# -- failing at run time -----------------------------------------------------------------------------------------------


def _failing(version: int) -> tuple[Manifest, list[bytes]]:
    """A model that passes every check and gives NaN once the load leaps."""
    artifact, golden = failing_model(column="carried_6h", limit=2.0)
    return manifest_of(artifact, golden, version), pack(artifact).chunks


def _leap(desk: EdgeAtDesk) -> dict[str, Any]:
    """Let the load leap, and return the forecast that follows."""
    hour = (desk.node.clock.latest_us - START_US) // HOUR_US + 1
    desk.send(("m1", reading(hour, 1e9)))
    return desk.of_topic("forecasts/m1")[-1]


def test_a_champion_that_fails_gives_way_within_the_round_to_the_one_before(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    _install(desk, *_failing(2))
    assert _next_forecast(desk)["model"]["version"] == 2
    forecast = _leap(desk)
    assert (forecast["rung"], forecast["model"]["version"]) == ("champion", 1)
    assert [row["event"] for row in desk.rows("events")] == ["champion_failed"]
    assert [(one["version"], one["reason"]) for one in _reported(desk)["refused"]] == [(2, "failed_running")]


def test_with_none_before_it_the_other_rungs_serve_and_the_reason_says_what_failed(desk: EdgeAtDesk) -> None:
    _install(desk, *_failing(2))
    _next_forecast(desk)
    forecast = _leap(desk)
    assert forecast["rung"] == "profile_mean"
    assert "model 2: the model gave no finite number" in forecast["reason"]
    assert "model 2: the model gave no finite number" in _next_forecast(desk)["reason"]


def test_what_was_stepped_back_from_is_nothing_to_fall_back_on(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    _install(desk, *small_manifest(version=3, seed=3))
    artifact, golden = failing_model(column="carried_6h", limit=2.0)
    _install(desk, manifest_of(artifact, golden, 2, step_back_from=3), pack(artifact).chunks)
    assert _next_forecast(desk)["model"]["version"] == 2
    assert _leap(desk)["rung"] == "profile_mean"


def test_a_challenger_that_fails_is_dropped_and_the_champion_goes_on(desk: EdgeAtDesk) -> None:
    champion, chunks = small_manifest(version=3)
    challenger, more = _failing(2)
    _want(desk, champion, challenger=challenger)
    _deliver(desk, champion, chunks)
    _deliver(desk, challenger, more)
    assert _reported(desk)["challenger"]["version"] == 2
    assert _leap(desk)["model"]["version"] == 3
    assert _reported(desk)["challenger"] is None
    assert [row["event"] for row in desk.rows("events")] == ["challenger_failed"]


def test_a_champion_that_ended_two_processes_is_stepped_back_from_by_the_third(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    _next_forecast(desk)
    _install(desk, *small_manifest(version=2, seed=2))
    _end_in_the_first_round(desk, times=2)
    assert _next_forecast(desk)["model"]["version"] == 1
    desk.tell(DesiredArrived(DESIRED, Desired(champion=small_manifest(version=2, seed=2)[0]).encode()))
    assert _reported(desk)["refused"][-1]["reason"] == "failed_running"


def test_a_challenger_that_may_have_ended_two_processes_goes_before_the_champion_does(desk: EdgeAtDesk) -> None:
    first, second, shadow = (small_manifest(version=version, seed=version) for version in (1, 2, 3))
    _install(desk, *first)
    _install(desk, *second)
    _want(desk, second[0], challenger=shadow[0])
    _deliver(desk, *shadow)
    assert _reported(desk)["challenger"]["version"] == 3
    _next_forecast(desk)
    _end_in_the_first_round(desk, times=2)
    assert _next_forecast(desk)["model"]["version"] == 2
    _want(desk, second[0], challenger=shadow[0])
    assert _reported(desk)["challenger"] is None
    assert [(one["version"], one["reason"]) for one in _reported(desk)["refused"]] == [(3, "failed_running")]
    _end_in_the_first_round(desk, times=2)
    assert _next_forecast(desk)["model"]["version"] == 1


def _end_in_the_first_round(desk: EdgeAtDesk, *, times: int) -> None:
    """The round is begun, as the state on disk says, and never ended."""
    desk.restart()
    hour = (desk.node.clock.latest_us - START_US) // HOUR_US + 1
    for attempt in range(times):
        desk.send(("m1", reading(hour + attempt, 1.0)), tick=False)
        desk.tell(Tick(caught_up=True))
        desk.restart()


# -- transfer ----------------------------------------------------------------------------------------------------------


def _big(version: int = 1) -> tuple[Manifest, list[bytes]]:
    """A model of several chunks."""
    manifest, chunks = small_manifest(version=version, trees=240)
    assert len(chunks) > 2
    return manifest, chunks


def test_a_wrong_chunk_is_told_once_and_the_right_one_completes_the_transfer(desk: EdgeAtDesk) -> None:
    manifest, chunks = _big()
    _want(desk, manifest)
    for _ in range(3):
        desk.tell(ChunkArrived(manifest.sha256, 0, chunks[0][::-1]))
    (refusal,) = _reported(desk)["refused"]
    assert (refusal["reason"], refusal["detail"]) == ("bad_chunk", "chunk 0 is not what the manifest says")
    assert len(desk.of_topic("models/reported")) == 2
    _deliver(desk, manifest, chunks)
    assert _reported(desk)["champion"]["version"] == 1
    assert _reported(desk)["refused"] == []


def test_a_transfer_goes_on_after_a_restart_with_what_is_missing(desk: EdgeAtDesk) -> None:
    manifest, chunks = _big()
    _want(desk, manifest)
    _deliver(desk, manifest, chunks[:-1])
    desk.restart()
    effects = _want(desk, manifest)
    last = len(chunks) - 1
    assert [e for e in effects if isinstance(e, Subscribe)] == [
        Subscribe(f"metercast/artifacts/{manifest.sha256}/{last}")
    ]
    desk.tell(ChunkArrived(manifest.sha256, last, chunks[last]))
    assert _reported(desk)["champion"]["version"] == 1
    assert [path.name for path in (desk.folder / "models").iterdir()] == [f"{manifest.sha256}.onnx"]


def test_a_chunk_that_was_damaged_on_disk_is_fetched_again(desk: EdgeAtDesk) -> None:
    manifest, chunks = _big()
    _want(desk, manifest)
    _deliver(desk, manifest, chunks[:-1])
    desk.restart()
    (desk.folder / "models" / f"{manifest.sha256}.chunks" / "0").write_bytes(b"damaged")
    asked = [effect.topic_filter for effect in _want(desk, manifest) if isinstance(effect, Subscribe)]
    assert [topic.rpartition("/")[2] for topic in asked] == ["0", str(len(chunks) - 1)]


def test_a_transfer_that_is_wanted_no_more_leaves_nothing(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    manifest, chunks = _big(version=2)
    _want(desk, manifest)
    _deliver(desk, manifest, chunks[:1])
    effects = _want(desk, small_manifest(version=3, seed=2)[0])
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects
    assert not list((desk.folder / "models").glob("*.chunks"))


def test_what_an_earlier_process_was_subscribed_to_is_unsubscribed(desk: EdgeAtDesk) -> None:
    manifest, _ = _big(version=2)
    _want(desk, manifest)
    desk.restart()
    effects = _want(desk, small_manifest(version=3)[0])
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects


# -- order of versions -------------------------------------------------------------------------------------------------


def test_an_older_version_is_refused_also_after_a_restart(desk: EdgeAtDesk) -> None:
    old, new = small_manifest(version=1), small_manifest(version=2, seed=2)
    _install(desk, *old)
    _install(desk, *new)
    for _ in range(2):
        _want(desk, old[0])
        assert _reported(desk)["refused"][-1]["reason"] == "version_not_newer"
        assert _next_forecast(desk)["model"]["version"] == 2
        desk.restart()


def test_a_signed_step_back_runs_at_once_and_can_not_be_replayed_nor_what_it_is_from(desk: EdgeAtDesk) -> None:
    old, bad, newer = (small_manifest(version=version, seed=version) for version in (1, 2, 3))
    back = small_manifest(version=1, seed=1, step_back_from=2, reason="step back")[0]
    _install(desk, *old)
    _install(desk, *bad)
    _want(desk, back)
    assert _next_forecast(desk)["model"]["version"] == 1
    _want(desk, bad[0])
    assert _reported(desk)["refused"][-1]["reason"] == "version_not_newer"
    _install(desk, *newer)
    _want(desk, back)
    assert [refusal["reason"] for refusal in _reported(desk)["refused"]] == ["version_not_newer"] * 2
    assert _next_forecast(desk)["model"]["version"] == 3


def test_a_version_that_was_stepped_back_from_before_it_came_here_can_not_be_replayed(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    _want(desk, small_manifest(version=1, step_back_from=2)[0])
    for _ in range(2):
        _install(desk, *small_manifest(version=2, seed=2))
        assert _reported(desk)["refused"][-1]["reason"] == "version_not_newer"
        assert _next_forecast(desk)["model"]["version"] == 1
        desk.restart()
    _install(desk, *small_manifest(version=3, seed=3))
    assert _next_forecast(desk)["model"]["version"] == 3


def test_what_was_told_of_a_running_models_manifest_is_lifted_when_it_is_signed_anew(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    _install(desk, manifest, chunks)
    later_us = parse_instant_us("2026-07-01T00:00:00Z")
    for known, told in ((manifest, ["expired"]), (small_manifest(expires="2026-08-01T00:00:00Z")[0], [])):
        desk.tell_at_once(DesiredArrived(DESIRED, Desired(champion=known).encode()), later_us)
        assert [refusal["reason"] for refusal in _reported(desk)["refused"]] == told
        assert _reported(desk)["champion"]["version"] == 1


def test_a_champion_that_is_not_named_goes_on_and_one_that_is_withdrawn_never_comes_back(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=1)
    _install(desk, manifest, chunks)
    _want(desk, None)
    assert _next_forecast(desk)["model"]["version"] == 1
    _want(desk, small_manifest(version=1, withdrawn=True)[0])
    assert _reported(desk)["refused"][-1]["reason"] == "withdrawn"
    for _ in range(2):
        assert _next_forecast(desk)["rung"] == "profile_mean"
        _install(desk, manifest, chunks)
        desk.restart()
    _install(desk, *small_manifest(version=2, seed=2))
    assert _next_forecast(desk)["model"]["version"] == 2


def test_a_manifest_signed_anew_is_taken_over_without_another_proof_or_swap(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    desk.proves = False
    _want(desk, small_manifest(version=1, expires="2026-07-01T00:00:00Z", sites=["desk"])[0])
    assert not desk.asked
    assert desk.node.models.swaps == 1
    champion = desk.node.models.champion
    assert champion is not None
    assert champion.manifest.sites == ["desk"]


def test_a_challenger_becomes_champion_without_another_transfer_or_proof_and_the_champion_its_challenger(
    desk: EdgeAtDesk,
) -> None:
    def both(role: str) -> tuple[Manifest, Manifest]:
        return tuple(small_manifest(version=v, seed=v, role=role)[0] for v in (1, 2))  # type: ignore[return-value]

    _install(desk, *small_manifest(version=1))
    _want(desk, both("champion")[0], challenger=both("challenger")[1])
    _deliver(desk, *small_manifest(version=2, seed=2))
    desk.proves = False
    effects = _want(desk, both("champion")[1], challenger=both("challenger")[0])
    assert not [effect for effect in effects if isinstance(effect, Subscribe | Prove)]
    assert [_reported(desk)[role]["version"] for role in ("champion", "challenger")] == [2, 1]
    assert _reported(desk)["refused"] == []


def test_of_two_manifests_in_quick_succession_the_newer_wins_whichever_is_proven_first(desk: EdgeAtDesk) -> None:
    _install(desk, *small_manifest(version=1))
    desk.proves = False
    second, third = small_manifest(version=2, seed=2), small_manifest(version=3, seed=3)
    _install(desk, *second)
    _install(desk, *third)
    assert _next_forecast(desk)["model"]["version"] == 1
    while desk.asked:
        desk.prove()
    assert [row["version"] for row in [_next_forecast(desk)["model"]]] == [3]
    assert desk.node.models.swaps == 2
    assert _reported(desk)["refused"] == []


@pytest.mark.parametrize("is_first_true", [True, False])
def test_of_two_manifests_of_one_artifact_in_quick_succession_the_newer_is_proven_too(
    desk: EdgeAtDesk, is_first_true: bool
) -> None:
    artifact, golden = small_model()
    other = golden.model_copy(update={"outputs": [[cell + 1 for cell in row] for row in golden.outputs]})
    desk.proves = False
    _install(desk, manifest_of(artifact, golden if is_first_true else other, 1), pack(artifact).chunks)
    _want(desk, manifest_of(artifact, golden, 2))
    while desk.asked:
        desk.prove()
    assert _next_forecast(desk)["model"]["version"] == 2
    assert _reported(desk)["refused"] == []
    assert desk.node.models.swaps == 1


def test_one_artifact_under_two_claims_is_proven_once_for_each_role(desk: EdgeAtDesk) -> None:
    champion, chunks = small_manifest(version=2)
    challenger = small_manifest(version=1)[0]
    _want(desk, champion, challenger)
    _deliver(desk, champion, chunks)
    assert [_reported(desk)[role]["version"] for role in ("champion", "challenger")] == [2, 1]
    assert len([effect for effect in desk.effects if isinstance(effect, Prove)]) == 2
    assert not desk.node.models.lineup.challenger


@pytest.mark.parametrize("is_unpacked", [True, False])
def test_a_model_that_is_wanted_away_and_back_while_it_is_proven_is_saved_and_fetched_no_more(
    desk: EdgeAtDesk, is_unpacked: bool
) -> None:
    _install(desk, *small_manifest(version=1))
    desk.proves = False
    first, chunks = small_manifest(version=2, seed=2)
    _install(desk, first, chunks)
    if is_unpacked:
        desk.prove()
    _want(desk, small_manifest(version=3, seed=3)[0])
    _want(desk, small_manifest(version=2, seed=2, step_back_from=3)[0])
    assert bool(desk.node.models.underway.transfers) == is_unpacked
    while desk.asked:
        desk.prove()
    assert desk.node.models.underway.transfers == []
    desk.restart()
    assert _next_forecast(desk)["model"]["version"] == 2


def test_one_that_fails_costs_nothing_of_a_newer_one_that_is_on_its_way(desk: EdgeAtDesk) -> None:
    for version in (1, 2):
        _install(desk, *small_manifest(version=version, seed=version))
    newest, chunks = small_manifest(version=3, seed=3)
    _want(desk, newest)
    _fail(desk, "champion")
    assert _next_forecast(desk)["model"]["version"] == 1
    _deliver(desk, newest, chunks)
    assert _next_forecast(desk)["model"]["version"] == 3


def test_an_artifact_that_failed_is_not_stepped_back_to_under_its_older_version(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=1)
    _install(desk, manifest, chunks)
    _want(desk, small_manifest(version=2)[0], challenger=manifest)
    assert _reported(desk)["champion"]["version"] == 2
    _fail(desk, "champion")
    assert _next_forecast(desk)["rung"] == "profile_mean"
    assert not desk.node.models.challenger


def test_the_log_says_once_which_model_was_refused_and_why_and_which_runs(
    desk: EdgeAtDesk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="edge")
    _install(desk, *small_manifest(version=2))
    older, _ = small_manifest(version=1, seed=2)
    for _ in range(2):
        _want(desk, older)
    runs, refused = (line for line in caplog.records if line.message in ("model runs", "model refused"))
    assert (runs.levelname, vars(runs)["role"], vars(runs)["version"]) == ("INFO", "champion", 2)
    assert (refused.levelname, vars(refused)["version"], vars(refused)["reason"]) == ("WARNING", 1, "version_not_newer")


def test_a_model_that_was_refused_is_not_tried_again_for_the_same_claim(desk: EdgeAtDesk) -> None:
    manifest, chunks = _wrong_golden()
    _install(desk, manifest, chunks)
    assert not [effect for effect in _want(desk, manifest) if isinstance(effect, Subscribe)]
    assert desk.node.models.refused.counts == {"golden_rows": 1}
    desk.restart()
    assert [effect for effect in _want(desk, manifest) if isinstance(effect, Subscribe)]


def test_desired_messages_that_come_to_nothing_take_no_memory(desk: EdgeAtDesk) -> None:
    manifest, chunks = _wrong_golden()
    _install(desk, manifest, chunks)
    stranger = manifest.model_copy(update={"version": 10})
    payloads = [Desired(champion=one).encode() for one in (manifest, stranger)]

    def held_after(count: int) -> int:
        for number in range(count):
            desk.node.handle(DesiredArrived(DESIRED, payloads[number % 2]), START_US)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before, after = held_after(30), held_after(100)
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


def test_without_room_on_disk_at_the_start_the_champion_serves_all_the_same(
    desk: EdgeAtDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(desk, *small_manifest())

    def full(*_given: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", full)
        desk.restart()
    assert desk.node.models.is_unwritten
    assert _next_forecast(desk)["rung"] == "champion"
    assert not desk.node.models.is_unwritten


# -- champions that are stopped before they ran ------------------------------------------------------------------------


def test_an_edge_that_is_stopped_while_it_takes_a_backlog_in_holds_nothing_against_its_champion(
    desk: EdgeAtDesk,
) -> None:
    _install(desk, *small_manifest())
    desk.tick()
    desk.store.close()
    at_wall = EdgeAtDesk(desk.folder, settings=(*SETTINGS, "clock=wall"))
    for hour in range(24 * 8 + 1, 24 * 8 + 6):
        at_wall.send(("m1", reading(hour, 1.0)), wall_us=START_US + (hour + 1) * HOUR_US, tick=False)
        assert at_wall.node.busy
        at_wall.tell(Tick(caught_up=False), START_US + (hour + 1) * HOUR_US)
        at_wall.restart()
    assert at_wall.node.models.champion is not None


@pytest.mark.parametrize("fact", ["[]", "{", "null", '{"champion": 3}', '{"failed": [{}]}'])
def test_a_fact_that_cannot_be_read_costs_the_models_and_not_the_start(desk: EdgeAtDesk, fact: str) -> None:
    desk.store.commit(Changes(facts={"models": fact}), desk.node.site)
    desk.restart()
    assert _next_forecast(desk)["rung"] == "profile_mean"
    _install(desk, *small_manifest())
    assert _next_forecast(desk)["rung"] == "champion"


def test_the_facts_of_an_earlier_and_of_a_later_release_are_read(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=2)
    _install(desk, manifest, chunks)
    champion = json.loads(desk.store.facts["models"])["champion"]
    for name in ("signatures", "step_back_from", "withdrawn"):
        del champion["manifest"][name]
    desk.store.commit(Changes(facts={"models": json.dumps({"champion": champion})}), desk.node.site)
    desk.restart()
    assert _next_forecast(desk)["model"]["version"] == 2
    _want(desk, small_manifest(version=1, seed=2)[0])
    assert _reported(desk)["refused"][-1]["reason"] == "version_not_newer"
    failed = {"sha256": manifest.sha256, "version": 2, "reason": "a_later_word", "at": "2026-01-05T00:00:00Z"}
    desk.store.commit(Changes(facts={"models": json.dumps({"failed": [failed]})}), desk.node.site)
    desk.restart()
    _install(desk, manifest, chunks)
    assert _next_forecast(desk)["rung"] == "profile_mean"


# -- crashes -----------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """The process ends here."""


def _cut_short(desk: EdgeAtDesk, after: int) -> None:
    """Let the desk die in the middle: after so many effects that reach the disk or the world."""
    left = after
    carry_out = desk.carry_out

    def counted(effect: Any, wall_us: int) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        carry_out(effect, wall_us)

    desk.carry_out = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("after", range(14))
def test_killed_after_any_effect_the_right_model_serves_and_no_origin_is_missed(desk: EdgeAtDesk, after: int) -> None:
    _install(desk, *small_manifest(version=1))
    _next_forecast(desk)
    manifest, chunks = _big(version=2)
    _cut_short(desk, after)
    with suppress(Killed):
        _install(desk, manifest, chunks)
        _next_forecast(desk)
    vars(desk).pop("carry_out")
    desk.restart()
    desk.tick()
    model = _next_forecast(desk)["model"]
    assert model["version"] in (1, 2)
    _install(desk, manifest, chunks)
    assert _next_forecast(desk)["model"]["version"] == 2
    origins = sorted({forecast["origin"] for forecast in desk.of_topic("forecasts/m1")})
    hours = [parse_instant_us(origin) // HOUR_US for origin in origins]
    assert hours == list(range(hours[0], hours[-1] + 1))
    assert {path.suffix for path in (desk.folder / "models").iterdir()} == {".onnx"}
