"""Forecasts without a model: the mean of a meter's own days, last week's value, yesterday's, then flat.

The profile mean serves as soon as a meter has a day of its misses, that is from two days of history on; last week's
value takes its place for a meter that it would have forecast clearly better. Which rung serves when was chosen by a
backtest (docs/starter.md). The spread of each comes from the window itself: the quantiles of what the same rule would
have missed by within it, set around the rule's own value. Pure functions of windows; nothing is learned or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.calendars import Calendar
from shared.dormancy import known_in_use
from shared.features import MAX_HORIZON_DAYS, WINDOW_DAYS, load_floor, window_steps

# Kept on disk as indices into this: only ever append.
RUNGS: Final[tuple[str, ...]] = ("seasonal_naive_168", "seasonal_naive_24", "flat", "profile_mean")
WEEKLY, DAILY, FLAT, PROFILE = range(4)
NO_HISTORY: Final = -1  # in place of an index into RUNGS: a meter without a finite value

_LEADS_COVERED: Final = 0.5  # share of the leads a rule must answer to name the rung
_DAY_DECAY: Final = 0.9  # weight of a day in the profile against the day after it
_OTHER_TYPE: Final = 0.15  # weight of a free day in a working day's profile, and the other way round
_WEEKLY_GAIN: Final = 0.8  # last week's value serves where its misses are below this share of the profile's
_DUEL_DAYS: Final = 7  # of misses known of both, before the two are compared

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def fallback_forecast(
    windows: NDArray[np.float32],
    origins_us: Ints,
    leads: Ints,
    quantiles: Sequence[float],
    *,
    calendar: Calendar,
    step_s: int = 3600,
) -> tuple[Floats, Ints]:
    """Return kW [N, L, Q] ascending along Q for windows [N, W] at origins [N] and leads [L], and each meter's rung [N].

    The rung is an index into RUNGS; the leads it cannot answer are filled by those below it. A meter with any finite
    value gets a finite forecast; one with none gets NaN and NO_HISTORY. What lies before a meter came into use counts
    as missing (shared/dormancy.py).
    """
    per_day = 86_400 // step_s
    load = np.where(known_in_use(windows, per_day), windows, np.nan).astype(np.float64)
    profile, profile_misses = profile_mean(load, origins_us, leads, calendar=calendar, step_s=step_s)
    weekly = seasonal_naive(load, leads, step_s=step_s, season_h=168)
    daily = seasonal_naive(load, leads, step_s=step_s, season_h=24)
    flat = np.repeat(_flat(load, per_day)[:, None], len(leads), axis=1)
    weekly_misses = _season_misses(load, 7 * per_day)
    rungs = np.where(_covers(daily), DAILY, FLAT)
    rungs = np.where(_covers(profile) & (np.isfinite(profile_misses).sum(axis=1) >= per_day), PROFILE, rungs)
    won = _wins(weekly_misses, profile_misses, _DUEL_DAYS * per_day)
    rungs = np.where(_covers(weekly) & (rungs == PROFILE) & won, WEEKLY, rungs)
    own = np.stack([weekly, daily, flat, profile])[rungs, np.arange(len(load))]
    centre = _first_known(own, profile, daily, flat)
    misses = np.where((rungs == PROFILE)[:, None], profile_misses, load - _flat(load, load.shape[1])[:, None])
    misses = np.where((rungs == WEEKLY)[:, None], weekly_misses, misses)
    kw = _around(centre, misses, quantiles, load_floor(windows))
    return kw, np.where(np.isfinite(load).any(axis=1), rungs, NO_HISTORY).astype(np.int64)


def profile_mean(
    windows: NDArray[np.floating], origins_us: Ints, leads: Ints, *, calendar: Calendar, step_s: int = 3600
) -> tuple[Floats, Floats]:
    """Return kW [N, L], the mean of a meter's days at each lead's clock time, and its misses within the window [N, W].

    A day weighs less the older it is, and far less where it is not of the target's type (working or free). A miss is
    the load less the same mean of the days before it only; NaN where one of the two is not there.
    """
    load, slots = _finite(windows), 86_400 // step_s
    days = load.reshape(len(load), WINDOW_DAYS, slots)
    seen = np.isfinite(days)
    free = _free(origins_us, load.shape[1], calendar, step_s)
    free_before = free[:, : load.shape[1]].reshape(-1, WINDOW_DAYS, slots)
    value, known = np.where(seen, days, 0.0), seen.astype(np.float64)
    weights = _day_weights()
    by_type = [weights @ part for part in (value * free_before, value * ~free_before)]
    counts = [weights @ part for part in (known * free_before, known * ~free_before)]
    wanted = free.reshape(-1, WINDOW_DAYS + MAX_HORIZON_DAYS, slots)
    total, weight = (
        np.where(wanted, of_free + _OTHER_TYPE * of_work, of_work + _OTHER_TYPE * of_free)
        for of_free, of_work in (by_type, counts)
    )
    mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0).reshape(len(load), -1)
    return mean[:, load.shape[1] - 1 + leads], load - mean[:, : load.shape[1]]


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
    return _around(centre, _season_misses(load, season_h * 3600 // step_s), quantiles, load_floor(windows))


def profile_mean_forecast(
    windows: NDArray[np.float32],
    origins_us: Ints,
    leads: Ints,
    quantiles: Sequence[float],
    *,
    calendar: Calendar,
    step_s: int = 3600,
) -> Floats:
    """Return kW [N, L, Q] of the profile mean with residual quantiles; NaN where it has nothing."""
    centre, misses = profile_mean(windows, origins_us, leads, calendar=calendar, step_s=step_s)
    return _around(centre, misses, quantiles, load_floor(windows))


def _finite(windows: NDArray[np.floating]) -> Floats:
    return np.where(np.isfinite(windows), windows, np.nan).astype(np.float64)


def _free(origins_us: Ints, width: int, calendar: Calendar, step_s: int) -> Bools:
    """Tell of each interval of a window and the longest horizon whether its day is free, [N or 1, W + horizon]."""
    origins, index = np.unique(origins_us, return_inverse=True)
    horizon = MAX_HORIZON_DAYS * 86_400 // step_s
    free = calendar.local(origins[:, None] + np.arange(-width, horizon) * (step_s * 1_000_000)).free
    return free if len(origins) == 1 else free[index]


def _day_weights() -> Floats:
    """Return the weight [D + horizon, D] of each day of the window in the profile of each day of it and after."""
    age = np.arange(WINDOW_DAYS + MAX_HORIZON_DAYS)[:, None] - np.arange(WINDOW_DAYS)
    weights: Floats = np.where(age > 0, _DAY_DECAY ** age.clip(0), 0.0)
    return weights


def _covers(forecast: Floats) -> Bools:
    covered: Bools = np.isfinite(forecast).mean(axis=1) >= _LEADS_COVERED
    return covered


def _wins(misses: Floats, others: Floats, least: int) -> Bools:
    """Tell [N] whether `misses` [N, W] are clearly smaller than `others`, over at least `least` steps known of both."""
    both = np.isfinite(misses) & np.isfinite(others)
    own, theirs = (np.abs(np.where(both, of, 0.0)).sum(axis=1) for of in (misses, others))
    won: Bools = (both.sum(axis=1) >= least) & (own < _WEEKLY_GAIN * theirs)
    return won


def _first_known(*forecasts: Floats) -> Floats:
    found, *others = forecasts
    for other in others:
        found = np.where(np.isnan(found), other, found)
    return found


def _flat(load: Floats, per_day: int) -> Floats:
    """Return the mean [N] of the last day in which anything was seen, where a day ends at the last value."""
    there = np.isfinite(load)
    last = np.where(there, np.arange(load.shape[1]), -1).max(axis=1)
    recent = there & (np.arange(load.shape[1]) > last[:, None] - per_day)
    count = recent.sum(axis=1)
    total = np.where(recent, load, 0.0).sum(axis=1)
    mean: Floats = np.divide(total, count, out=np.full(len(load), np.nan), where=count > 0)
    return mean


def _season_misses(load: Floats, season: int) -> Floats:
    """Return what the value a season before would have missed by, [N, W]."""
    misses = np.full(load.shape, np.nan)
    misses[:, season:] = load[:, season:] - load[:, :-season]
    return misses


def _around(centre: Floats, misses: Floats, quantiles: Sequence[float], floor: Floats) -> Floats:
    """Return kW [N, L, Q]: centres [N, L] and around them the quantiles of misses [N, W], from the floor [N] on."""
    kw = centre[:, :, None] + _residual_quantiles(misses, quantiles)[:, None, :]
    kw.sort(axis=2)
    return np.maximum(kw, floor[:, None, None])


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
