"""Readings become intervals: the one definition for both sides.

A reading says something about a stretch of time, its segment, during which the load is held to be constant:

    power     from its instant to the next reading, at most `hold`
    energy    its own period, cut where the next reading starts
    register  between two readings, the mean of the difference, unless it decreases (a new meter cycle) or spans more
              than `max_gap`

An interval's load is the time-weighted mean of the segments inside it. Under half covered, it is missing (NaN).

Invariants: an interval depends only on the set of readings whose segments touch it, never on the order they came in or
on what else is in the call, so streaming and batch give the same bits. Power is kW, energy kWh, import positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from shared.clock import HOUR_US

Kind = Literal["power", "energy", "register"]
KINDS: Final[tuple[Kind, ...]] = ("energy", "register", "power")  # where two kinds cover an interval alike, first wins
MIN_COMPLETENESS: Final = 0.5

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit a reading may have: what turns it into kW or kWh, and which kinds it may mean."""

    to_kilo: float
    kinds: tuple[Kind, ...]


UNITS: Final[dict[str, Unit]] = {
    "W": Unit(1e-3, ("power",)),
    "kW": Unit(1.0, ("power",)),
    "MW": Unit(1e3, ("power",)),
    "Wh": Unit(1e-3, ("energy", "register")),
    "kWh": Unit(1.0, ("energy", "register")),
    "MWh": Unit(1e3, ("energy", "register")),
}


@dataclass(frozen=True, slots=True)
class GridRules:
    """The parameters of the grid, in microseconds."""

    step_us: int
    hold_us: int
    max_gap_us: int

    @classmethod
    def of(cls, *, step: timedelta, hold: timedelta, max_gap: timedelta) -> GridRules:
        """From durations."""
        step_us, hold_us, max_gap_us = (round(d.total_seconds() * 1e6) for d in (step, hold, max_gap))
        return cls(step_us, hold_us, max_gap_us)


@dataclass(frozen=True, slots=True)
class MeterReadings:
    """Readings of one meter, ascending in `ts_us`, one per instant; values in kW or kWh; `kind` indexes KINDS."""

    ts_us: Ints
    value: Floats
    period_us: Ints
    kind: NDArray[np.int8]

    def of_kind(self, kind: int) -> MeterReadings:
        """Only the readings of one kind."""
        chosen = self.kind == kind
        return MeterReadings(self.ts_us[chosen], self.value[chosen], self.period_us[chosen], self.kind[chosen])


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches of constant load: `[start_us, end_us)` at `load_kw`, ascending, not overlapping."""

    start_us: Ints
    end_us: Ints
    load_kw: Floats


def segments(readings: MeterReadings, kind: Kind, rules: GridRules) -> Segments:
    """The segments of readings of one kind; a segment of no length is left out."""
    ts_us, value = readings.ts_us, readings.value
    if kind == "register":
        start_us, end_us = ts_us[:-1], ts_us[1:]
        used = np.diff(value)
        load_kw = used / ((end_us - start_us) / HOUR_US)
        kept = (used >= 0) & (end_us - start_us <= rules.max_gap_us)
        return Segments(start_us[kept], end_us[kept], load_kw[kept])
    reach_us = readings.period_us if kind == "energy" else np.full(len(ts_us), rules.hold_us, dtype=np.int64)
    end_us = ts_us + reach_us
    end_us[:-1] = np.minimum(end_us[:-1], ts_us[1:])
    load_kw = value / (readings.period_us / HOUR_US) if kind == "energy" else value
    kept = end_us > ts_us
    return Segments(ts_us[kept], end_us[kept], load_kw[kept])


def interval_loads(readings: MeterReadings, first_us: int, count: int, rules: GridRules) -> tuple[Floats, Floats]:
    """Mean load in kW [count], NaN where missing, and completeness 0 … 1 [count], of intervals from `first_us` on."""
    load_kw = np.full(count, np.nan)
    completeness = np.zeros(count)
    for code, kind in enumerate(KINDS):
        own = readings.of_kind(code)
        if not len(own.ts_us):
            continue
        energy, covered_us = _sums(segments(own, kind, rules), first_us, count, rules.step_us)
        share = covered_us / rules.step_us
        better = share > completeness
        usable = better & (share >= MIN_COMPLETENESS)
        load_kw[better] = np.nan
        load_kw[usable] = energy[usable] / covered_us[usable]
        completeness[better] = share[better]
    return load_kw, completeness


def _sums(parts: Segments, first_us: int, count: int, step_us: int) -> tuple[Floats, Floats]:
    """For each interval the sum of load × time and the time covered, adding its segments in time order."""
    end_of_all = first_us + count * step_us
    inside = (parts.end_us > first_us) & (parts.start_us < end_of_all)
    start_us = np.maximum(parts.start_us[inside], first_us)
    end_us = np.minimum(parts.end_us[inside], end_of_all)
    first = (start_us - first_us) // step_us
    spanned = (end_us - first_us - 1) // step_us - first + 1
    owner = np.repeat(np.arange(len(first)), spanned)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(spanned) - spanned, spanned)
    interval = first[owner] + nth
    opens_us = first_us + interval * step_us
    covered_us = np.minimum(end_us[owner], opens_us + step_us) - np.maximum(start_us[owner], opens_us)
    energy = np.bincount(interval, weights=covered_us * parts.load_kw[inside][owner], minlength=count)
    covered = np.bincount(interval, weights=covered_us, minlength=count)
    return energy.astype(np.float64, copy=False), covered.astype(np.float64, copy=False)


def covered_until_us(ts_us: int, period_us: int, kind: Kind) -> int:
    """Up to when a reading settles its meter: intervals that end by then are closed by it."""
    return ts_us + period_us if kind == "energy" else ts_us
