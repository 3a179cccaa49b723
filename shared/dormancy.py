"""When a meter came into use: what its window holds before that says nothing of it.

A plant is connected, a home is moved into: weeks of nothing, then a load that stays. A scale, a profile and lags over
both are those of neither. So the dormant beginning of a window counts as missing, and history begins with the use.

A day is awake if its mean |load| is above a small share of that of the window's busiest day. A window has a dormant
beginning if at least a week of days passes before the first awake one, at least two are awake, and of all since the
first nearly all are: a meter that rests every now and then has rest among its habits, and keeps it.

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
_STAYS_SHARE: Final = 0.75  # of the known days since the first awake one that are awake too

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def known_in_use(windows: NDArray[np.floating], per_day: int) -> Bools:
    """Return which intervals of windows [N, W] are a meter's history: finite, and not in a dormant beginning.

    A window is a whole number of days of `per_day` intervals, counted from its start.
    """
    known: Bools = np.isfinite(windows)
    size = np.where(known, windows, 0)
    days = np.abs(size, out=size).reshape(len(windows), -1, per_day)
    count = known.reshape(days.shape).sum(axis=2)
    daily = days.sum(axis=2, dtype=np.float64) / np.maximum(count, 1)
    used = _since_use(daily, count > 0)
    if not used.all():
        known &= np.repeat(used, per_day, axis=1)
    return known


def _since_use(daily: Floats, known: Bools) -> Bools:
    """Return which days [N, D] of mean |load| `daily` are not in a dormant beginning."""
    awake = daily > _AWAKE_SHARE * daily.max(axis=1, keepdims=True)
    since = np.logical_or.accumulate(awake, axis=1)
    dormant_days, awake_days, days_since = (of.sum(axis=1) for of in (known & ~since, awake, known & since))
    began = (dormant_days >= _DORMANT_DAYS) & (awake_days >= _AWAKE_DAYS) & (awake_days >= _STAYS_SHARE * days_since)
    used: Bools = since | ~began[:, None]
    return used
