"""Every fault by its name: its schedule, the edge's settings for it; and `play`, which judges what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.faults import schedules
from tests.faults.checker import Verdict
from tests.faults.rig import Record, Rig, Stage
from tests.faults.schedules import Played


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault: how it is played, the edge's settings for it, and what stage it needs."""

    play: Callable[[Rig, random.Random, bool], Played]
    settings: tuple[str, ...] = ()
    bridged: bool = False
    skewed: bool = False


@dataclass(slots=True)
class Outcome:
    """One line of the soak's table."""

    scenario: str
    seed: int
    readings: int = 0
    letters: int = 0
    kills: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    notes: list[str] = field(default_factory=list)


def play(name: str, seed: int, stage: Stage, *, long: bool) -> Outcome:
    """Play one scenario for a site of its own on a running stage and judge it; raises AssertionError where it hangs."""
    scenario = SCENARIOS[name]
    outcome = Outcome(name, seed)
    begun_s = time.monotonic()
    rig = Rig(stage, f"{name}-{seed}", *scenario.settings, skewed=scenario.skewed)
    try:
        rig.start()
        played = scenario.play(rig, random.Random(f"{name}/{seed}"), long)
        outcome.verdict, record = rig.judge(played.compared)
        _judge_rows(outcome.verdict, len(record.letters), played.letter_rows_at_most)
        outcome.readings, outcome.letters = len(record.readings), sum(one.count for one in record.letters)
        outcome.notes = [*rig.notes, *_noted(rig, record)]
    finally:
        outcome.kills = rig.kills
        rig.stop()
    outcome.seconds = time.monotonic() - begun_s
    return outcome


def _judge_rows(verdict: Verdict, rows: int, at_most: int | None) -> None:
    if at_most is not None and rows > at_most:
        verdict.broken.append(f"at most {at_most} rows of dead letters; there are {rows}")


def _noted(rig: Rig, record: Record) -> Iterator[str]:
    """Reported, not owed: what the broker dropped (of all its clients), and what readers of the table must fold."""
    if forgotten := rig.forgotten(record):
        yield f"{forgotten} messages went with the broker"
    if dropped := rig.dropped_by_broker():
        yield f"the broker dropped {dropped}"
    if record.late_repeats:
        yield f"{record.late_repeats} readings older than the lateness were recorded again"


SCENARIOS: Final[dict[str, Scenario]] = {
    "edge-killed": Scenario(schedules.edge_killed),
    "broker-killed": Scenario(schedules.broker_killed),
    "forgetful-broker-killed": Scenario(schedules.forgetful_broker_killed),
    "broker-unreachable": Scenario(schedules.broker_unreachable),
    "central-unreachable": Scenario(schedules.central_unreachable),
    "bridge-cut": Scenario(schedules.central_unreachable, bridged=True),
    "disk-slow": Scenario(schedules.disk_slow),
    "disk-full": Scenario(schedules.disk_full),
    "clock-jumps": Scenario(schedules.clock_jumps, ("clock=wall", "grid.step=15min"), skewed=True),
    "flood": Scenario(schedules.flood, ("edge.batch=200",)),
    "garbage-meter": Scenario(schedules.garbage_meter),
    "many-ids": Scenario(schedules.many_ids, ("edge.max_meters=10",)),
}
