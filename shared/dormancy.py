"""When a meter came into use: what its window holds before that says nothing of it.

A plant is connected, a home is moved into: weeks of nothing, then a load that stays. A scale, a profile and lags over
both are those of neither. So the dormant beginning of a window counts as missing, and history begins with the use.

An interval is awake if the mean |load| of the day up to its end is above a small share of that of the busiest such day;
use begins with the first interval above it in the first such day. A window has a dormant beginning if at least a week
of known intervals lies before that, at least two days of those since are awake, and nearly all are: a meter that rests
every now and then has rest among its habits, and keeps it. A day ends with every interval, not at the hour of the
window's end alone: else the verdict would be another at another hour, and the forecast with it.

Invariants: a row's verdict depends on nothing but the row; what is cut off once is not cut off further; a window with
a finite value has a history.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_AWAKE_SHARE: Final = 0.05  # of the mean |load| of the window's busiest day
_DORMANT_DAYS: Final = 7  # known ones, at least: fewer may be a holiday
_AWAKE_DAYS: Final = 2  # at least: one may be a test or an accident
_STAYS_SHARE: Final = 0.75  # of the known time since the first awake interval that is awake too

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def known_in_use(windows: NDArray[np.floating], per_day: int) -> Bools:
    """Return which intervals of windows [N, W] are a meter's history: finite, and not in a dormant beginning.

    A window is a whole number of days of `per_day` intervals.
    """
    known: Bools = np.isfinite(windows)
    size = np.where(known, windows, 0)
    np.abs(size, out=size)
    rows = np.flatnonzero(_may_have_begun(size, known, per_day))
    if len(rows):
        known[rows] &= _since_use(size[rows], known[rows], per_day)
    return known


def _may_have_begun(size: NDArray[np.floating], known: Bools, per_day: int) -> Bools:
    """Return which windows [N] of |load| are worth a closer look: far cheaper, and so wide that none is missed.

    No day is busier than two of those that end with the window's, and of a dormant week six or more lie in it whole.
    """
    days = size.reshape(len(size), -1, per_day)
    count = known.reshape(days.shape).sum(axis=2)
    daily = days.sum(axis=2, dtype=np.float64) / np.maximum(count, 1)
    asleep = np.logical_and.accumulate(daily <= 2 * _AWAKE_SHARE * daily.max(axis=1, keepdims=True), axis=1)
    begun: Bools = ((asleep & (count > 0)).sum(axis=1) >= _DORMANT_DAYS - 2) & ~asleep[:, -1]
    return begun


def _since_use(size: NDArray[np.floating], known: Bools, per_day: int) -> Bools:
    """Return which intervals [N, W] of |load| `size`, zero where not known, are not in a dormant beginning."""
    count = _day_before(known, per_day)
    judged = known & (2 * count >= per_day)
    daily = np.where(judged, _day_before(size, per_day) / np.maximum(count, 1), 0)
    least = _AWAKE_SHARE * daily.max(axis=1, keepdims=True)
    awake = daily > least
    begins = _begins(size > least, awake, per_day)
    since = np.arange(size.shape[1]) >= begins[:, None]
    woken = awake | (since & ~np.logical_or.accumulate(awake, axis=1))
    dormant, used, later = (of.sum(axis=1) for of in (known & ~since, woken, (judged | woken) & since))
    began = (dormant >= _DORMANT_DAYS * per_day) & (used >= _AWAKE_DAYS * per_day) & (used >= _STAYS_SHARE * later)
    kept: Bools = since | ~began[:, None]
    return kept


def _begins(loud: Bools, awake: Bools, per_day: int) -> NDArray[np.int64]:
    """Return the first loud interval [N] of the day by which a window first was awake."""
    first = awake.argmax(axis=1)[:, None]
    begins: NDArray[np.int64] = (loud & (np.arange(loud.shape[1]) > first - per_day)).argmax(axis=1)
    return begins


def _day_before(values: NDArray[np.generic], per_day: int) -> Floats:
    """Return the sums [N, W] over the day up to each interval's end, or as much of it as the window holds."""
    sums = np.cumsum(values, axis=1, dtype=np.float64)
    sums[:, per_day:] -= sums[:, :-per_day].copy()
    return sums
