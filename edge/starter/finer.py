"""The starter at steps below an hour: it forecasts hours, and each step of an hour gets what that meter makes of it.

A window becomes the means of its hours, counted back from the origin; the calendar is that of the hour the origin lies
in. What the starter says of an hour is said of each of its steps, moved by half of how the mean of the meter's days at
that clock time differs from that of its hour: with few days, the other half is chance. docs/starter.md has the figures.

Invariants: an hour with under half its steps is missing; quantiles stay in order and above the floor; what lies before
a meter came into use says nothing of its hours' shape (shared/dormancy.py).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.baselines import profile_mean
from shared.calendars import Calendar
from shared.clock import HOUR_US
from shared.dormancy import known_in_use
from shared.features import load_floor
from shared.grid import MIN_COMPLETENESS

_OWN_SHAPE: Final = 0.5  # of the profile's deviation from its hour

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def hours_of(windows: NDArray[np.float32], per_hour: int) -> NDArray[np.float32]:
    """Return the means [N, W / per_hour] of the hours of windows [N, W], the last of which ends where they do."""
    steps = windows.reshape(len(windows), -1, per_hour).astype(np.float64)
    there = np.isfinite(steps)
    count = there.sum(axis=2)
    total = np.where(there, steps, 0.0).sum(axis=2)
    enough = (count > 0) & (count >= MIN_COMPLETENESS * per_hour)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=enough)
    return means.astype(np.float32)


def hour_of(origins_us: Ints) -> Ints:
    """Return the starts [N] of the hours that origins [N] lie in."""
    return origins_us // HOUR_US * HOUR_US


def steps_of(
    hours_kw: Floats, windows: NDArray[np.float32], origins_us: Ints, *, calendar: Calendar, per_hour: int
) -> Floats:
    """Return kW [N, H · per_hour, Q] of forecasts [N, H, Q] of the hours after origins [N], by windows [N, W]."""
    leads = np.arange(1, hours_kw.shape[1] * per_hour + 1, dtype=np.int64)
    history = np.where(known_in_use(windows, 24 * per_hour), windows, np.nan)
    profile, _ = profile_mean(history, origins_us, leads, calendar=calendar, step_s=3600 // per_hour)
    by_hour = profile.reshape(len(windows), -1, per_hour)
    own = np.nan_to_num(by_hour - by_hour.mean(axis=2, keepdims=True)).reshape(profile.shape)
    moved = np.repeat(hours_kw, per_hour, axis=1) + _OWN_SHAPE * own[:, :, None]
    floored: Floats = np.maximum(moved, load_floor(windows)[:, None, None])
    return floored
