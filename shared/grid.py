"""Readings become intervals: the one definition for both sides.

A reading says something about a stretch of time, its segment, during which the load is held to be constant:

    power     from its instant to the next reading, at most `hold`
    energy    its own period, cut where the next reading starts
    register  between two readings at most `max_gap` apart, the mean of the difference. A decrease is a rollover where
              the meter's maximum is declared and the readings stand at its two ends; else it begins a new meter cycle
              (a reset, another meter) and the difference says nothing: it is never a negative load

A segment whose load is outside the meter's plausible range counts for nothing but a flag; that is also what finds an
exchange for a meter that stands higher. An interval's load is the time-weighted mean of the other segments inside it.
Under half covered, it is missing (NaN).

Invariants: an interval depends only on the set of readings whose segments touch it, never on the order they came in or
on what else is in the call, so streaming and batch, one meter and many, give the same bits. Power is kW, energy kWh,
import positive; units are declared, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntFlag
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from shared.clock import HOUR_US

Kind = Literal["power", "energy", "register"]
KINDS: Final[tuple[Kind, ...]] = ("energy", "register", "power")  # where two kinds cover an interval alike, first wins
MIN_COMPLETENESS: Final = 0.5
ROLLOVER_SHARE: Final = 0.1  # of its range, from the end a register must stand at before a rollover, and after it
MOST_KW: Final = 1e10  # more than the world's load: beyond it a number is no load at any meter
SAME_LOAD: Final = 1e-6  # relative difference up to which two loads are one; see `stuck_steps`

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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


class Flag(IntFlag):
    """What is to be known of an interval's load; one byte holds any of them.

    HELD and INTERPOLATED say where a load came from, so a missing interval has neither. STUCK takes a day of intervals
    to tell and is therefore not `intervals`' to set: see `stuck_steps`.
    """

    GAP = 1  # some of the interval is covered by nothing
    HELD = 2  # a power load, and every reading that covers the interval is from before it
    INTERPOLATED = 4  # one register difference, of readings further apart than the interval's own borders
    IMPLAUSIBLE = 8  # a reading or difference in it was outside the meter's range, and was left out
    STUCK = 16  # the load has not moved for a day


def flag_names(flags: int) -> list[str]:
    """The flags as messages carry them: lower-case names, in the order of `Flag`."""
    return [flag.name.lower() for flag in Flag if flag & flags and flag.name]


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
class MeterLimits:
    """What is possible at a meter; None is no limit.

    `register_max_kwh` is where a register begins at 0 again (100,000 for five digits); loads are plausible from
    `min_kw` to `max_kw`, both included, and nowhere beyond MOST_KW.
    """

    register_max_kwh: float | None = None
    min_kw: float | None = None
    max_kw: float | None = None


UNLIMITED: Final = MeterLimits()


@dataclass(frozen=True, slots=True)
class MeterReadings:
    """Readings of one meter, ascending in `ts_us`, one per instant; values in kW or kWh; `kind` indexes KINDS."""

    ts_us: Ints
    value: Floats
    period_us: Ints
    kind: NDArray[np.int8]


@dataclass(slots=True)
class Span:
    """`count` intervals of one meter from `first_us` on, and at least the readings whose segments touch them."""

    readings: MeterReadings
    first_us: int
    count: int
    limits: MeterLimits = UNLIMITED


@dataclass(slots=True)
class Intervals:
    """Intervals in time order: mean load in kW (NaN where missing), share covered 0 … 1, and `Flag`s; each [count]."""

    load_kw: Floats
    completeness: Floats
    flags: NDArray[np.uint8]


def intervals(
    readings: MeterReadings, first_us: int, count: int, rules: GridRules, limits: MeterLimits = UNLIMITED
) -> Intervals:
    """`count` intervals of one meter, from `first_us` on."""
    return intervals_of_many([Span(readings, first_us, count, limits)], rules)[0]


def intervals_of_many(spans: Sequence[Span], rules: GridRules) -> list[Intervals]:
    """The intervals of each span, in one set of array operations: the bits `intervals` gives for each alone.

    What is returned are views of common arrays; whoever keeps one for long should copy it.
    """
    if not spans:
        return []
    lanes, readings = _Lanes.of(spans, rules.step_us), _Columns.of(spans)
    made = Intervals(np.full(lanes.cells, np.nan), np.zeros(lanes.cells), np.zeros(lanes.cells, dtype=np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is implausible, and flagged as such
        for code, kind in enumerate(KINDS):
            own = readings.of_kind(code)
            if len(own.ts_us):
                pieces = _pieces(_segments(own, kind, rules, lanes), lanes, rules.step_us)
                _take_better(made, kind, pieces, rules.step_us)
    made.flags[made.completeness < 1] |= Flag.GAP.value
    ends = [*lanes.cell.tolist(), lanes.cells]
    return [Intervals(made.load_kw[a:b], made.completeness[a:b], made.flags[a:b]) for a, b in pairwise(ends)]


def interval_loads(readings: MeterReadings, first_us: int, count: int, rules: GridRules) -> tuple[Floats, Floats]:
    """Load and completeness of `intervals`, of a meter without limits."""
    made = intervals(readings, first_us, count, rules)
    return made.load_kw, made.completeness


@dataclass(frozen=True, slots=True)
class _Lanes:
    """What belongs to each of many spans [lanes]; their intervals are cells in one row, `cell` is a span's first."""

    first_us: Ints
    end_us: Ints
    cell: Ints
    cells: int
    register_max_kwh: Floats  # NaN is no limit, here and below: no comparison with it is true
    min_kw: Floats
    max_kw: Floats

    @classmethod
    def of(cls, spans: Sequence[Span], step_us: int) -> _Lanes:
        first_us = np.array([span.first_us for span in spans], dtype=np.int64)
        count = np.array([span.count for span in spans], dtype=np.int64)
        until = np.cumsum(count)
        return cls(
            first_us,
            first_us + count * step_us,
            until - count,
            int(until[-1]),
            np.array([span.limits.register_max_kwh for span in spans], dtype=np.float64),
            np.array([span.limits.min_kw for span in spans], dtype=np.float64),
            np.array([span.limits.max_kw for span in spans], dtype=np.float64),
        )


@dataclass(frozen=True, slots=True)
class _Columns:
    """The readings of all spans, by lane, then time. Nothing is ever made of two readings of different lanes."""

    lane: Ints
    ts_us: Ints
    value: Floats
    period_us: Ints
    kind: NDArray[np.int8]

    @classmethod
    def of(cls, spans: Sequence[Span]) -> _Columns:
        parts = [span.readings for span in spans]
        return cls(
            np.repeat(np.arange(len(parts)), [len(part.ts_us) for part in parts]),
            np.concatenate([part.ts_us for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.period_us for part in parts]),
            np.concatenate([part.kind for part in parts]),
        )

    def of_kind(self, kind: int) -> _Columns:
        """Only the readings of one kind."""
        chosen = self.kind == kind
        if chosen.all():
            return self
        return _Columns(
            self.lane[chosen], self.ts_us[chosen], self.value[chosen], self.period_us[chosen], self.kind[chosen]
        )


@dataclass(frozen=True, slots=True)
class _Segments:
    """Stretches of constant load: `[start_us, end_us)` at `load_kw`, ascending within a lane, not overlapping."""

    lane: Ints
    start_us: Ints
    end_us: Ints
    load_kw: Floats


def _segments(readings: _Columns, kind: Kind, rules: GridRules, lanes: _Lanes) -> _Segments:
    """The segments of readings of one kind, plausible or not; a segment of no length is left out."""
    goes_on = readings.lane[1:] == readings.lane[:-1]
    if kind == "register":
        return _differences(readings, goes_on, rules.max_gap_us, lanes)
    reach_us = readings.period_us if kind == "energy" else rules.hold_us
    end_us = readings.ts_us + reach_us
    np.minimum(end_us[:-1], readings.ts_us[1:], out=end_us[:-1], where=goes_on)
    kept = np.flatnonzero(end_us > readings.ts_us)
    value = readings.value[kept]
    load_kw = value / (readings.period_us[kept] / HOUR_US) if kind == "energy" else value
    return _Segments(readings.lane[kept], readings.ts_us[kept], end_us[kept], load_kw)


def _differences(registers: _Columns, goes_on: Bools, max_gap_us: int, lanes: _Lanes) -> _Segments:
    """The segments between neighbouring registers of a lane, but for those too far apart and new cycles."""
    near = np.flatnonzero(goes_on & (np.diff(registers.ts_us) <= max_gap_us))
    lane, start_us, end_us = registers.lane[near], registers.ts_us[near], registers.ts_us[near + 1]
    used_kwh = _used_kwh(registers.value[near], registers.value[near + 1], lanes.register_max_kwh[lane])
    kept = used_kwh >= 0
    load_kw = used_kwh[kept] / ((end_us[kept] - start_us[kept]) / HOUR_US)
    return _Segments(lane[kept], start_us[kept], end_us[kept], load_kw)


def _used_kwh(before: Floats, after: Floats, max_kwh: Floats) -> Floats:
    """What a register counted from one reading to the next; negative where it began a new cycle.

    A decrease is a rollover only from the top tenth of the range to the bottom tenth: from anywhere else, counting on
    over the maximum is less likely than a register set to zero or a meter exchanged.
    """
    used = after - before
    at_top = (before >= (1 - ROLLOVER_SHARE) * max_kwh) & (before <= max_kwh)
    at_bottom = (after >= 0) & (after <= ROLLOVER_SHARE * max_kwh)
    return np.where((used < 0) & at_top & at_bottom, used + max_kwh, used)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Segments cut at the borders of intervals: what each gives to its cell, in time order within a cell."""

    cell: Ints
    covered_us: Ints
    load_kw: Floats
    plausible: Bools
    starts_inside: Bools  # the piece is the beginning of its segment
    goes_beyond: Bools  # the piece covers its cell, and its segment is longer


def _pieces(segments: _Segments, lanes: _Lanes, step_us: int) -> _Pieces:
    inside = (segments.end_us > lanes.first_us[segments.lane]) & (segments.start_us < lanes.end_us[segments.lane])
    lane, load_kw = segments.lane[inside], segments.load_kw[inside]
    start_us, end_us, opens_us = segments.start_us[inside], segments.end_us[inside], lanes.first_us[lane]
    first = np.maximum((start_us - opens_us) // step_us, 0)
    last = (np.minimum(end_us, lanes.end_us[lane]) - opens_us - 1) // step_us
    spanned = last - first + 1
    owner = np.repeat(np.arange(len(first)), spanned)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(spanned) - spanned, spanned)
    number = first[owner] + nth
    cell_us = opens_us[owner] + number * step_us
    covered_us = np.minimum(end_us[owner], cell_us + step_us) - np.maximum(start_us[owner], cell_us)
    possible = np.abs(load_kw) <= MOST_KW
    plausible = possible & ~((load_kw < lanes.min_kw[lane]) | (load_kw > lanes.max_kw[lane]))
    return _Pieces(
        lanes.cell[lane][owner] + number,
        covered_us,
        load_kw[owner],
        plausible[owner],
        start_us[owner] >= cell_us,
        (covered_us == step_us) & ((end_us - start_us)[owner] > step_us),
    )


def _take_better(made: Intervals, kind: Kind, pieces: _Pieces, step_us: int) -> None:
    """Let a kind's pieces make the cells that they cover better than what was there; implausible ones only flag."""
    cells = len(made.load_kw)
    made.flags[pieces.cell[~pieces.plausible]] |= Flag.IMPLAUSIBLE.value
    cell, covered_us = pieces.cell[pieces.plausible], pieces.covered_us[pieces.plausible]
    energy = np.bincount(cell, weights=covered_us * pieces.load_kw[pieces.plausible], minlength=cells)
    covered = np.bincount(cell, weights=covered_us, minlength=cells)
    share = covered / step_us
    better = share > made.completeness
    usable = better & (share >= MIN_COMPLETENESS)
    made.load_kw[better] = np.nan
    made.load_kw[usable] = energy[usable] / covered[usable]
    made.completeness[better] = share[better]
    made.flags[better] &= ~np.uint8((Flag.HELD | Flag.INTERPOLATED).value)
    made.flags[usable] |= _origin(kind, pieces, cells)[usable]


def _origin(kind: Kind, pieces: _Pieces, cells: int) -> NDArray[np.uint8]:
    """HELD or INTERPOLATED for each cell, where a load of this kind would be that."""
    flags = np.zeros(cells, dtype=np.uint8)
    if kind == "register":
        flags[pieces.cell[pieces.goes_beyond & pieces.plausible]] = Flag.INTERPOLATED.value
    elif kind == "power":
        flags[:] = Flag.HELD.value
        flags[pieces.cell[pieces.starts_inside & pieces.plausible]] = 0
    return flags


def stuck_steps(load_kw: NDArray[np.floating], steps_per_day: int) -> Bools:
    """Where the load has not moved for a day: [..., T] of equal loads, this one and the `steps_per_day - 1` before.

    A run is marked from its 24th hour on, never backwards, so what is marked depends on the past alone and streaming
    (the last day of a window) agrees with batch. NaN ends a run.

    Two neighbours are equal within SAME_LOAD, both taken as float32: the mean of a constant over other stretches of
    time differs in its last bits, and a difference of large registers in as much as 1e-7 of a small load, while the
    finest meters resolve a hundred-thousandth. So the edge's float32 and central's float64 are judged alike.
    """
    load = load_kw.astype(np.float32, copy=False)
    steps = np.arange(load.shape[-1], dtype=np.int32)
    moved = np.ones(load.shape, dtype=np.bool_)
    before, after = load[..., :-1], load[..., 1:]
    moved[..., 1:] = ~(np.abs(after - before) <= SAME_LOAD * np.abs(before))
    began = np.maximum.accumulate(np.where(moved, steps, 0), axis=-1)
    return np.isfinite(load) & (steps - began + 1 >= steps_per_day)


def covered_until_us(ts_us: int, period_us: int, kind: Kind) -> int:
    """Up to when a reading settles its meter: intervals that end by then are closed by it."""
    return ts_us + period_us if kind == "energy" else ts_us
