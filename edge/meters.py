"""What the edge holds of each meter between readings and intervals.

Invariants: per meter and instant one reading is kept, the one received last; intervals close in order and only by the
meter's own later reading, by energy that covers them, or by silence; closing never runs more than the window's slack
ahead of the forecasts, so that no origin is skipped under the event clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from edge.dialects.native import Reading
from edge.window import NEVER, Window
from shared.grid import KINDS, GridRules, MeterReadings, covered_until_us, interval_loads

NO_INSTANT: Final = -(2**62)


@dataclass(slots=True)
class Meter:
    """One meter: its recent readings in time order, and how far they settle it."""

    name: str
    row: int
    instants_us: list[int] = field(default_factory=list)
    readings: dict[int, Reading] = field(default_factory=dict)
    settled_us: int = NO_INSTANT
    latest_us: int = NO_INSTANT

    def known(self, reading: Reading) -> Reading | None:
        """The reading of the same identity that is kept, if any."""
        return self.readings.get(reading.ts_us)

    def keep(self, reading: Reading) -> None:
        """Keep a reading; a correction takes the place of what was there."""
        if reading.ts_us not in self.readings:
            insort(self.instants_us, reading.ts_us)
        self.readings[reading.ts_us] = reading
        self.settled_us = max(self.settled_us, covered_until_us(reading.ts_us, reading.period_us, reading.kind))
        self.latest_us = max(self.latest_us, reading.ts_us)

    def forget_before(self, instant_us: int) -> None:
        """Drop readings older than `instant_us`."""
        gone = bisect_left(self.instants_us, instant_us)
        for ts_us in self.instants_us[:gone]:
            del self.readings[ts_us]
        del self.instants_us[:gone]

    def touched_us(self, ts_us: int, rules: GridRules) -> tuple[int, int]:
        """The stretch of time whose intervals a reading at `ts_us` may change: from its neighbour to its neighbour.

        It may cut short what the reading before it covered, so that one's old end counts too.
        """
        place = bisect_left(self.instants_us, ts_us)
        before_us = self.instants_us[place - 1] if place else ts_us
        after_us = self.instants_us[place + 1] if place + 1 < len(self.instants_us) else ts_us
        reach_us = max(rules.hold_us, self.readings[ts_us].period_us)
        return before_us, max(after_us, ts_us + reach_us, before_us + self.readings[before_us].period_us)

    def between(self, start_us: int, end_us: int, rules: GridRules) -> MeterReadings:
        """The readings whose segments may touch [start_us, end_us): those inside and one neighbour on each side."""
        reach_us = max(rules.hold_us, rules.max_gap_us)
        first = max(bisect_left(self.instants_us, start_us - reach_us) - 1, 0)
        last = bisect_left(self.instants_us, end_us) + 1
        chosen = [self.readings[ts_us] for ts_us in self.instants_us[first:last]]
        return MeterReadings(
            np.array([r.ts_us for r in chosen], dtype=np.int64),
            np.array([r.kilo_value for r in chosen], dtype=np.float64),
            np.array([r.period_us for r in chosen], dtype=np.int64),
            np.array([KINDS.index(r.kind) for r in chosen], dtype=np.int8),
        )


class Meters:
    """All meters of the site, their recent readings and their closed intervals."""

    def __init__(self, window: Window, rules: GridRules, *, lateness_us: int) -> None:
        self.window = window
        self.rules = rules
        self.lateness_us = lateness_us
        self.by_name: dict[str, Meter] = {}
        self.by_row: list[Meter] = []

    def add(self, name: str) -> Meter:
        """A new meter without history."""
        meter = Meter(name, self.window.add_row())
        self.by_name[name] = meter
        self.by_row.append(meter)
        return meter

    def close_until(self, meter: Meter, number: int) -> int:
        """Close the meter's intervals up to but not including `number`; returns how many."""
        first = int(self.window.closed[meter.row])
        count = number - first
        if count > 0:
            self.window.close(meter.row, self._loads(meter, first, count))
        return max(count, 0)

    def open_at(self, meter: Meter, first_us: int) -> None:
        """Begin a meter's intervals with the one that holds `first_us`."""
        self.window.closed[meter.row] = first_us // self.rules.step_us

    def settle(self, meter: Meter, not_beyond: int) -> int:
        """Close what the meter's own readings settle, at most up to interval `not_beyond`; returns how many."""
        return self.close_until(meter, min(meter.settled_us // self.rules.step_us, not_beyond))

    def revise(self, meter: Meter, ts_us: int) -> bool:
        """Take a late or corrected reading into the closed intervals it touches; returns whether any changed."""
        start_us, end_us = meter.touched_us(ts_us, self.rules)
        first = start_us // self.rules.step_us
        count = min(-(-end_us // self.rules.step_us), int(self.window.closed[meter.row])) - first
        if count <= 0:
            return False
        return bool(len(self.window.revise(meter.row, first, self._loads(meter, first, count))))

    def is_open(self, meter: Meter) -> bool:
        """Whether the meter has begun."""
        return int(self.window.closed[meter.row]) != NEVER

    def _loads(self, meter: Meter, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        step_us = self.rules.step_us
        readings = meter.between(first * step_us, (first + count) * step_us, self.rules)
        loads_kw, _completeness = interval_loads(readings, first * step_us, count, self.rules)
        return loads_kw

    def prune(self, meter: Meter, now_us: int) -> int:
        """Forget readings that can no longer change an interval; returns the instant before which they went.

        The last one before that stays: it may cover what comes after it.
        """
        closed_us = int(self.window.closed[meter.row]) * self.rules.step_us
        reach_us = max(self.rules.hold_us, self.rules.max_gap_us) + self.rules.step_us
        place = bisect_left(meter.instants_us, min(closed_us, now_us - self.lateness_us) - reach_us)
        keep_from_us = meter.instants_us[max(place - 1, 0)]
        meter.forget_before(keep_from_us)
        return keep_from_us
