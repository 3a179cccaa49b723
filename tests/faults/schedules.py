"""Faults as seeded schedules: each is played on a rig and leaves it running.

A schedule draws every decision from the chance it is given, so a seed gives the same one again; `long` makes it as
large as `make soak` wants it.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.salvage import DATABASE
from shared.clock import DAY_US, HOUR_US, SECOND_US, iso, to_us, wall_now
from tests.faults.broker import forgetful
from tests.faults.meters import START_US, Fleet, Publication, message
from tests.faults.rig import Rig

SLICE_H: Final = 4
RSS_GROWTH_AT_MOST_MB: Final = 64.0
FORECAST_WITHIN_S: Final = 60.0  # of seconds on an idle machine: less than a meter waits that is not served
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Played:
    """What a schedule leaves to judge: the meters that must not notice, and how many rows letters may take."""

    compared: tuple[str, ...]
    letter_rows_at_most: int | None = None


def fleet_of(chance: random.Random, meters: int = 6) -> Fleet:
    """A fleet with a seed of the schedule's own."""
    return Fleet(chance.randrange(10**9), [f"m{number}" for number in range(meters)])


def slices(fleet: Fleet, chance: random.Random, first_h: int = 0) -> Iterator[list[Publication]]:
    """The fleet's messages, a few hours at a time, for ever."""
    hour = first_h
    while True:
        yield fleet.hours(hour, SLICE_H, chance)
        hour += SLICE_H


# -- kills -------------------------------------------------------------------------------------------------------------


def edge_killed(rig: Rig, chance: random.Random, long: bool) -> Played:
    """Kill -9 of the edge at random instants: while it starts, takes, commits, acknowledges, forecasts."""
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    while rig.kills < (150 if long else 20):
        _let_work(rig, chance, next(hours))
        rig.kill_edge()
        rig.publish(next(hours))
        if chance.random() < 0.25:
            rig.edge.spawn()
            time.sleep(chance.uniform(0, 0.8))
            rig.kill_edge()
        rig.edge.start()
    return Played(fleet.names)


def _let_work(rig: Rig, chance: random.Random, publications: Sequence[Publication]) -> None:
    """Publish, and return at an instant of chance: any, or just when so many acknowledgements have passed."""
    acks_before = rig.proxy.acks
    rig.publish(publications)
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 0.4))
        return
    wanted, until_s = acks_before + chance.randint(1, len(publications)), time.monotonic() + 1.0
    while rig.proxy.acks < wanted and time.monotonic() < until_s:
        time.sleep(0.0005)


def _broker_killed(rig: Rig, chance: random.Random, long: bool) -> Played:
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    for _ in range(20 if long else 2):
        rig.publish_all(next(hours))
        time.sleep(chance.uniform(0, 1.5))
        rig.proxy.throttle(delay_s=chance.choice((0.0, 0.3)))  # so that the broker holds what the edge has not
        rig.publish(next(hours))
        time.sleep(chance.uniform(0, 0.3))
        rig.kill_broker()
        rig.proxy.restore()
    rig.publish_all(next(hours))
    return Played(fleet.names)


def broker_killed(rig: Rig, chance: random.Random, long: bool) -> Played:
    """Kill -9 of Mosquitto, which comes back with what it saved up to a second ago."""
    return _broker_killed(rig, chance, long)


def forgetful_broker_killed(rig: Rig, chance: random.Random, long: bool) -> Played:
    """Kill -9 of a Mosquitto that keeps nothing: no session, no queue, nothing retained."""
    broker = rig.stage.broker
    kept, broker.configuration = broker.configuration, forgetful(broker.configuration)
    try:
        return _broker_killed(rig, chance, long)
    finally:
        broker.configuration = kept


# -- networks ----------------------------------------------------------------------------------------------------------


def broker_unreachable(rig: Rig, chance: random.Random, long: bool) -> Played:
    """The edge's link is cut, or goes dead, while the meters go on for many hours of event time; then it is back."""
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    rig.publish_all(next(hours))
    for _ in range(6 if long else 1):
        how = chance.choice((rig.proxy.cut, rig.proxy.black_hole))
        rig.publish(next(hours))
        time.sleep(chance.uniform(0, 0.2))
        how()
        for _ in range(chance.randint(8, 20)):  # 32 to 80 hours
            rig.publish(next(hours))
        time.sleep(chance.uniform(0.5, 10 if long else 1))
        rig.proxy.throttle(delay_s=chance.choice((0.0, 0.01)))
        rig.proxy.restore()
    return Played(fleet.names)


def central_unreachable(rig: Rig, chance: random.Random, long: bool) -> Played:
    """The link to central is cut and comes back, again and again; what waited goes up, once."""
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    for _ in range(8 if long else 2):
        rig.publish(next(hours))
        time.sleep(chance.uniform(0, 0.3))
        rig.stage.to_central.cut()
        with _forecasts_go_on(rig, fleet):
            rig.publish_all(next(hours))
        time.sleep(chance.uniform(0, 5 if long else 0.5))
        rig.stage.to_central.restore()
    return Played(fleet.names)


@contextmanager
def _forecasts_go_on(rig: Rig, fleet: Fleet) -> Iterator[None]:
    """Expect that every meter has a newer forecast after what is published meanwhile."""
    before = {name: rig.newest_origin(name) for name in fleet.names}
    yield
    rig.expect(
        lambda: all(rig.newest_origin(name) > origin for name, origin in before.items()),
        "forecasts that go on without central",
    )


# -- disks -------------------------------------------------------------------------------------------------------------


def disk_slow(rig: Rig, chance: random.Random, long: bool) -> Played:
    """Commits that take seconds, and a process that hangs.

    Another process holds the database's write lock, shorter and longer than the edge waits for it: to the edge that is
    a disk that answers late. And all of the edge stops in bursts, as in writes that cannot be interrupted.
    """
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    rig.publish_all(next(hours))
    for hold_s in [chance.uniform(0.5, 8) for _ in range(6)] if long else [chance.uniform(5.3, 5.8)]:
        with _database_held(rig.edge.state), rig.no_acks("while nothing can be committed"):
            rig.publish_all(next(hours))
            time.sleep(hold_s)
    with _database_held(rig.edge.state):
        rig.publish_all(next(hours))
        time.sleep(chance.uniform(0.2, 0.4))
        rig.kill_edge()
    rig.edge.start()
    for _ in range(40 if long else 6):
        rig.publish(next(hours))
        time.sleep(chance.uniform(0, 0.2))
        with rig.edge.paused():
            time.sleep(chance.uniform(0, 0.3))
    return Played(fleet.names)


@contextmanager
def _database_held(state: Path) -> Iterator[None]:
    """Nobody else can write the database meanwhile; returns once that is so."""
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def disk_full(rig: Rig, chance: random.Random, long: bool) -> Played:
    """No room: nothing is acknowledged, log and status say so; with room it goes on by itself, or after a kill."""
    fleet = fleet_of(chance)
    hours = slices(fleet, chance)
    rig.expect(lambda: rig.state() == "online", "a status of online at the start")
    for _ in range(10 if long else 1):
        rig.publish_all(next(hours))
        rig.drain()
        with _disk_full(rig, hours) as heard:
            _expect_trouble_told(rig, hours, heard)
            time.sleep(chance.uniform(0, 3 if long else 0.3))
        rig.expect(lambda: rig.state() == "online", "a status of online with room again")
    rig.drain()
    with _disk_full(rig, hours):
        rig.kill_edge()
    rig.edge.start()
    return Played(fleet.names)


@contextmanager
def _disk_full(rig: Rig, hours: Iterator[list[Publication]]) -> Iterator[int]:
    """No room, and a commit has failed of it and is logged; gives how many statuses were heard before."""
    failures, heard = _said_failed(rig), len(rig.statuses())  # counted before, for what is under way may fail at once
    with rig.edge.disk_full():
        for _ in range(3):
            rig.publish_all(next(hours))
        rig.expect(lambda: _said_failed(rig) > failures, "a log line about the failed commit")
        yield heard


def _expect_trouble_told(rig: Rig, hours: Iterator[list[Publication]], heard: int) -> None:
    """Nothing is acknowledged, and the status says why."""
    with rig.no_acks("while the disk is full"):
        rig.publish_all(next(hours))
        rig.expect(
            lambda: any(one["state"] == "degraded" and one["reasons"] for one in rig.statuses()[heard:]),
            "a degraded status with a reason while the disk is full",
        )


def _said_failed(rig: Rig) -> int:
    return rig.edge.times_said("commit failed")


# -- floods ------------------------------------------------------------------------------------------------------------


def flood(rig: Rig, chance: random.Random, long: bool) -> Played:
    """Ten times what the edge takes, for a while: its memory stays bounded, the broker holds the rest."""
    burst = _burst(chance, [f"m{number}" for number in range(20)])
    _store_up(rig, burst, 1_000)
    sustainable = _taken_per_s(rig)
    rig.drain()
    before_mb = rig.edge.resident_mb()
    flood_s = 1.0 if long else 0.3
    sent = _store_up(rig, burst, round(10 * sustainable * flood_s))
    rig.notes.append(f"{sustainable:.0f}/s sustainable, flood of {sent} taken at {_taken_per_s(rig):.0f}/s")
    _expect_bounded(rig, before_mb)
    return Played(tuple(f"m{number}" for number in range(20)))


def _burst(chance: random.Random, names: Sequence[str]) -> Iterator[Publication]:
    """Power readings a second apart, for ever, one meter after the other."""
    for second in itertools.count():
        for name in names:
            yield message(name, (START_US + second * SECOND_US, round(chance.uniform(1, 5), 3)), unit="kW")


def _store_up(rig: Rig, burst: Iterator[Publication], messages: int) -> int:
    """Publish so many messages while the edge's link is dead; returns how many."""
    rig.proxy.black_hole()
    rig.publish_all(itertools.islice(burst, messages))
    return messages


def _taken_per_s(rig: Rig) -> float:
    """Let what is stored up flow, all at once; how many messages a second the edge acknowledges."""
    before, begun_s = rig.proxy.acks, time.monotonic()
    rig.proxy.restore()
    rig.wait_acknowledged()
    return (rig.proxy.acks - before) / (time.monotonic() - begun_s)


def garbage_meter(rig: Rig, chance: random.Random, long: bool) -> Played:
    """One meter sends garbage as fast as it can: all is answered, in few rows, and good meters do not wait."""
    fleet, wild = fleet_of(chance, meters=3), "wild"
    for hour in range(40 if long else 6):
        rig.publish(fleet.garbage(chance, wild) for _ in range(3_000 if long else 700))
        begun_s = time.monotonic()
        rig.publish_all(fleet.hours(hour, 1, chance))
        _expect_forecasts(rig, fleet, hour, begun_s)
    garbage = sum(not sent.publication.readings for sent in rig.sent)
    rig.notes.append(f"{garbage} of garbage")
    return Played(fleet.names, letter_rows_at_most=garbage // 4)


def _expect_forecasts(rig: Rig, fleet: Fleet, hour: int, begun_s: float) -> None:
    """The meter of hourly energy closes the hour with its own reading: its forecast has that end as origin."""
    origin = iso(START_US + (hour + 1) * HOUR_US)
    rig.expect(
        lambda: rig.newest_origin(fleet.names[0]) >= origin,
        f"a forecast of a good meter at {origin} in time",
        within_s=max(FORECAST_WITHIN_S - (time.monotonic() - begun_s), 0.1),
    )


def many_ids(rig: Rig, chance: random.Random, long: bool) -> Played:
    """An attacker invents meters by the thousand: those beyond the limit are refused in few rows, memory is bounded."""
    fleet = fleet_of(chance, meters=3)
    rig.publish_all(fleet.hours(0, SLICE_H, chance))
    rig.drain()
    before_mb, ids, hour = rig.edge.resident_mb(), 100_000 if long else 10_000, SLICE_H
    for first in range(0, ids, 1_000):
        ts_us = START_US + hour * HOUR_US
        rig.publish(message(f"x{first + n}", (ts_us, 1.0 + n), unit="kW") for n in range(1_000))
        begun_s = time.monotonic()
        rig.publish_all(fleet.hours(hour, 1, chance))
        _expect_forecasts(rig, fleet, hour, begun_s)
        hour += 1
    rig.drain()
    _expect_bounded(rig, before_mb)
    return Played(fleet.names, letter_rows_at_most=ids // 10)


def _expect_bounded(rig: Rig, before_mb: float) -> None:
    grown_mb = rig.edge.resident_mb() - before_mb
    rig.notes.append(f"the edge grew by {grown_mb:.0f} MB")
    if grown_mb > RSS_GROWTH_AT_MOST_MB:
        rig.expected.append(f"at most {RSS_GROWTH_AT_MOST_MB:g} MB more memory; it was {grown_mb:.0f}")


# -- clocks ------------------------------------------------------------------------------------------------------------


def clock_jumps(rig: Rig, chance: random.Random, long: bool) -> Played:
    """The edge's wall clock jumps a year ahead and back, or back and ahead, while readings go on at true time."""
    names = ("steady", "second")
    _publish_history(rig, chance, names)
    rig.expect(lambda: all(rig.newest_origin(name) for name in names), "first forecasts")
    jumps_s = [chance.choice((1, -1)) * chance.uniform(0.1, 400) * DAY_S for _ in range(6)]
    if not long:
        jumps_s = [chance.uniform(2, 9) * DAY_S, 365 * DAY_S, -365 * DAY_S]
    for jump_s in jumps_s:
        _live(rig, chance, names, seconds=0.3)
        _set_clock(rig, jump_s)
        _live(rig, chance, names, seconds=chance.uniform(1, 10) if long else 1.0)
        _set_clock(rig, 0.0)
        _live(rig, chance, names, seconds=0.7)
    for name in names:
        if any(not body for body in rig.said(rig.topics.forecast(name))):
            rig.expected.append(f"that {name} keeps its forecast; it was cleared")
    return Played(names)


def _publish_history(rig: Rig, chance: random.Random, names: tuple[str, ...]) -> None:
    """Five days up to now, one message a meter."""
    now_us = to_us(wall_now()) // SECOND_US * SECOND_US
    for name in names:
        instants = range(now_us - 5 * DAY_US, now_us, HOUR_US // 4)
        rig.publish_all([message(name, *((ts, round(chance.uniform(1, 2), 3)) for ts in instants), unit="kW")])


def _live(rig: Rig, chance: random.Random, names: tuple[str, ...], *, seconds: float) -> None:
    """Readings at true time for so long."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        now_us = to_us(wall_now()) // 1000 * 1000
        rig.publish([message(name, (now_us, round(chance.uniform(1, 2), 3)), unit="kW") for name in names])
        time.sleep(0.1)


def _set_clock(rig: Rig, off_s: float) -> None:
    assert rig.clock is not None
    fresh = rig.clock.with_suffix(".new")
    fresh.write_text(str(off_s))
    fresh.replace(rig.clock)
