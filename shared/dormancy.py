"""When a meter came into use: what its window holds before that says nothing of it.

A plant is connected, a home is moved into: weeks of nothing, then a load that stays. A scale, a profile and lags over
both are those of neither. So the dormant beginning of a window counts as missing, and history begins with the use.

A day is awake if its mean |load| is above a small share of that of the window's busiest day. A window has a dormant
beginning if at least a week of days passes before the first awake one, at least two are awake, and of all since the
first nearly all are: a meter that rests every now and then has rest among its habits, and keeps it.

Invariants: a row's verdict depends on nothing but the row; what is cut off once is not cut off further.
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


def in_use(windows: NDArray[np.floating], per_day: int) -> Bools:
    """Return which intervals of windows [N, W] lie in their meter's use: all of them, but for a dormant beginning.

    A window is a whole number of days of `per_day` intervals, counted from its start; NaN or infinite is missing.
    """
    days = np.abs(windows).reshape(len(windows), -1, per_day).astype(np.float64)
    there = np.isfinite(days)
    count = there.sum(axis=2)
    daily = np.where(there, days, 0.0).sum(axis=2) / np.maximum(count, 1)
    awake, known = daily > _AWAKE_SHARE * daily.max(axis=1, keepdims=True), count > 0
    since = np.logical_or.accumulate(awake, axis=1)
    dormant_days, awake_days, days_since = (of.sum(axis=1) for of in (known & ~since, awake, known & since))
    began = (dormant_days >= _DORMANT_DAYS) & (awake_days >= _AWAKE_DAYS) & (awake_days >= _STAYS_SHARE * days_since)
    return np.repeat(since | ~began[:, None], per_day, axis=1)


def known_in_use(windows: NDArray[np.floating], per_day: int) -> Bools:
    """Return which intervals of windows [N, W] are finite and lie in their meter's use: its history."""
    known: Bools = np.isfinite(windows) & in_use(windows, per_day)
    return known
