"""Which intervals late readings and corrections rewrote, of the record and of a file; see central/revisions.py.

What can be told apart by arrival: readings of a time before anything of their meter had arrived are history that was
loaded afterwards (a backfill, a replay); all others were sent live, and came when they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from central.revisions import Revisions, Stretch, Versions, revisions_of
from shared.clock import duration_us
from shared.grid import KINDS, GridRules, MeterLimits, MeterReadings, Span, intervals_of_many
from shared.params import GridParams

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER_SAID: Final = -1  # as received_us of a reading of which nobody noted when it came
ALWAYS: Final = 0  # as the first origin that knows a reading: every one does
_SPANS: Final = 4096  # of which intervals are made at once


def received_us(received_at: pd.Series[pd.Timestamp]) -> Ints:
    """Return instants in microseconds, NEVER_SAID for none."""
    known = received_at.notna()
    instants = pd.to_datetime(received_at, utc=True).dt.as_unit("us").astype("int64")
    return np.asarray(instants.where(known, NEVER_SAID), dtype=np.int64)


def first_origins(meter: Ints, ts_us: Ints, came_us: Ints, *, step_us: int, grace: timedelta) -> Ints:
    """Return the grid number (instant / step) of the first origin that knows each reading, ALWAYS for history.

    An origin knows what came by its instant plus the grace.
    """
    live_us = np.full(int(meter.max(initial=0)) + 1, np.iinfo(np.int64).max)
    said = came_us != NEVER_SAID
    np.minimum.at(live_us, meter[said], came_us[said])
    history = ~said | (ts_us < live_us[meter])
    return np.where(history, ALWAYS, -(-(came_us - duration_us(grace)) // step_us))


def file_revisions(
    last_kw: Floats, received: pd.DataFrame, expected: Floats, factor: Floats, *, start_us: int, step_us: int
) -> Revisions | None:
    """Return what rows `meter, ts_us, received_us, value` of a file rewrote, in the order they came.

    An interval is the mean of the readings that start in it, times `factor` [M]; under half of `expected` [M]: missing.
    """
    received = received.sort_values(["meter", "ts_us", "received_us"], kind="stable")
    meter, ts_us, came_us = (received[name].to_numpy(dtype=np.int64) for name in ("meter", "ts_us", "received_us"))
    seen = first_origins(meter, ts_us, came_us, step_us=step_us, grace=GridParams().grace)
    kept = ~_replaced_unseen(meter, seen, ts_us)
    value, cell = received["value"].to_numpy()[kept], (ts_us // step_us)[kept]
    versions = Versions(meter[kept], ts_us[kept], seen[kept], cell, cell)

    def load_of(one: Stretch) -> Floats:
        rows = one.rows[np.isfinite(value[one.rows])]
        count = np.bincount(cell[rows] - one.first, minlength=one.count)
        total = np.bincount(cell[rows] - one.first, weights=value[rows], minlength=one.count)
        enough = (count > 0) & (2 * count >= expected[one.meter])
        mean: Floats = np.divide(total, count, out=np.full(one.count, np.nan), where=enough)
        return mean * float(factor[one.meter])

    def loads(stretches: list[Stretch]) -> Floats:
        return np.concatenate([load_of(one) for one in stretches])

    return revisions_of(versions, last_kw, loads, start_us=start_us, step_us=step_us, margin_us=0)


def record_revisions(
    last_kw: Floats,
    received: pd.DataFrame,
    readings: MeterReadings,
    limits: list[MeterLimits],
    rules: GridRules,
    *,
    start_us: int,
    grace: timedelta,
) -> Revisions | None:
    """Return what rows `meter, received_us` of the record rewrote, whose content is `readings`.

    Both are sorted by meter, `ts_us` and arrival; `limits` [M] are the meters' own.
    """
    meter, came_us = (received[name].to_numpy(dtype=np.int64) for name in ("meter", "received_us"))
    seen = first_origins(meter, readings.ts_us, came_us, step_us=rules.step_us, grace=grace)
    kept = np.flatnonzero(~_replaced_unseen(meter, seen, readings.ts_us))
    kept = kept[~_repeats(meter[kept], _taken(readings, kept))]
    meter, seen, readings = meter[kept], seen[kept], _taken(readings, kept)
    ahead_us = _ahead_us(readings, rules)
    first, last = _touched(meter, seen, readings, ahead_us, rules)
    versions = Versions(meter, readings.ts_us, seen, first, last)

    def loads(stretches: list[Stretch]) -> Floats:
        spans = (
            Span(_taken(readings, one.rows), one.first * rules.step_us, one.count, limits[one.meter])
            for one in stretches
        )
        return np.concatenate([made.load_kw for block in _blocks(spans) for made in intervals_of_many(block, rules)])

    margin_us = int(ahead_us.max())
    return revisions_of(versions, last_kw, loads, start_us=start_us, step_us=rules.step_us, margin_us=margin_us)


def _blocks(spans: Iterator[Span]) -> Iterator[list[Span]]:
    return iter(lambda: list(islice(spans, _SPANS)), [])


def _taken(readings: MeterReadings, rows: Ints) -> MeterReadings:
    return MeterReadings(readings.ts_us[rows], readings.value[rows], readings.period_us[rows], readings.kind[rows])


def _same_instant(meter: Ints, ts_us: Ints) -> Bools:
    """Return [R - 1] whether a row and the next are of one identity."""
    return np.asarray((meter[1:] == meter[:-1]) & (ts_us[1:] == ts_us[:-1]))


def _replaced_unseen(meter: Ints, seen: Ints, ts_us: Ints) -> Bools:
    """Return which rows another of the same identity replaces before any origin knows them."""
    return np.append(_same_instant(meter, ts_us) & (seen[1:] <= seen[:-1]), False)


def _repeats(meter: Ints, readings: MeterReadings) -> Bools:
    """Return which rows say what the one before said of the same instant: copies, not corrections."""
    same = _same_instant(meter, readings.ts_us)
    for column in (readings.value, readings.period_us, readings.kind):
        same &= column[1:] == column[:-1]
    return np.append(False, same)


def _ahead_us(readings: MeterReadings, rules: GridRules) -> Ints:
    """Return how far after its instant each reading can matter, by its kind."""
    longest_us = int(readings.period_us.max(initial=0))  # an energy reading also cuts the one before it
    return np.array([longest_us, rules.max_gap_us, rules.hold_us], dtype=np.int64)[readings.kind]


def _touched(meter: Ints, seen: Ints, readings: MeterReadings, ahead_us: Ints, rules: GridRules) -> tuple[Ints, Ints]:
    """Return the first and last interval (grid numbers) that each reading can change, also by replacing another."""
    first_us = readings.ts_us - _behind_us(meter, seen, readings, rules)
    first, last = first_us // rules.step_us, (readings.ts_us + np.maximum(ahead_us, 1) - 1) // rules.step_us
    again = np.flatnonzero(_same_instant(meter, readings.ts_us))
    for row in again:  # in order, so that a third version has the reach of the first as well
        first[row + 1] = min(first[row], first[row + 1])
        last[row + 1] = max(last[row], last[row + 1])
    return first, last


def _behind_us(meter: Ints, seen: Ints, readings: MeterReadings, rules: GridRules) -> Ints:
    """Return how far before its instant each reading can matter: a register back to the one before it.

    That is the row before when it was known by then, else it may be any within the longest gap.
    """
    register = readings.kind == KINDS.index("register")
    behind_us = np.where(register, rules.max_gap_us, 0)
    apart_us = np.diff(readings.ts_us)
    plain = register[1:] & register[:-1] & (meter[1:] == meter[:-1]) & (seen[:-1] <= seen[1:]) & (apart_us > 0)
    near_us = np.where(apart_us <= rules.max_gap_us, apart_us, 0)
    behind_us[1:][plain] = near_us[plain]
    return behind_us
