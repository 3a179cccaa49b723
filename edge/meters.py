"""What the edge holds of each meter between readings and intervals.

Invariants: per meter and instant one reading is kept, the one received last; intervals close in order and only by the
meter's own later reading, by energy that covers them, or by silence; closing never runs more than the window's slack
ahead of the forecasts, so that no origin is skipped under the event clock.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edge.dialects.native import Reading
from edge.forms import Forms
from edge.window import NEVER, Window
from shared.grid import GridRules, MeterReadings, Span, intervals_of_many
from shared.params import MeterBinding

NO_INSTANT: Final = -(2**62)
PRUNED_FROM: Final = 64  # readings a meter may hold before the old ones are looked for


class Meter:
    """One meter: its recent readings in time order, as three columns, and how far they settle it."""

    __slots__ = (
        "binding",
        "form",
        "kinds",
        "latest_us",
        "name",
        "prune_at",
        "reach_us",
        "row",
        "settled_us",
        "ts_us",
        "value",
    )

    def __init__(self, name: str, row: int, binding: MeterBinding) -> None:
        self.name = name
        self.row = row
        self.binding = binding
        self.ts_us = array("q")
        self.value = array("d")
        self.form = array("H")
        self.settled_us = NO_INSTANT
        self.latest_us = NO_INSTANT
        self.reach_us = 0  # how far beyond its instant any reading kept may still say something
        self.kinds = 0  # a bit for each kind it has sent
        self.prune_at = PRUNED_FROM

    @property
    def is_mixed(self) -> bool:
        """Whether it has sent more than one kind: then the neighbour of a reading's own kind may be further away."""
        return self.kinds & (self.kinds - 1) != 0

    def append(self, reading: Reading, forms: Forms) -> int:
        """Keep a reading later than all that are kept; returns the instant of the one before it."""
        ts_us, value, form = reading
        before_us = self.ts_us[-1] if self.ts_us else NO_INSTANT
        self.ts_us.append(ts_us)
        self.value.append(value)
        self.form.append(form)
        self._note(ts_us, form, forms)
        return before_us

    def _note(self, ts_us: int, form: int, forms: Forms) -> None:
        settled_us = ts_us + forms.settles_us[form]
        if settled_us > self.settled_us:
            self.settled_us = settled_us
        if ts_us > self.latest_us:
            self.latest_us = ts_us
        if forms.reaches_us[form] > self.reach_us:
            self.reach_us = forms.reaches_us[form]
        self.kinds |= 1 << forms.codes[form]

    def last_up_to(self, ts_us: int) -> int:
        """The instant of the last reading that is kept and not later than this; NO_INSTANT when there is none."""
        place = bisect_right(self.ts_us, ts_us)
        return self.ts_us[place - 1] if place else NO_INSTANT

    def told_us(self, forms: Forms, otherwise_us: int) -> int:
        """The latest instant that it told of itself; `otherwise_us` when its last readings all took our time."""
        last = range(len(self.ts_us) - 1, max(len(self.ts_us) - PRUNED_FROM, 0) - 1, -1)
        return next((self.ts_us[place] for place in last if not forms.is_timeless[self.form[place]]), otherwise_us)

    def at(self, ts_us: int) -> Reading | None:
        """The reading of this instant that is kept, if any."""
        place = bisect_left(self.ts_us, ts_us)
        if place == len(self.ts_us) or self.ts_us[place] != ts_us:
            return None
        return Reading(ts_us, self.value[place], self.form[place])

    def keep(self, reading: Reading, forms: Forms) -> int:
        """Keep a reading; returns the instant of the one before it. A correction takes the place of what was there."""
        place = bisect_left(self.ts_us, reading.ts_us)
        if place < len(self.ts_us) and self.ts_us[place] == reading.ts_us:
            self.value[place], self.form[place] = reading.value, reading.form
        else:
            self.ts_us.insert(place, reading.ts_us)
            self.value.insert(place, reading.value)
            self.form.insert(place, reading.form)
        self._note(reading.ts_us, reading.form, forms)
        return self.ts_us[place - 1] if place else NO_INSTANT

    def forget_before(self, place: int) -> None:
        """Drop the readings before `place`."""
        del self.ts_us[:place], self.value[:place], self.form[:place]

    def settle_up_to(self, latest_us: int, forms: Forms) -> None:
        """Let only the readings up to this instant settle the meter: a clock that ran ahead let later ones in."""
        place = bisect_right(self.ts_us, latest_us)
        kept = zip(self.ts_us[:place], self.form[:place], strict=True)
        self.settled_us = max((ts_us + forms.settles_us[form] for ts_us, form in kept), default=NO_INSTANT)
        self.latest_us = self.ts_us[place - 1] if place else NO_INSTANT


class Meters:
    """All meters of the site, their recent readings and their closed intervals."""

    def __init__(self, window: Window, rules: GridRules, forms: Forms, *, lateness_us: int) -> None:
        self.window = window
        self.rules = rules
        self.forms = forms
        self.lateness_us = lateness_us
        self.by_name: dict[str, Meter] = {}
        self.by_row: list[Meter] = []

    def add(self, name: str, binding: MeterBinding) -> Meter:
        """A new meter without history."""
        meter = Meter(name, self.window.add_row(), binding)
        self.by_name[name] = meter
        self.by_row.append(meter)
        return meter

    def is_open(self, meter: Meter) -> bool:
        """Whether the meter has begun."""
        return int(self.window.closed[meter.row]) != NEVER

    def open_at(self, meter: Meter, first_us: int) -> None:
        """Begin a meter's intervals with the one that holds `first_us`."""
        self.window.closed[meter.row] = first_us // self.rules.step_us

    def close(self, wanted: Sequence[tuple[Meter, int]]) -> list[tuple[int, int, int]]:
        """Close the intervals of each meter up to but not including a number, all in one pass.

        Returns (row, first, count) of what was closed.
        """
        closed: list[tuple[int, int, int]] = []
        spans: list[Span] = []
        for meter, until in wanted:
            first = int(self.window.closed[meter.row])
            if until > first:
                # What would leave the ring at once need not be computed.
                start = max(first, until - self.window.width)
                closed.append((meter.row, first, until - first))
                spans.append(self.span(meter, start, until - start))
        for (row, first, count), made in zip(closed, intervals_of_many(spans, self.rules), strict=True):
            self.window.close(row, first + count, made)
        return closed

    def revise(self, wanted: Mapping[int, tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Make closed intervals anew, of each row those that a stretch of time touches, all in one pass.

        Returns (row, first, count) of what was made anew and has changed.
        """
        made_anew: list[tuple[int, int, int]] = []
        spans: list[Span] = []
        for row, (start_us, end_us) in wanted.items():
            closed = int(self.window.closed[row])
            first = max(start_us // self.rules.step_us, closed - self.window.width)
            count = min(-(-end_us // self.rules.step_us), closed) - first
            if count > 0:
                made_anew.append((row, first, count))
                spans.append(self.span(self.by_row[row], first, count))
        every = zip(made_anew, intervals_of_many(spans, self.rules), strict=True)
        return [one for one, made in every if self.window.revise(one[0], one[1], made)]

    def span(self, meter: Meter, first: int, count: int) -> Span:
        """Intervals `first` … of a meter and the readings whose segments may touch them, a neighbour on each side."""
        step_us = self.rules.step_us
        start_us, end_us = first * step_us, (first + count) * step_us
        reach_us = meter.reach_us if meter.is_mixed else 0
        place = max(bisect_left(meter.ts_us, start_us - reach_us) - 1, 0)
        end = bisect_left(meter.ts_us, end_us + reach_us) + 1
        chosen = meter.form[place:end].tolist()
        forms = self.forms
        value = np.array(meter.value[place:end], dtype=np.float64)
        readings = MeterReadings(
            np.array(meter.ts_us[place:end], dtype=np.int64),
            value * np.array([forms.to_kilo[form] for form in chosen], dtype=np.float64),
            np.array([forms[form].period_us for form in chosen], dtype=np.int64),
            np.array([forms.codes[form] for form in chosen], dtype=np.int8),
        )
        return Span(readings, start_us, count, meter.binding.limits)

    def touched_us(self, meter: Meter, ts_us: int) -> tuple[int, int]:
        """The stretch of time whose intervals a reading at `ts_us` may change: from its neighbour to its neighbour.

        It may cut short what the reading before it covered, or take the place of one that reached further than it
        does, so that what any reading of the meter reaches counts too.
        """
        place = bisect_left(meter.ts_us, ts_us)
        before_us = meter.ts_us[place - 1] if place else ts_us
        after_us = meter.ts_us[place + 1] if place + 1 < len(meter.ts_us) else ts_us
        start_us = min(before_us, ts_us - meter.reach_us) if meter.is_mixed else before_us
        return start_us, max(after_us, ts_us + meter.reach_us)

    def prune(self, meter: Meter, now_us: int) -> None:
        """Forget readings that can no longer change an interval.

        The last one before those that can stays: it may cover what comes after it. No clock that ran ahead makes what
        is recent by the meter's own word old.
        """
        closed_us = int(self.window.closed[meter.row]) * self.rules.step_us
        late_us = min(now_us, meter.told_us(self.forms, now_us)) - self.lateness_us
        settled_us = min(closed_us, late_us) - meter.reach_us - self.rules.step_us
        place = max(bisect_left(meter.ts_us, settled_us) - 1, 0)
        meter.forget_before(place)
        meter.prune_at = max(PRUNED_FROM, 2 * len(meter.ts_us))
