"""Intervals from elsewhere: history loaded by hand, and what central gives back to an edge that lost its disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.effects import HistoryArrived, NumbersInDoubt, ReadingsArrived, RestoreArrived, Tick
from shared.clock import HOUR_US, iso
from shared.messages import RESTORE_WANTED, Restore, RestoredMeter, Status
from shared.packets import Incoming
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

BACKFILL = "metercast/desk/backfill/m1"
RESTORE = "metercast/desk/restore"


@pytest.fixture
def desk(tmp_path: Path) -> EdgeAtDesk:
    return EdgeAtDesk(tmp_path / "edge")


def _backfill(desk: EdgeAtDesk, content: Any, topic: str = BACKFILL) -> None:
    payload = json.dumps(content).encode()
    desk.tell(HistoryArrived((Incoming(topic, payload, len(payload)),)))


def _restore(
    desk: EdgeAtDesk,
    meters: dict[str, list[float | None]],
    *,
    hour: int = 0,
    wall_us: int = START_US,
    **more: Any,
) -> None:
    held = {name: RestoredMeter(first=iso(START_US + hour * HOUR_US), load_kw=load) for name, load in meters.items()}
    facts = {"site": "desk", "epoch": desk.node.uplink.epoch, "step_s": 3600, **more}
    desk.tell(RestoreArrived(RESTORE, Restore(meters=held, **facts).compress()), wall_us)


def _loads(desk: EdgeAtDesk, hours: int, meter: str = "m1") -> list[float | None]:
    row = desk.node.site.meters.by_name[meter].row
    loads = desk.node.site.window.before(np.array([row]), START_US // HOUR_US + hours)[0, -hours:]
    return [None if np.isnan(load) else float(load) for load in loads]


def _arrived(meter: str, content: Any) -> ReadingsArrived:
    payload = json.dumps(content).encode()
    return ReadingsArrived((Incoming(f"metercast/desk/readings/{meter}", payload, len(payload)),))


def _status(desk: EdgeAtDesk) -> Status:
    return desk.node.status(instance="i", started_at=iso(START_US), version="0")


def test_history_of_a_meter_that_serves_fills_what_is_missing_and_leaves_the_rest(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(48, 9.0)), ("m1", reading(49, 9.0)))
    watermark = desk.node.clock.latest_us
    _backfill(desk, [reading(hour, 1.0 + hour % 24) for hour in range(60)])
    assert _loads(desk, 50) == [1.0 + hour % 24 for hour in range(48)] + [9.0, 9.0]
    assert desk.node.clock.latest_us == watermark
    assert int(desk.node.site.window.closed[0]) == START_US // HOUR_US + 50
    assert len(desk.rows("readings")) == 62


def test_history_of_a_new_meter_makes_it_known_without_moving_the_sites_clock(desk: EdgeAtDesk) -> None:
    desk.send(("other", reading(100, 1.0)))
    _backfill(desk, [reading(hour, 2.0) for hour in range(24)])
    assert _loads(desk, 24) == [2.0] * 24
    desk.send(("m1", reading(30, 5.0)))
    assert _loads(desk, 31) == [2.0] * 24 + [None] * 6 + [5.0]
    desk.restart()
    assert _loads(desk, 31) == [2.0] * 24 + [None] * 6 + [5.0]


def test_live_intervals_are_the_same_with_history_between_them_as_without(tmp_path: Path) -> None:
    loads = []
    for name in ("with", "without"):
        desk = EdgeAtDesk(tmp_path / name)
        for hour in range(200, 230):
            desk.send(("m1", reading(hour, float(hour))))
            if name == "with" and hour % 7 == 0:
                _backfill(desk, [reading(h, 0.5) for h in range(hour - 100, hour + 3)])
        loads.append(_loads(desk, 230)[-30:])
    assert loads[0] == loads[1] == [float(hour) for hour in range(200, 230)]


def test_a_late_reading_does_not_thin_out_an_interval_that_history_made_whole(desk: EdgeAtDesk) -> None:
    quarters = [reading(hour + q / 4, 0.5, period_s=900) for hour in range(4) for q in range(4)]
    _backfill(desk, quarters)
    desk.send(("m1", reading(5, 1.0)))
    desk.send(("m1", reading(3.5, 0.5, period_s=900)))  # alone it covers a quarter of its hour
    assert _loads(desk, 6) == [2.0, 2.0, 2.0, 2.0, None, 1.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"value": 1.0, "unit": "kW"}, "history needs ts"),
        (reading(0, 1.0, ts="1999-01-01T00:00:00Z"), "older than grid.max_age"),
        ({"value": "x"}, "value is str"),
    ],
)
def test_wrong_history_is_a_dead_letter(desk: EdgeAtDesk, content: Any, reason: str) -> None:
    desk.send(("other", reading(0, 1.0)))
    _backfill(desk, content)
    (letter,) = desk.dead_letters
    assert reason in letter["reason"]
    assert letter["topic"] == BACKFILL


def test_an_empty_edge_asks_for_its_intervals_until_all_parts_have_come(desk: EdgeAtDesk) -> None:
    assert RESTORE_WANTED in _status(desk).reasons
    assert _status(desk).state == "online"
    _restore(desk, {"m1": [1.0, None, 3.0]}, part=1, parts=2)
    assert RESTORE_WANTED in _status(desk).reasons
    _restore(desk, {"m2": [7.0]}, part=2, parts=2)
    assert RESTORE_WANTED not in _status(desk).reasons
    assert _loads(desk, 3) == [1.0, None, 3.0]
    desk.restart()
    assert _status(desk).reasons == []
    assert (_loads(desk, 3), _loads(desk, 1, "m2")) == ([1.0, None, 3.0], [7.0])


def test_what_was_measured_since_is_not_overwritten_by_what_is_given_back(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(3, 5.0)), ("m1", reading(4, 6.0)))
    _restore(desk, {"m1": [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]})
    assert _loads(desk, 5) == [1.0, 2.0, 3.0, 5.0, 6.0]


def test_a_forecast_stands_on_the_intervals_given_back(desk: EdgeAtDesk) -> None:
    _restore(desk, {"m1": [float(hour % 24) for hour in range(24 * 8)]})
    desk.send(("m1", reading(24 * 8, 0.0)))
    forecast = desk.of_topic("forecasts/m1")[-1]
    assert forecast["rung"] == "profile_mean"
    assert forecast["quantiles"]["0.5"][:3] == [1.0, 2.0, 3.0]


def test_a_disk_image_of_yesterday_is_given_what_it_lacks_once_the_broker_has_told_its_share(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    at_us, later_us = START_US + 4 * HOUR_US, START_US + 27 * HOUR_US
    desk.send(*[("m1", reading(hour, 2.0)) for hour in range(5)], wall_us=at_us)
    _restore(desk, {"m1": [1.0]}, wall_us=at_us)
    assert _status(desk).reasons == []
    desk.restart()
    desk.tell_at_once(NumbersInDoubt(), later_us)
    desk.tell_at_once(Tick(caught_up=False), later_us)
    assert _status(desk).reasons == []
    desk.tell_at_once(Tick(caught_up=True), later_us)
    assert _status(desk).reasons == [RESTORE_WANTED]
    _restore(desk, {"m1": [9.0] * 26}, wall_us=later_us)
    assert _status(desk).reasons == []
    assert _loads(desk, 26) == [2.0] * 5 + [9.0] * 21


def test_what_is_meant_for_another_epoch_changes_nothing(desk: EdgeAtDesk) -> None:
    _restore(desk, {"m1": [1.0]}, epoch="other")
    assert desk.node.site.rows == 0
    assert RESTORE_WANTED in _status(desk).reasons


def test_what_is_on_another_grid_is_a_dead_letter(desk: EdgeAtDesk) -> None:
    _restore(desk, {"m1": [1.0]}, step_s=900)
    desk.tell(RestoreArrived(RESTORE, b"no gzip"))
    assert [letter["topic"] for letter in desk.dead_letters] == [RESTORE, RESTORE]
    assert "step_s 900 is not ours, 3600" in desk.dead_letters[0]["reason"]


def test_a_meter_whose_first_readings_come_in_disorder_is_forecast_from_them_at_once(desk: EdgeAtDesk) -> None:
    desk.send(("other", reading(10, 1.0)))
    desk.send(("m1", {"ts": iso(START_US + 10 * HOUR_US), "value": 5.0, "unit": "kW"}))
    assert desk.of_topic("forecasts/m1") == []
    desk.send(("m1", reading(8, 3.0)))
    (forecast,) = desk.of_topic("forecasts/m1")
    assert forecast["origin"] == iso(START_US + 10 * HOUR_US)
    assert forecast["quantiles"]["0.5"][0] == 3.0


def test_history_that_reaches_beyond_what_is_closed_costs_no_older_day_on_disk(desk: EdgeAtDesk) -> None:
    desk.send(("m1", [reading(hour, 1.0 + hour % 7) for hour in range(24 * 36) if hour != 24 * 35]))
    _backfill(desk, [reading(hour, 5.0) for hour in range(24 * 35 - 5, 24 * 60)])
    before = _loads(desk, 24 * 35)
    desk.restart()
    assert None not in before[-24:]
    assert _loads(desk, 24 * 35) == before


def test_a_meter_that_was_silent_for_longer_than_the_ring_leaves_no_day_behind_on_disk(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", ("clock=wall",))
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(1, 1.0)), wall_us=START_US + 3 * HOUR_US)
    much_later_us = START_US + 3 * 365 * 24 * HOUR_US
    desk.node.clock.tell(much_later_us)
    desk.tell_at_once_and_believe(much_later_us)
    desk.tell_at_once(_arrived("m1", [reading(3 * 365 * 24 - 2, 1.0)]), much_later_us)
    days = {day for (day,) in desk.store._db.execute("SELECT day FROM history")}
    assert days
    assert min(days) * 24 * HOUR_US > much_later_us - 60 * 24 * HOUR_US


def test_an_edge_killed_between_two_parts_still_wants_the_rest_when_it_starts_again(desk: EdgeAtDesk) -> None:
    _restore(desk, {"m1": [1.0, 2.0]}, part=1, parts=2)
    desk.restart()
    desk.tick()
    assert RESTORE_WANTED in _status(desk).reasons
    _restore(desk, {"m1": [1.0, 2.0]}, part=1, parts=2)
    _restore(desk, {"m2": [3.0, 4.0]}, part=2, parts=2)
    assert _loads(desk, 2, "m2") == [3.0, 4.0]
    desk.restart()
    assert RESTORE_WANTED not in _status(desk).reasons


def test_a_live_reading_before_central_has_answered_does_not_end_the_asking(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(30, 1.0)))
    desk.restart()
    _restore(desk, {"m1": [float(hour) for hour in range(30)]})
    assert _loads(desk, 30) == [float(hour) for hour in range(30)]


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "x" * 65])
def test_what_is_restored_under_a_name_that_is_no_meters_id_is_a_dead_letter(desk: EdgeAtDesk, name: str) -> None:
    _restore(desk, {"good": [1.0], name: [1.0]})
    assert desk.node.site.rows == 0
    assert "no id of a meter" in desk.dead_letters[-1]["reason"]


def test_a_restored_load_that_no_meter_can_have_is_missing(desk: EdgeAtDesk) -> None:
    _restore(desk, {"m1": [1e308, -1e308, 1e10, 1.0]})
    assert _loads(desk, 4) == [None, None, 1e10, 1.0]


def test_intervals_restored_from_a_far_future_are_taken_back_at_once(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", ("clock=wall",))
    _restore(desk, {"m1": [1.0] * 40}, hour=7900 * 365 * 24)
    began_s = time.process_time()
    desk.tick()
    assert time.process_time() - began_s < 20, "hour by hour it takes minutes"
    assert int(desk.node.site.window.closed[0]) <= START_US // HOUR_US + 2


def test_a_restored_meter_is_not_silent_before_it_could_say_anything(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", ("clock=wall",))
    _restore(desk, {"m1": [1.0] * 24}, hour=-30)
    desk.tick()
    assert desk.of_topic("forecasts/m1")
    assert not desk.rows("events")
    desk.tick(START_US + 15 * 24 * HOUR_US)
    assert [row["event"] for row in desk.rows("events")] == ["retired"]


def test_the_history_of_many_new_meters_at_once_stays_within_the_limit(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", ("edge.max_meters=3",))
    payload = json.dumps([reading(0, 1.0), reading(1, 1.0)]).encode()
    topics = [f"metercast/desk/backfill/m{number}" for number in range(10)]
    desk.tell(HistoryArrived(tuple(Incoming(topic, payload, len(payload)) for topic in topics)))
    assert desk.node.site.rows == 3
    assert len(desk.rows("readings")) == 6
    assert len(desk.dead_letters) == 14
