"""Forecasts without a model: weekly seasonal naive, then daily, then flat.

The spread of each comes from the window itself: the quantiles of what the same rule would have missed by within it, set
around the rule's own value. Pure functions of windows; nothing is learned or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.features import load_floor, window_steps

RUNGS: Final[tuple[str, ...]] = ("seasonal_naive_168", "seasonal_naive_24", "flat")
NO_HISTORY: Final = -1  # in place of an index into RUNGS: a meter without a finite value

_LEADS_COVERED: Final = 0.5  # share of the leads a season must answer to name the rung
_MIN_RESIDUALS: Final = 24

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fallback_forecast(
    windows: NDArray[np.float32], leads: Ints, quantiles: Sequence[float], *, step_s: int = 3600
) -> tuple[Floats, Ints]:
    """Return kW [N, L, Q] ascending along Q for windows [N, W] and leads [L], and each meter's rung [N].

    The rung is an index into RUNGS: the best season that answers at least half of the leads, whose gaps the rungs below
    fill. A meter with any finite value gets a finite forecast; one with none gets NaN and NO_HISTORY.
    """
    load = _finite(windows)
    weekly = seasonal_naive(load, leads, step_s=step_s, season_h=168)
    daily = seasonal_naive(load, leads, step_s=step_s, season_h=24)
    flat = np.repeat(_flat(load, 86_400 // step_s)[:, None], len(leads), axis=1)
    rungs = np.where(_covers(weekly), 0, np.where(_covers(daily), 1, 2))
    centre = np.where(rungs[:, None] == 0, weekly, np.where(rungs[:, None] <= 1, daily, flat))
    for lower in (daily, flat):
        centre = np.where(np.isnan(centre), lower, centre)
    kw = centre[:, :, None] + _spread(load, rungs, quantiles, step_s)[:, None, :]
    kw.sort(axis=2)
    kw = np.maximum(kw, load_floor(windows)[:, None, None])
    return kw, np.where(np.isfinite(load).any(axis=1), rungs, NO_HISTORY).astype(np.int64)


def seasonal_naive(
    windows: NDArray[np.floating], leads: Ints, *, step_s: int = 3600, season_h: int = 168, patched: bool = True
) -> Floats:
    """Return kW [N, L]: the latest value a whole number of seasons before each lead of [L].

    `patched` goes on to earlier seasons where that one is missing; otherwise, or with none, NaN.
    """
    load, width = _finite(windows), window_steps(step_s)
    season = season_h * 3600 // step_s
    column = width - 1 + leads - season * ((leads - 1) // season + 1)
    found = load[:, column]
    for _ in range(width // season if patched else 0):
        column = column - season
        found = np.where(np.isnan(found) & (column >= 0), load[:, np.maximum(column, 0)], found)
    return found


def seasonal_naive_forecast(
    windows: NDArray[np.float32], leads: Ints, quantiles: Sequence[float], *, step_s: int = 3600, season_h: int = 168
) -> Floats:
    """Return kW [N, L, Q] of one season with residual quantiles, the measure of others; NaN where it has nothing."""
    load = _finite(windows)
    centre = seasonal_naive(load, leads, step_s=step_s, season_h=season_h)
    kw = (
        centre[:, :, None] + _residual_quantiles(_season_errors(load, season_h * 3600 // step_s), quantiles)[:, None, :]
    )
    kw.sort(axis=2)
    return np.maximum(kw, load_floor(windows)[:, None, None])


def _finite(windows: NDArray[np.floating]) -> Floats:
    return np.where(np.isfinite(windows), windows, np.nan).astype(np.float64)


def _covers(forecast: Floats) -> NDArray[np.bool_]:
    covered: NDArray[np.bool_] = np.isfinite(forecast).mean(axis=1) >= _LEADS_COVERED
    return covered


def _flat(load: Floats, per_day: int) -> Floats:
    """Return the mean [N] of the last day in which anything was seen, where a day ends at the last value."""
    there = np.isfinite(load)
    last = np.where(there, np.arange(load.shape[1]), -1).max(axis=1)
    recent = there & (np.arange(load.shape[1]) > last[:, None] - per_day)
    count = recent.sum(axis=1)
    total = np.where(recent, load, 0.0).sum(axis=1)
    mean: Floats = np.divide(total, count, out=np.full(len(load), np.nan), where=count > 0)
    return mean


def _season_errors(load: Floats, season: int) -> Floats:
    return load[:, season:] - load[:, :-season]


def _spread(load: Floats, rungs: Ints, quantiles: Sequence[float], step_s: int) -> Floats:
    """Return offsets in kW [N, Q]: of the best rung at or below each meter's with enough errors, else of flat."""
    offsets = _residual_quantiles(load - _flat(load, load.shape[1])[:, None], quantiles)
    for rung, season_h in ((1, 24), (0, 168)):
        errors = _season_errors(load, season_h * 3600 // step_s)
        enough = np.isfinite(errors).sum(axis=1) >= _MIN_RESIDUALS
        offsets = np.where(((rungs <= rung) & enough)[:, None], _residual_quantiles(errors, quantiles), offsets)
    return offsets


def _residual_quantiles(errors: Floats, quantiles: Sequence[float]) -> Floats:
    """Return quantiles [N, Q] of errors [N, E] less their median, ignoring NaN; zero where there is no error."""
    ordered = np.sort(errors, axis=1)  # NaN last
    last = np.maximum(np.isfinite(errors).sum(axis=1) - 1, 0)[:, None]
    position = np.array([*quantiles, 0.5]) * last
    low = np.floor(position).astype(np.int64)
    below = np.take_along_axis(ordered, low, axis=1)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=1)
    values = np.nan_to_num(below + (position - low) * (above - below))
    offsets: Floats = values[:, :-1] - values[:, -1:]
    return offsets
