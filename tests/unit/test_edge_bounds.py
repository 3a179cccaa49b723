"""Bounds in every direction: what happens when one is reached, and that it is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from edge.effects import ForecastsConfirmed, Publish, ReadingsArrived, RestoreArrived, Tick
from edge.outbox import LETTERS
from edge.siteclock import BELIEVED_AFTER_US, MINUTE_US, SiteClock
from shared.clock import DAY_US, HOUR_US, iso
from shared.messages import MAX_REASON, Status, Uplink
from shared.packets import Incoming
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

YEAR_US = 365 * DAY_US


def _status(desk: EdgeAtDesk) -> Status:
    return desk.node.status(instance="i", started_at=iso(START_US), version="0")


def _many(hour: int, meters: int = 400) -> list[tuple[str, object]]:
    """A reading of each of many meters, that do not compress well."""
    return [(f"m{m}", reading(hour, round((hour * 7919 + m * 104729) % 1000003 / 7, 6))) for m in range(meters)]


# -- one dead letter ---------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_short_whatever_its_reason_quotes(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    facts = {"schema": 1, "site": "desk", "epoch": "e", "step_s": 3600}
    payload = json.dumps({**facts, "meters": {"x" * 1_000_000: None}}).encode()
    desk.tell(RestoreArrived("metercast/desk/restore", gzip.compress(payload)))
    assert len(desk.published[-1].payload) < 10_000
    assert len(desk.dead_letters[-1]["reason"]) == MAX_REASON


# -- the outbox --------------------------------------------------------------------------------------------------------


def test_a_full_outbox_gives_its_oldest_batches_up_for_one_gap_entry_that_counts_them(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("outbox.max_bytes=262144",))
    hours = 0
    while not desk.rows("gaps"):
        desk.send(*_many(hours), ("m1", b"{"), tick=False)
        hours += 1
    sent = 400 * hours
    waiting = desk.store.outbox_index()
    first = Uplink.decompress(desk.store.outbox_body(waiting[0][0]) or b"", "outbox")
    assert sum(size for _seq, size in waiting) <= 262_144
    assert {(row["from_seq"], row["to_seq"]) for row in desk.rows("gaps")} == {(1, first.seq)}
    assert [seq for seq, _size in waiting] == list(range(first.seq, desk.node.uplink.next_seq))
    lost = {row["meter_id"]: row["readings"] for row in desk.rows("gaps")}
    assert sum(lost.values()) - lost[LETTERS] + len(desk.rows("readings")) == sent
    assert lost[LETTERS] + len(desk.rows("dead_letters")) == hours
    assert _status(desk).state == "degraded"
    assert any("became a gap" in reason for reason in _status(desk).reasons)


def test_gaps_grow_together_and_their_counts_are_kept_over_restarts(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("outbox.max_bytes=262144",))
    hours = 150
    for hour in range(hours):
        desk.send(*_many(hour), tick=False)
        if hour % 40 == 0:
            desk.restart()
    lost = sum(row["readings"] for row in desk.rows("gaps"))
    assert lost > 0
    assert lost + len(desk.rows("readings")) == 400 * hours
    assert len({(row["from_seq"], row["to_seq"]) for row in desk.rows("gaps")}) == 1


def test_a_batch_under_way_is_not_given_up(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("outbox.max_bytes=262144",))
    desk.send(*_many(0), tick=False)
    assert desk.node.uplink.due(0.0, window=16, resend_after_s=60.0) == [1]
    while not desk.rows("gaps"):
        desk.send(*_many(1 + len(desk.store.outbox_index())), tick=False)
    assert desk.store.outbox_index()[0][0] == 1
    assert {row["from_seq"] for row in desk.rows("gaps")} == {2}


def test_the_status_tells_of_the_outbox_from_80_percent_on(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("outbox.max_bytes=262144",))
    hour = 0
    while desk.node.uplink.size_bytes < 0.8 * 262_144:
        assert _status(desk).state == "online"
        desk.send(*_many(hour), tick=False)
        hour += 1
    assert _status(desk).state == "degraded"
    assert "outbox is 8" in _status(desk).reasons[0]


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_beyond_a_rate_a_meters_dead_letters_are_counted_in_summaries_and_other_meters_keep_theirs(
    tmp_path: Path,
) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    desk.send(("bad", reading(0, 1.0)), ("good", reading(0, 1.0)))
    for batch in range(5):
        desk.send(*[("bad", b"junk %d" % (batch * 200 + n)) for n in range(200)], ("good", b"one slip %d" % batch))
    letters = desk.dead_letters
    bad = [letter for letter in letters if letter["topic"].endswith("/bad")]
    assert sum(letter["count"] for letter in bad) == 1000
    assert len(bad) == 20 + 5
    assert sum(letter["topic"].endswith("/good") for letter in letters) == 5
    assert len({letter["id"] for letter in letters}) == len(letters)
    assert sum(row["count"] for row in desk.rows("dead_letters")) == 1005
    assert any("dead_letters_per_minute" in reason for reason in _status(desk).reasons)


def test_a_minute_later_a_meters_dead_letters_are_told_one_by_one_again(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    desk.send(("bad", reading(0, 1.0)))
    desk.send(*[("bad", b"a%d" % n) for n in range(100)])
    desk.published.clear()
    desk.send(("bad", b"b"), ("bad", b"c"), wall_us=START_US + MINUTE_US)
    assert [letter["count"] for letter in desk.dead_letters] == [1, 1]


def test_endless_new_meter_ids_beyond_the_limit_share_one_rate_and_leave_nothing_behind(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("edge.max_meters=3",))
    desk.send(*[(f"m{n}", reading(0, 1.0)) for n in range(3)])
    for batch in range(10):
        desk.send(*[(f"attack{batch}-{n}", reading(1, 1.0)) for n in range(300)], ("m1", reading(1 + batch, 2.0)))
    assert sum(letter["count"] for letter in desk.dead_letters) == 3000
    assert len(desk.dead_letters) == 20 + 10
    assert desk.node.site.rows == 3
    assert "edge.max_meters is reached" in _status(desk).reasons
    assert len(desk.of_topic("forecasts/m1")) == 11


def test_a_known_meters_garbage_does_not_say_that_there_are_too_many_meters(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("edge.max_meters=1",))
    desk.send(("m1", reading(0, 1.0)))
    desk.send(("m1", b"{"))
    assert _status(desk).state == "online"
    desk.send(("m2", reading(0, 1.0)))
    assert "edge.max_meters is reached" in _status(desk).reasons


def test_endless_periods_are_refused_beyond_a_number(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    desk.send(
        *[("m1", [reading(0, 1.0, period_s=1 + n / 100) for n in range(k, k + 1000)]) for k in range(0, 6000, 1000)]
    )
    assert "combinations of unit and uneven period" in desk.dead_letters[0]["reason"]
    refused = len(desk.dead_letters)
    desk.send(("m2", [reading(0, 1.0, period_s=900), reading(0.25, 1.0, period_s=1800), reading(1, 1.0, unit="Wh")]))
    assert len(desk.dead_letters) == refused
    desk.send(("m1", {"ts": iso(START_US + HOUR_US), "value": 1.0, "unit": "kW"}))
    desk.send(("m1", reading(2, 1.0)))
    desk.restart()


# -- the clock ---------------------------------------------------------------------------------------------------------


def _ticking(clock: SiteClock, from_us: int, minutes: int) -> int:
    for minute in range(minutes):
        clock.tell(from_us + minute * MINUTE_US)
    return from_us + (minutes - 1) * MINUTE_US


@pytest.mark.parametrize("jump_us", [YEAR_US, -YEAR_US, 2 * HOUR_US, -2 * HOUR_US])
def test_a_jump_of_the_wall_clock_is_not_believed_while_meters_contradict_it(jump_us: int) -> None:
    clock = SiteClock("wall")
    at_us = _ticking(clock, START_US, 10)
    for minute in range(60):
        clock.tell(at_us + jump_us + minute * MINUTE_US)
        clock.weigh(at_us + minute * MINUTE_US)
        assert abs(clock.now_us - (at_us + minute * MINUTE_US)) <= MINUTE_US
    clock.tell(at_us + 60 * MINUTE_US)  # and back
    assert (clock.doubt_us, clock.now_us) == (0, at_us + 60 * MINUTE_US)


@pytest.mark.parametrize("jump_us", [YEAR_US, -YEAR_US])
def test_a_jump_is_believed_when_a_meter_agrees_or_when_nobody_says_otherwise_for_long(jump_us: int) -> None:
    agreed, silent = SiteClock("wall"), SiteClock("wall")
    for clock in (agreed, silent):
        clock.tell(_ticking(clock, START_US, 10) + jump_us)
        assert clock.doubt_us
    agreed.weigh(agreed.wall_us + MINUTE_US)
    assert agreed.now_us == agreed.wall_us
    _ticking(silent, silent.wall_us, BELIEVED_AFTER_US // MINUTE_US + 3)
    assert silent.now_us == silent.wall_us


def test_across_a_restart_time_may_pass_but_not_go_back() -> None:
    away = SiteClock("wall", wall_us=START_US)
    away.tell(START_US + 30 * DAY_US)
    assert away.now_us == START_US + 30 * DAY_US
    without_battery = SiteClock("wall", wall_us=START_US)
    without_battery.tell(0)
    assert without_battery.now_us == START_US


def test_in_a_replay_no_jump_of_the_wall_clock_makes_the_edge_degraded(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=event",))
    for hour in range(3):
        desk.send(("m1", reading(hour, 1.0)), wall_us=START_US + DAY_US)
    desk.tell_at_once(Tick(caught_up=True), START_US + 2 * DAY_US)  # a laptop that slept
    assert _status(desk).state == "online"


def test_an_edge_that_restarts_while_its_clock_is_a_year_behind_goes_on_from_what_it_believed(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(1, 2.0)), wall_us=START_US + 2 * HOUR_US)
    desk.node.clock.tell(START_US - YEAR_US)
    desk.tell_at_once(Tick(caught_up=True), START_US - YEAR_US)
    desk.send(("m1", reading(1.5, 2.0)), wall_us=START_US - YEAR_US)
    desk.restart()
    desk.tell_at_once(Tick(caught_up=True), START_US - YEAR_US + MINUTE_US)
    desk.send(("m1", reading(1, 2.0)), wall_us=START_US - YEAR_US + MINUTE_US)
    assert len(desk.rows("readings")) == 3
    assert desk.dead_letters == []


def test_while_the_wall_clock_is_a_year_ahead_and_back_meters_lose_no_interval_and_no_forecast(tmp_path: Path) -> None:
    clean, jumped = (EdgeAtDesk(tmp_path / name, settings=("clock=wall",)) for name in ("clean", "jumped"))
    ahead = range(30, 40)
    for hour in range(60):
        at_us = START_US + hour * HOUR_US + 5 * MINUTE_US
        clean.send(("m1", reading(hour - 1, float(hour))), wall_us=at_us)
        wall_us = at_us + (YEAR_US if hour in ahead else 0)
        if hour in (ahead.start, ahead.stop):
            jumped.tick(at_us + (YEAR_US if hour == ahead.stop else 0))
            jumped.node.clock.tell(wall_us)
        jumped.send(("m1", reading(hour - 1, float(hour))), wall_us=wall_us)
    assert _rows(clean) == _rows(jumped)
    assert jumped.dead_letters == []
    origins = [[forecast["origin"] for forecast in desk.of_topic("forecasts/m1")] for desk in (clean, jumped)]
    assert origins[0] == origins[1]


def _rows(desk: EdgeAtDesk) -> list[float]:
    window = desk.node.site.window
    loads: list[float] = window.load_kw[0, : window.width].tolist()
    return [load for load in loads if load == load]


def test_what_a_clock_that_ran_ahead_had_closed_is_taken_back_when_it_returns(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall", "forecast.retire_after=400d"))
    ahead_us = START_US + 100 * DAY_US
    desk.send(("m1", reading(0, 1.0)), wall_us=START_US + HOUR_US)
    desk.node.clock.doubt_us = 0
    desk.tick(ahead_us)
    assert int(desk.node.site.window.closed[0]) > START_US // HOUR_US + 2000
    back_us = START_US + 3 * HOUR_US + MINUTE_US
    desk.tell_at_once_and_believe(back_us)
    desk.send(("m1", reading(2, 7.0)), wall_us=back_us)
    assert desk.of_topic("forecasts/m1")[-1]["origin"] == iso(START_US + 3 * HOUR_US)
    desk.send(("m1", reading(3, 8.0)), wall_us=back_us + HOUR_US)
    assert desk.of_topic("forecasts/m1")[-1]["quantiles"]["0.5"][0] == (7.0 + 8.0) / 2


def _send_timeless(desk: EdgeAtDesk, mid: int, wall_us: int) -> None:
    body = b'{"value": 1.0, "unit": "kW"}'
    message = Incoming("metercast/desk/readings/m1", body, len(body), mid=mid)
    desk.tell_at_once(ReadingsArrived((message,)), wall_us)
    desk.tell_at_once(Tick(caught_up=True), wall_us)


def test_meters_that_take_our_time_are_no_evidence_for_it_and_go_on_when_it_is_set_right(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    for minute in range(0, 180, 10):
        _send_timeless(desk, minute, START_US + YEAR_US + minute * MINUTE_US)
    for minute in range(0, 360, 10):
        _send_timeless(desk, 1000 + minute, START_US + minute * MINUTE_US)
    now_us = START_US + 350 * MINUTE_US
    assert desk.node.clock.now_us == now_us
    assert not desk.dead_letters
    for _ in range(2):
        assert desk.rows("readings")[-1]["ts_us"] == now_us
        assert int(desk.node.site.window.closed[0]) == now_us // HOUR_US
        desk.restart()
        now_us += 10 * MINUTE_US
        _send_timeless(desk, 2000, now_us)


def _power(minute: float, value: float) -> dict[str, object]:
    return {"ts": iso(START_US + round(minute * MINUTE_US)), "value": value, "unit": "kW"}


def test_what_is_recent_by_a_meters_own_word_is_not_forgotten_while_its_clock_runs_ahead(tmp_path: Path) -> None:
    clean, ahead = (EdgeAtDesk(tmp_path / name, settings=("clock=wall",)) for name in ("clean", "ahead"))
    now_us = START_US + 4 * HOUR_US
    for desk in (clean, ahead):
        desk.send(("m1", [_power(minute, float(minute)) for minute in range(0, 240, 4)]), wall_us=now_us)
    ahead.restart()
    ahead.tell_at_once(Tick(caught_up=True), now_us + 3 * DAY_US)
    _send_timeless(ahead, 1, now_us + 3 * DAY_US)
    ahead.tell_at_once_and_believe(now_us + MINUTE_US)
    for desk in (clean, ahead):
        desk.send(("m1", [_power(240 + n / 10, 1.0) for n in range(9)]), wall_us=now_us + MINUTE_US)
        recorded = len(desk.rows("readings"))
        desk.send(("m1", _power(4, 4.0)), wall_us=now_us + MINUTE_US)  # its broker has it once more
        assert len(desk.rows("readings")) == recorded
        desk.send(("m1", _power(5, 1000.0)), wall_us=now_us + MINUTE_US)
    assert _rows(clean) == _rows(ahead)


def test_what_a_meter_sends_without_time_is_forgotten_though_it_once_told_one(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    desk.send(("m1", _power(0, 1.0)), wall_us=START_US)
    for number in range(1, 2000):
        _send_timeless(desk, number, START_US + number * 10 * MINUTE_US)
    assert len(desk.node.site.meters.by_name["m1"].ts_us) < 200


def test_intervals_that_have_not_begun_are_not_closed_by_a_reading_that_claims_to_cover_them(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    desk.send(("m1", reading(0, 24.0, period_s=86400)), wall_us=START_US)
    for _ in range(5):
        desk.tick(START_US + MINUTE_US)
    assert desk.node.counters["intervals", "reopened"] == 0
    assert int(desk.node.site.window.closed[0]) <= START_US // HOUR_US + 2


def _set_ahead_and_back(desk: EdgeAtDesk, ahead_us: int) -> Publish:
    """Returns the forecast made while the clock ran ahead."""
    desk.send(("m1", [reading(hour, 1.0) for hour in range(-200, 1)]), wall_us=START_US + HOUR_US)
    desk.tell_at_once_and_believe(START_US + HOUR_US + ahead_us)
    made = desk.published[-1]
    desk.tell_at_once_and_believe(START_US + 2 * HOUR_US)
    desk.send(("m1", reading(1, 1.0)), wall_us=START_US + 2 * HOUR_US)
    return made


def test_a_forecast_that_is_confirmed_after_its_clock_was_set_back_holds_up_no_later_one(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    made = _set_ahead_and_back(desk, 3 * DAY_US)
    assert made.forecast is not None
    assert made.forecast[1] > START_US // HOUR_US + 70
    desk.tell_at_once(ForecastsConfirmed((made.forecast,)), START_US + 2 * HOUR_US)
    desk.send(("m1", reading(2, 1.0)), wall_us=START_US + 3 * HOUR_US)
    desk.restart()
    desk.send(("m1", reading(3, 1.0)), wall_us=START_US + 4 * HOUR_US)
    assert desk.of_topic("forecasts/m1")[-1]["origin"] == iso(START_US + 4 * HOUR_US)


@pytest.mark.parametrize("ahead_hours", [100, 101])
def test_what_a_clock_that_ran_ahead_issued_takes_no_earlier_forecasts_place_after_a_restart(
    tmp_path: Path, ahead_hours: int
) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    _set_ahead_and_back(desk, ahead_hours * HOUR_US)
    desk.restart()
    desk.send(("m1", reading(2, 1.0)), wall_us=START_US + 3 * HOUR_US)
    assert 1 in {row["lead"] for row in desk.rows("scores") if row["valid_us"] == START_US + 2 * HOUR_US}
