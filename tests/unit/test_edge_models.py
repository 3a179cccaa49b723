"""Models that run at an edge: swapped in between rounds, kept through restarts, stepped back from when they fail."""

import json
from contextlib import suppress
from typing import Any

import pytest

from edge.changes import Changes
from edge.effects import (
    DesiredArrived,
    Prove,
    Publish,
    Subscribe,
    Tick,
    Unsubscribe,
)
from edge.store import Store
from shared.clock import HOUR_US, parse_instant_us, to_datetime
from shared.errors import ModelRefused, StateError
from shared.manifest import VERSION_AT_MOST, Manifest, pack
from shared.messages import Desired
from shared.refusals import Cause
from tests.bad_models import failing_model
from tests.small_model import manifest_of, small_manifest
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading
from tests.unit.models_desk import (
    DESIRED,
    SETTINGS,
    big,
    deliver,
    fail,
    install,
    last_report,
    next_forecast,
    want,
)


def test_a_desired_model_is_fetched_checked_swapped_in_and_reported(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=3)
    effects = want(desk, manifest)
    assert Subscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects
    assert next_forecast(desk)["rung"] == "profile_mean"
    deliver(desk, manifest, chunks)
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in desk.effects
    assert last_report(desk)["champion"]["version"] == 3
    forecast = next_forecast(desk)
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
    install(desk, *small_manifest(zone=zone))
    assert next_forecast(desk)["quality"]["flags"] == flags


def test_no_origin_is_missed_across_a_swap(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    before = len(desk.of_topic("forecasts/m1"))
    next_forecast(desk)
    want(desk, manifest)
    next_forecast(desk)
    deliver(desk, manifest, chunks)
    next_forecast(desk)
    origins = [forecast["origin"] for forecast in desk.of_topic("forecasts/m1")]
    assert len(origins) == before + 3
    assert len(set(origins)) == len(origins)


def test_a_restart_serves_the_model_at_once(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=2))
    desk.restart()
    assert next_forecast(desk)["model"]["version"] == 2


def test_a_model_whose_file_was_damaged_on_disk_is_fetched_again_and_never_refused(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=2)
    install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    forecast = next_forecast(desk)
    assert forecast["rung"] == "profile_mean"
    assert "model 2: its file on disk was damaged or gone" in forecast["reason"]
    assert desk.node.models.stalled() == [
        Subscribe(f"metercast/artifacts/{manifest.sha256}/+")
    ]  # though none desires it
    deliver(desk, manifest, chunks)
    assert next_forecast(desk)["rung"] == "champion"
    assert last_report(desk)["refused"] == []


def test_a_model_whose_file_was_lost_comes_back_though_the_one_before_stands_in_for_it(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    manifest, chunks = small_manifest(version=2, seed=2)
    install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").unlink()
    for _ in range(2):
        desk.restart()
        assert next_forecast(desk)["model"]["version"] == 1
    install(desk, manifest, chunks)
    assert next_forecast(desk)["model"]["version"] == 2


def test_the_challenger_runs_in_the_shadow_and_is_scored_beside_the_champion(desk: EdgeAtDesk) -> None:
    old, old_chunks = small_manifest(version=1)
    new, new_chunks = small_manifest(version=2, seed=2)
    install(desk, old, old_chunks)
    want(desk, new, challenger=old)
    deliver(desk, new, new_chunks)
    for _ in range(3):
        next_forecast(desk)
    assert desk.of_topic("forecasts/m1")[-1]["model"]["version"] == 2
    shadow = desk.of_topic("shadow/m1")[-1]
    assert (shadow["rung"], shadow["model"]["version"]) == ("challenger", 1)
    roles = {(score["role"], score["model_version"]) for score in desk.rows("scores") if score["rung"] == "champion"}
    assert {("champion", 2), ("challenger", 1)} <= roles


def test_the_champion_and_the_one_before_stay_on_disk_and_older_ones_go(desk: EdgeAtDesk) -> None:
    manifests = [small_manifest(version=version, seed=version) for version in (1, 2, 3)]
    for manifest, chunks in manifests:
        install(desk, manifest, chunks)
    on_disk = {path.name for path in (desk.folder / "models").iterdir()}
    assert on_disk == {f"{manifest.sha256}.onnx" for manifest, _ in manifests[1:]}


@pytest.mark.parametrize(
    "payload", [b"", b"{", b'{"schema": 99, "champion": null}', b'{"champion": {"name": 1}}', b"\xff"]
)
def test_a_desired_message_that_cannot_be_read_is_a_dead_letter_and_changes_nothing(
    desk: EdgeAtDesk, payload: bytes
) -> None:
    install(desk, *small_manifest(version=1))
    desk.tell(DesiredArrived(DESIRED, payload))
    assert desk.dead_letters[-1]["topic"] == DESIRED
    assert next_forecast(desk)["model"]["version"] == 1


@pytest.mark.parametrize("version", ["0", "2147483648", "1e300", "1" + "0" * 400, "NaN", "null", '"one"'])
def test_a_version_that_cannot_be_kept_is_a_dead_letter(desk: EdgeAtDesk, version: str) -> None:
    payload = Desired(champion=small_manifest(version=7)[0]).encode().decode()
    desk.tell(DesiredArrived(DESIRED, payload.replace('"version":7', f'"version":{version}').encode()))
    assert "champion.version" in desk.dead_letters[-1]["reason"] or "JSON" in desk.dead_letters[-1]["reason"]
    assert not desk.of_topic("models/reported")


def test_the_last_version_there_can_be_serves_and_is_scored(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=VERSION_AT_MOST))
    for _ in range(3):
        assert next_forecast(desk)["model"]["version"] == VERSION_AT_MOST
    assert VERSION_AT_MOST in {row["model_version"] for row in desk.rows("scores")}


def test_what_was_said_against_the_running_model_is_no_longer_said_once_it_is_desired_as_it_is(
    desk: EdgeAtDesk,
) -> None:
    manifest, chunks = small_manifest()
    install(desk, manifest, chunks)
    want(desk, manifest.model_copy(update={"record_version": 99}))
    assert [one["reason"] for one in last_report(desk)["refused"]] == ["bad_signature"]
    want(desk, manifest)
    assert last_report(desk)["refused"] == []


def _in_shadow(desk: EdgeAtDesk) -> bool:
    """Whether a model forecasts beside the champion."""
    return desk.node.models.lineup.challenger is not None


def test_one_model_in_both_roles_forecasts_once_also_after_a_restart_or_a_step_back(desk: EdgeAtDesk) -> None:
    old, bad = small_manifest(version=1), small_manifest(version=2, seed=2)
    install(desk, *old)
    want(desk, bad[0], challenger=old[0])
    deliver(desk, *bad)
    assert _in_shadow(desk)
    desk.node.models.fail("champion", ModelRefused(Cause.FAILED_RUNNING, "test"), to_datetime(START_US))
    for _ in range(2):
        assert next_forecast(desk)["model"]["version"] == 1
        assert desk.node.models.challenger is not None
        assert not _in_shadow(desk)
        desk.restart()


def test_what_is_reported_is_retained(desk: EdgeAtDesk) -> None:
    report = desk.node.models.report()
    assert isinstance(report, Publish)
    assert report.retain
    assert json.loads(report.payload)["champion"] is None


def test_where_the_champions_file_is_damaged_the_one_before_serves_until_it_has_come_again(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    manifest, chunks = small_manifest(version=2, seed=2)
    install(desk, manifest, chunks)
    (desk.folder / "models" / f"{manifest.sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    assert next_forecast(desk)["model"]["version"] == 1
    want(desk, manifest)
    assert last_report(desk)["refused"] == []  # the disk's fault: central would count it against the version
    assert (desk.node.models.lost, desk.node.models.refused.counts) == (1, {})
    deliver(desk, manifest, chunks)
    assert next_forecast(desk)["model"]["version"] == 2
    assert last_report(desk)["refused"] == []


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
    install(desk, *small_manifest(version=1))
    install(desk, *_failing(2))
    assert next_forecast(desk)["model"]["version"] == 2
    forecast = _leap(desk)
    assert (forecast["rung"], forecast["model"]["version"]) == ("champion", 1)
    assert [row["event"] for row in desk.rows("events")] == ["champion_failed"]
    assert [(one["version"], one["reason"]) for one in last_report(desk)["refused"]] == [(2, "failed_running")]


def test_with_none_before_it_the_other_rungs_serve_and_the_reason_says_what_failed(desk: EdgeAtDesk) -> None:
    install(desk, *_failing(2))
    next_forecast(desk)
    forecast = _leap(desk)
    assert forecast["rung"] == "profile_mean"
    assert "model 2: the model gave no finite number" in forecast["reason"]
    assert "model 2: the model gave no finite number" in next_forecast(desk)["reason"]


def test_what_was_stepped_back_from_is_nothing_to_fall_back_on(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    install(desk, *small_manifest(version=3, seed=3))
    artifact, golden = failing_model(column="carried_6h", limit=2.0)
    install(desk, manifest_of(artifact, golden, 2, step_back_from=3), pack(artifact).chunks)
    assert next_forecast(desk)["model"]["version"] == 2
    assert _leap(desk)["rung"] == "profile_mean"


def test_a_challenger_that_fails_is_dropped_and_the_champion_goes_on(desk: EdgeAtDesk) -> None:
    champion, chunks = small_manifest(version=3)
    challenger, more = _failing(2)
    want(desk, champion, challenger=challenger)
    deliver(desk, champion, chunks)
    deliver(desk, challenger, more)
    assert last_report(desk)["challenger"]["version"] == 2
    assert _leap(desk)["model"]["version"] == 3
    assert last_report(desk)["challenger"] is None
    assert [row["event"] for row in desk.rows("events")] == ["challenger_failed"]


def test_a_champion_that_ended_three_processes_is_stepped_back_from_by_the_fourth(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    next_forecast(desk)
    install(desk, *small_manifest(version=2, seed=2))
    _end_in_the_first_round(desk, times=3)
    assert next_forecast(desk)["model"]["version"] == 1
    desk.tell(DesiredArrived(DESIRED, Desired(champion=small_manifest(version=2, seed=2)[0]).encode()))
    assert last_report(desk)["refused"][-1]["reason"] == "failed_running"


def test_two_power_cuts_in_a_row_while_it_is_loaded_or_first_runs_ban_no_champion(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    install(desk, *small_manifest(version=2, seed=2))
    _end_in_the_first_round(desk, times=2)
    for _ in range(2):  # and two more later, after a round was made
        assert next_forecast(desk)["model"]["version"] == 2
        assert json.loads(desk.store.facts["models"])["attempts"] == 0
        _end_in_the_first_round(desk, times=2)
    assert desk.node.models.refused.failed == []


def test_a_challenger_that_may_have_ended_three_processes_goes_before_the_champion_does(desk: EdgeAtDesk) -> None:
    first, second, shadow = (small_manifest(version=version, seed=version) for version in (1, 2, 3))
    install(desk, *first)
    install(desk, *second)
    want(desk, second[0], challenger=shadow[0])
    deliver(desk, *shadow)
    assert last_report(desk)["challenger"]["version"] == 3
    next_forecast(desk)
    _end_in_the_first_round(desk, times=3)
    assert next_forecast(desk)["model"]["version"] == 2
    want(desk, second[0], challenger=shadow[0])
    assert last_report(desk)["challenger"] is None
    assert [(one["version"], one["reason"]) for one in last_report(desk)["refused"]] == [(3, "failed_running")]
    _end_in_the_first_round(desk, times=3)
    assert next_forecast(desk)["model"]["version"] == 1


def _end_in_the_first_round(desk: EdgeAtDesk, *, times: int) -> None:
    """The round is begun, as the state on disk says, and never ended."""
    desk.restart()
    hour = (desk.node.clock.latest_us - START_US) // HOUR_US + 1
    for attempt in range(times):
        desk.send(("m1", reading(hour + attempt, 1.0)), tick=False)
        desk.tell(Tick(caught_up=True))
        desk.restart()


# -- order of versions -------------------------------------------------------------------------------------------------


def test_an_older_version_is_refused_also_after_a_restart(desk: EdgeAtDesk) -> None:
    old, new = small_manifest(version=1), small_manifest(version=2, seed=2)
    install(desk, *old)
    install(desk, *new)
    for _ in range(2):
        want(desk, old[0])
        assert last_report(desk)["refused"][-1]["reason"] == "version_not_newer"
        assert next_forecast(desk)["model"]["version"] == 2
        desk.restart()


def test_a_signed_step_back_runs_at_once_and_can_not_be_replayed_nor_what_it_is_from(desk: EdgeAtDesk) -> None:
    old, bad, newer = (small_manifest(version=version, seed=version) for version in (1, 2, 3))
    back = small_manifest(version=1, seed=1, step_back_from=2, reason="step back")[0]
    install(desk, *old)
    install(desk, *bad)
    want(desk, back)
    assert next_forecast(desk)["model"]["version"] == 1
    want(desk, bad[0])
    assert last_report(desk)["refused"][-1]["reason"] == "version_not_newer"
    install(desk, *newer)
    want(desk, back)
    assert [refusal["reason"] for refusal in last_report(desk)["refused"]] == ["version_not_newer"] * 2
    assert next_forecast(desk)["model"]["version"] == 3


def test_a_version_that_was_stepped_back_from_before_it_came_here_can_not_be_replayed(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    want(desk, small_manifest(version=1, step_back_from=2)[0])
    for _ in range(2):
        install(desk, *small_manifest(version=2, seed=2))
        assert last_report(desk)["refused"][-1]["reason"] == "version_not_newer"
        assert next_forecast(desk)["model"]["version"] == 1
        desk.restart()
    install(desk, *small_manifest(version=3, seed=3))
    assert next_forecast(desk)["model"]["version"] == 3


def test_a_version_whose_file_was_lost_can_not_be_replayed_once_it_was_stepped_back_from(desk: EdgeAtDesk) -> None:
    bad = small_manifest(version=2, seed=2)
    install(desk, *small_manifest(version=1))
    install(desk, *bad)
    (desk.folder / "models" / f"{bad[0].sha256}.onnx").unlink()
    desk.restart()
    want(desk, small_manifest(version=1, step_back_from=2)[0])
    for _ in range(2):
        install(desk, *bad)
        assert last_report(desk)["refused"][-1]["reason"] == "version_not_newer"
        assert next_forecast(desk)["model"]["version"] == 1
        desk.restart()


def test_what_was_told_of_a_running_models_manifest_is_lifted_when_it_is_signed_anew(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    install(desk, manifest, chunks)
    later_us = parse_instant_us("2026-07-01T00:00:00Z")
    for known, told in ((manifest, ["expired"]), (small_manifest(expires="2026-08-01T00:00:00Z")[0], [])):
        desk.tell_at_once(DesiredArrived(DESIRED, Desired(champion=known).encode()), later_us)
        assert [refusal["reason"] for refusal in last_report(desk)["refused"]] == told
        assert last_report(desk)["champion"]["version"] == 1


def test_a_champion_that_is_not_named_goes_on_and_one_that_is_withdrawn_never_comes_back(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=1)
    install(desk, manifest, chunks)
    want(desk, None)
    assert next_forecast(desk)["model"]["version"] == 1
    want(desk, small_manifest(version=1, withdrawn=True)[0])
    assert last_report(desk)["refused"][-1]["reason"] == "withdrawn"
    for _ in range(2):
        assert next_forecast(desk)["rung"] == "profile_mean"
        install(desk, manifest, chunks)
        desk.restart()
    install(desk, *small_manifest(version=2, seed=2))
    assert next_forecast(desk)["model"]["version"] == 2


def test_what_is_withdrawn_is_run_in_no_role_and_not_fallen_back_on(desk: EdgeAtDesk) -> None:
    gone, bad = small_manifest(version=1), _failing(2)
    install(desk, *gone)
    want(desk, bad[0], challenger=gone[0])
    deliver(desk, *bad)
    want(desk, small_manifest(version=1, step_back_from=2, withdrawn=True)[0], challenger=gone[0])
    assert [last_report(desk)[role] and last_report(desk)[role]["version"] for role in ("champion", "challenger")] == [
        2,
        None,
    ]
    assert next_forecast(desk)["model"]["version"] == 2
    assert _leap(desk)["rung"] == "profile_mean"


def test_a_manifest_signed_anew_is_taken_over_without_another_proof_or_swap(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    desk.proves = False
    want(desk, small_manifest(version=1, expires="2026-07-01T00:00:00Z", sites=["desk"])[0])
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

    install(desk, *small_manifest(version=1))
    want(desk, both("champion")[0], challenger=both("challenger")[1])
    deliver(desk, *small_manifest(version=2, seed=2))
    desk.proves = False
    effects = want(desk, both("champion")[1], challenger=both("challenger")[0])
    assert not [effect for effect in effects if isinstance(effect, Subscribe | Prove)]
    assert [last_report(desk)[role]["version"] for role in ("champion", "challenger")] == [2, 1]
    assert last_report(desk)["refused"] == []


def test_an_artifact_that_failed_is_not_stepped_back_to_under_its_older_version(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=1)
    install(desk, manifest, chunks)
    want(desk, small_manifest(version=2)[0], challenger=manifest)
    assert last_report(desk)["champion"]["version"] == 2
    fail(desk, "champion")
    assert next_forecast(desk)["rung"] == "profile_mean"
    assert not desk.node.models.challenger


def test_the_log_says_once_which_model_was_refused_and_why_and_which_runs(
    desk: EdgeAtDesk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="edge")
    install(desk, *small_manifest(version=2))
    older, _ = small_manifest(version=1, seed=2)
    for _ in range(2):
        want(desk, older)
    runs, refused = (line for line in caplog.records if line.message in ("model runs", "model refused"))
    assert (runs.levelname, vars(runs)["role"], vars(runs)["version"]) == ("INFO", "champion", 2)
    assert (refused.levelname, vars(refused)["version"], vars(refused)["reason"]) == ("WARNING", 1, "version_not_newer")


def test_without_room_on_disk_at_the_start_the_champion_serves_all_the_same(
    desk: EdgeAtDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(desk, *small_manifest())

    def full(*_given: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", full)
        desk.restart()
    assert desk.node.models.is_unwritten
    assert next_forecast(desk)["rung"] == "champion"
    assert not desk.node.models.is_unwritten


# -- champions that are stopped before they ran ------------------------------------------------------------------------


def test_an_edge_that_is_stopped_while_it_takes_a_backlog_in_holds_nothing_against_its_champion(
    desk: EdgeAtDesk,
) -> None:
    install(desk, *small_manifest())
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
    assert next_forecast(desk)["rung"] == "profile_mean"
    install(desk, *small_manifest())
    assert next_forecast(desk)["rung"] == "champion"


def test_the_facts_of_an_earlier_and_of_a_later_release_are_read(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest(version=2)
    install(desk, manifest, chunks)
    champion = json.loads(desk.store.facts["models"])["champion"]
    for name in ("signatures", "step_back_from", "withdrawn"):
        del champion["manifest"][name]
    desk.store.commit(Changes(facts={"models": json.dumps({"champion": champion})}), desk.node.site)
    desk.restart()
    assert next_forecast(desk)["model"]["version"] == 2
    want(desk, small_manifest(version=1, seed=2)[0])
    assert last_report(desk)["refused"][-1]["reason"] == "version_not_newer"
    failed = {"sha256": manifest.sha256, "version": 2, "reason": "a_later_word", "at": "2026-01-05T00:00:00Z"}
    desk.store.commit(Changes(facts={"models": json.dumps({"failed": [failed]})}), desk.node.site)
    desk.restart()
    install(desk, manifest, chunks)
    assert next_forecast(desk)["rung"] == "profile_mean"


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
    install(desk, *small_manifest(version=1))
    next_forecast(desk)
    manifest, chunks = big(version=2)
    _cut_short(desk, after)
    with suppress(Killed):
        install(desk, manifest, chunks)
        next_forecast(desk)
    vars(desk).pop("carry_out")
    desk.restart()
    desk.tick()
    model = next_forecast(desk)["model"]
    assert model["version"] in (1, 2)
    install(desk, manifest, chunks)
    assert next_forecast(desk)["model"]["version"] == 2
    origins = sorted({forecast["origin"] for forecast in desk.of_topic("forecasts/m1")})
    hours = [parse_instant_us(origin) // HOUR_US for origin in origins]
    assert hours == list(range(hours[0], hours[-1] + 1))
    assert {path.suffix for path in (desk.folder / "models").iterdir()} == {".onnx"}
