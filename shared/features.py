"""The features: one definition, called by training and by the edge.

A meter's window is normalised (z = (load − mean) / scale) and the model forecasts z minus a *base*: the mean of the
same hour last week, the mean of the last seven days at that hour, and a decayed mean of up to 27 such hours on days of
the target's type (working or free), plus what is left at the lead of the last hour's deviation from that profile
(shared/persistence.py). Features that are levels are given minus the base too, so that one model serves a feeder and a
fridge.

Invariants:
    No feature uses a value at or after the origin: a lag shorter than its lead is NaN.
    A row's features are the same, bit for bit, whatever other rows are in the call.
    Missing values stay NaN; nothing is imputed. What lies before a meter came into use is missing
    (shared/dormancy.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import exp
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.calendars import Calendar, LocalTime
from shared.dormancy import known_in_use
from shared.persistence import carried, decay, persistence

WINDOW_DAYS: Final = 30
WINDOW_STEPS: Final = 24 * WINDOW_DAYS  # at the default step of one hour
SUPPORTED_STEPS_S: Final = (900, 1800, 3600)
MAX_HORIZON_DAYS: Final = 2
SEMANTICS: Final = 3  # raise it whenever a feature changes its meaning without changing its name

_PROFILE_DAYS: Final = 27
_DEVIATION_DAYS: Final = 28  # four of each weekday
_PROFILE_DECAY: Final = 0.95  # weight of a profile day against the day after it
_BLOCK: Final = 128  # rows computed at once: small enough to stay in cache
_SCALE_FLOOR: Final = 1e-3  # of |mean|: a constant load has no spread to divide by
_SCALE_FLOOR_KW: Final = 1e-6
_NEAR_ZERO: Final = 0.05  # of the scale

_LAG_DAYS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 14, 21, 28)
_RECENT: Final = (1, 2, 3, 4, 5, 6)
_MEANS_H: Final = (6, 24, 72, 168, 672)
_STDS_H: Final = (6, 24)
_EXTREMES_H: Final = (24, 168)
_DEVIATIONS_H: Final = (1, 3, 6, 24, 168)
_WEEK_CHANGES_H: Final = (1, 3, 24, 168)
_DAY_CHANGES_H: Final = (1, 3, 24)
_CARRIED_H: Final = (2, 6, 24)  # hours in which a deviation falls to 1/e
_NEAR_H: Final = (-2, -1, 0, 1, 2)

FEATURES: Final[tuple[str, ...]] = (
    *(f"lag_{24 * days}h" for days in _LAG_DAYS),
    "lag_167h",
    "lag_169h",
    "latest_same_hour",
    "latest_hour_before",
    "latest_hour_after",
    *(f"recent_{n}" for n in _RECENT),
    *(f"mean_{h}h" for h in _MEANS_H),
    *(f"std_{h}h" for h in _STDS_H),
    "std_168h_over_672h",
    *(f"min_{h}h" for h in _EXTREMES_H),
    *(f"max_{h}h" for h in _EXTREMES_H),
    "same_hour_mean_7d",
    "same_hour_profile",
    "same_week_hour_mean",
    "latest_near",
    "week_near",
    "same_hour_q10",
    "same_hour_q50",
    "same_hour_q90",
    *(f"deviation_{h}h" for h in _DEVIATIONS_H),
    "deviation_hour_2",
    "deviation_hour_3",
    "deviation_day_2",
    *(f"week_change_{h}h" for h in _WEEK_CHANGES_H),
    *(f"day_change_{h}h" for h in _DAY_CHANGES_H),
    "persistence_1h",
    "persistence_24h",
    "carried",
    "carried_day",
    *(f"carried_{h}h" for h in _CARRIED_H),
    "base_level",
    "near_zero_share",
    "roughness",
    "mean_over_scale",
    "history_share",
    "stale_h",
    "lead_h",
    "hour",
    "weekday",
    "hour_of_week",
    "free_day",
    "holiday",
    "holiday_lag_168h",
    "free_day_latest",
)
SCHEMA_HASH: Final = hashlib.sha256(f"{SEMANTICS}:{','.join(FEATURES)}".encode()).hexdigest()[:16]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Features of N meters × L leads, and what turns model output into load.

    `x` float32 [N·L, F], meter-major, leads inner; `base` float64 [N, L] kW; `scale` float64 [N] kW, above zero;
    `floor` float64 [N] kW, see `load_floor`.
    """

    x: NDArray[np.float32]
    base: Floats
    scale: Floats
    floor: Floats


def window_steps(step_s: int) -> int:
    """Return the width of a window at this step (720 at one hour); ValueError for a step not supported."""
    if step_s not in SUPPORTED_STEPS_S:
        raise ValueError(f"step of {step_s} s is not supported: expected one of {SUPPORTED_STEPS_S}")
    return WINDOW_DAYS * 86_400 // step_s


def feature_matrix(
    windows: NDArray[np.float32],
    origins_us: Ints,
    leads: Ints,
    *,
    step_s: int = 3600,
    calendar: Calendar,
) -> Matrix:
    """Return the features of windows [N, window_steps] for leads [L], or [N, L] with leads of their own for each row.

    Column −1 of a window is the interval just before its origin; lead 1 is the interval that starts at the origin.
    `base` is NaN for a meter without a finite value. Raises ValueError for wrong shapes, leads, steps or origins that
    do not lie on the grid.
    """
    _check(windows, origins_us, leads, step_s)
    rows = len(windows)
    lead_count = leads.shape[-1]
    x = np.empty((rows, lead_count, len(FEATURES)), dtype=np.float32)
    base = np.empty((rows, lead_count))
    scale = np.empty(rows)
    if rows:
        grid = _CalendarGrid.over(origins_us, windows.shape[1], step_s, calendar)
        for first in range(0, rows, _BLOCK):
            part = slice(first, first + _BLOCK)
            own_leads = leads if leads.ndim == 1 else leads[part]
            _Block(windows[part], grid.starts(origins_us[part]), own_leads, grid).write(
                x[part], base[part], scale[part]
            )
    return Matrix(x.reshape(rows * lead_count, len(FEATURES)), base, scale, load_floor(windows))


def to_load(output: NDArray[np.floating], matrix: Matrix) -> Floats:
    """Return kW [N, L, Q], ascending along Q, of model output [N·L, Q] in normalised target space."""
    shape = (*matrix.base.shape, output.shape[-1])
    load = matrix.base[:, :, None] + matrix.scale[:, None, None] * output.astype(np.float64).reshape(shape)
    load.sort(axis=2)
    return np.maximum(load, matrix.floor[:, None, None])


def load_floor(windows: NDArray[np.floating]) -> Floats:
    """Return the least load [N] a forecast may show: 0 kW for a meter that never exported in its window, else none."""
    return np.where((windows < 0).any(axis=1), -np.inf, 0.0)


def to_target(load_kw: NDArray[np.floating], matrix: Matrix) -> Floats:
    """Return the training target [N·L] of load [N, L] kW: the inverse of `to_load`."""
    target: Floats = (load_kw - matrix.base) / matrix.scale[:, None]
    return target.reshape(-1)


def _check(windows: NDArray[np.float32], origins_us: Ints, leads: Ints, step_s: int) -> None:
    """Raise ValueError for what would otherwise become silent nonsense."""
    width = window_steps(step_s)
    if windows.ndim != 2 or windows.shape[1] != width:
        raise ValueError(f"windows have shape {windows.shape}: expected [N, {width}] at a step of {step_s} s")
    if origins_us.shape != (len(windows),):
        raise ValueError(f"origins have shape {origins_us.shape}: expected [{len(windows)}]")
    if leads.ndim not in (1, 2) or (leads.ndim == 2 and len(leads) != len(windows)):
        raise ValueError(f"leads have shape {leads.shape}: expected [L] or [{len(windows)}, L]")
    horizon = MAX_HORIZON_DAYS * 86_400 // step_s
    if leads.size and (leads.min() < 1 or leads.max() > horizon):
        raise ValueError(f"leads run from {leads.min()} to {leads.max()}: expected 1 to {horizon}")
    if np.any(origins_us % (step_s * 1_000_000)):
        raise ValueError(f"origins do not lie on the grid of {step_s} s")


@dataclass(frozen=True, slots=True)
class _CalendarGrid:
    """The local calendar of every interval any window or target touches, computed once for a call."""

    first_us: int
    step_s: int
    local: LocalTime

    @classmethod
    def over(cls, origins_us: Ints, width: int, step_s: int, calendar: Calendar) -> _CalendarGrid:
        """Cover windows of `width` steps before and the longest horizon after all origins."""
        step_us = step_s * 1_000_000
        first_us = int(origins_us.min()) - width * step_us
        end_us = int(origins_us.max()) + MAX_HORIZON_DAYS * 86_400_000_000
        return cls(first_us, step_s, calendar.local(np.arange(first_us, end_us, step_us, dtype=np.int64)))

    def starts(self, origins_us: Ints) -> Ints:
        """Return the index of each window's first interval [N]."""
        per_window = WINDOW_DAYS * 86_400_000_000
        starts: Ints = (origins_us - per_window - self.first_us) // (self.step_s * 1_000_000)
        return starts


class _Block:
    """The features of a few rows, computed column by column on [N, …] arrays.

    Within a window the day `d` and the slot of the day `s` count from the window's start, so that a lead's slot is
    (lead − 1) mod slots and the days before it at the same clock time are a column of [N, days, slots].
    """

    def __init__(self, windows: NDArray[np.float32], starts: Ints, leads: Ints, grid: _CalendarGrid) -> None:
        self.width = windows.shape[1]
        self.per_day = self.width // WINDOW_DAYS
        self.per_hour = 3600 // grid.step_s
        self.leads = leads
        self.slots = (leads - 1) % self.per_day
        self.target = self.width - 1 + leads
        self.grid = grid
        self.seen = known_in_use(windows, self.per_day)
        load = np.where(self.seen, windows, np.nan).astype(np.float64)
        self.mean, self.scale = _mean_and_scale(load, self._span(168), self._span(672))
        self.z = (load - self.mean[:, None]) / self.scale[:, None]
        self.padded = np.concatenate([self.z, np.full((len(load), 1), np.nan)], axis=1)
        self.free = grid.local.free[starts[:, None] + np.arange(self.width)]
        self.target_at = starts[:, None] + self.target  # [N, L]
        self.days = self.z.reshape(len(load), WINDOW_DAYS, self.per_day)

    def write(self, x: NDArray[np.float32], base: Floats, scale: Floats) -> None:
        """Fill this block's part of the matrix in place."""
        profiles = self._profiles()
        free_target = self.grid.local.free[self.target_at]
        off = self._off_profile(*profiles)
        mean_7d = self._by_slot(_mean(self.days[:, -7:].transpose(0, 2, 1)))
        profile = np.where(free_target, *(self._by_slot(own) for own in profiles))
        usual = _mean(np.stack([self._lag(7 * self.per_day), mean_7d, profile], axis=2))
        lasting = self._lasting(off)
        base_z = np.where(np.isnan(usual), 0.0, usual) + lasting["carried"]
        levels = self._lags() | self._near() | self._recent_levels() | self._same_hour_quantiles()
        levels |= {"same_hour_mean_7d": mean_7d, "same_hour_profile": profile}
        others = self._shapes() | self._deviations(off) | self._changes() | lasting | self._calendar(free_target)
        others["base_level"] = base_z
        for j, name in enumerate(FEATURES):
            x[:, :, j] = levels[name] - base_z if name in levels else others[name]
        base[:] = self.mean[:, None] + self.scale[:, None] * base_z
        scale[:] = self.scale

    def _span(self, hours: int) -> int:
        return hours * self.per_hour

    def _lag(self, steps: int) -> Floats:
        """Return z [N, L] `steps` before each target, NaN where that is not before the origin."""
        return _take(self.padded, np.minimum(self.target - steps, self.width))

    def _by_slot(self, daily: Floats) -> Floats:
        """Spread [N, slots] over the leads, [N, L]."""
        return _take(daily, self.slots)

    def _profiles(self) -> tuple[Floats, Floats]:
        """Return the decayed same-hour means of the last 27 days, free days and working days apart, [N, slots] each."""
        shape = self.days.shape
        values = np.where(self.seen, self.z, 0.0).reshape(shape)[:, -_PROFILE_DAYS:]
        weight = _PROFILE_DECAY ** np.arange(_PROFILE_DAYS - 1, -1, -1.0)[:, None]
        weights = weight * self.seen.reshape(shape)[:, -_PROFILE_DAYS:]
        free_weights = weights * self.free.reshape(shape)[:, -_PROFILE_DAYS:]
        work_weights = weights - free_weights
        return _ratio((values * free_weights).sum(1), free_weights.sum(1)), _ratio(
            (values * work_weights).sum(1), work_weights.sum(1)
        )

    def _lags(self) -> dict[str, Floats]:
        week = 7 * self.per_day
        lags = {f"lag_{24 * days}h": self._lag(days * self.per_day) for days in _LAG_DAYS}
        before, after = self.leads - 1, self.leads + 1
        return lags | {
            "lag_167h": self._lag(week - self.per_hour),
            "lag_169h": self._lag(week + self.per_hour),
            "latest_same_hour": self._latest(self.leads),
            "latest_hour_before": self._latest(before),
            "latest_hour_after": self._latest(after),
            "same_week_hour_mean": _mean(np.stack([lags[f"lag_{168 * weeks}h"] for weeks in (1, 2, 3, 4)], axis=2)),
        }

    def _near(self) -> dict[str, Floats]:
        """Means of five hours around the target's clock time, on the latest day and a week before."""
        steps = [hours * self.per_hour for hours in _NEAR_H]
        week = 7 * self.per_day
        return {
            "latest_near": _mean(np.stack([self._latest(self.leads + step) for step in steps], axis=2)),
            "week_near": _mean(np.stack([self._lag(week + step) for step in steps], axis=2)),
        }

    def _latest(self, leads: Ints) -> Floats:
        """Return the last day's z at the clock time of `leads`."""
        return _take(self.z, self.width - self.per_day + (leads - 1) % self.per_day)

    def _recent_levels(self) -> dict[str, Floats]:
        z, span = self.z, self._span
        columns = {f"recent_{n}": z[:, -n] for n in _RECENT}
        columns |= {f"mean_{h}h": _mean(z[:, -span(h) :]) for h in _MEANS_H}
        columns |= {f"min_{h}h": np.fmin.reduce(z[:, -span(h) :], axis=1) for h in _EXTREMES_H}
        columns |= {f"max_{h}h": np.fmax.reduce(z[:, -span(h) :], axis=1) for h in _EXTREMES_H}
        return {name: column[:, None] for name, column in columns.items()}

    def _same_hour_quantiles(self) -> dict[str, Floats]:
        """Quantiles of up to 27 values at the target's clock time (linear between order statistics)."""
        ordered = np.sort(self.days[:, -_PROFILE_DAYS:].transpose(0, 2, 1), axis=2)  # NaN last
        count = np.isfinite(ordered).sum(axis=2)
        return {f"same_hour_q{q}": self._by_slot(_quantile_of_sorted(ordered, count, q / 100)) for q in (10, 50, 90)}

    def _shapes(self) -> dict[str, Floats]:
        """What kind of load this is: spread, roughness, share near zero, how much of the window is there."""
        week = self.z[:, -self._span(168) :]
        near_zero = np.where(np.isnan(week), np.nan, np.abs(week + (self.mean / self.scale)[:, None]) < _NEAR_ZERO)
        steps = np.arange(1, self.width + 1)
        last = np.where(self.seen, steps, 0).max(axis=1)
        columns = {f"std_{h}h": _std(self.z[:, -self._span(h) :]) for h in _STDS_H}
        columns |= {
            "std_168h_over_672h": _ratio(_std(week), _std(self.z[:, -self._span(672) :])),
            "near_zero_share": _mean(near_zero),
            "roughness": _mean(np.abs(np.diff(week, axis=1))),
            "mean_over_scale": np.abs(self.mean) / self.scale,
            "history_share": self.seen.mean(axis=1),
            "stale_h": (self.width - last) / self.per_hour,
        }
        return {name: column[:, None] for name, column in columns.items()}

    def _off_profile(self, free_profile: Floats, work_profile: Floats) -> Floats:
        """Return how far the last four weeks lie from the meter's own profile, [N, 28·slots]."""
        free = self.free.reshape(self.days.shape)[:, -_DEVIATION_DAYS:]
        own = np.where(free, free_profile[:, None], work_profile[:, None])
        return (self.days[:, -_DEVIATION_DAYS:] - own).reshape(len(self.z), -1)

    def _deviations(self, off: Floats) -> dict[str, Floats]:
        """How far the last hours lie from the meter's own profile."""
        columns = {f"deviation_{h}h": _mean(off[:, -self._span(h) :]) for h in _DEVIATIONS_H}
        columns |= {f"deviation_hour_{n}": off[:, -n * self.per_hour] for n in (2, 3)}
        columns["deviation_day_2"] = _mean(off[:, -2 * self.per_day : -self.per_day])
        return {name: column[:, None] for name, column in columns.items()}

    def _changes(self) -> dict[str, Floats]:
        """How far the last hours lie from the same hours a week and a day ago."""
        day, week = self.per_day, 7 * self.per_day
        off_week = self.z[:, -week:] - self.z[:, -2 * week : -week]
        off_day = self.z[:, -day:] - self.z[:, -2 * day : -day]
        columns = {f"week_change_{h}h": _mean(off_week[:, -self._span(h) :]) for h in _WEEK_CHANGES_H}
        columns |= {f"day_change_{h}h": _mean(off_day[:, -self._span(h) :]) for h in _DAY_CHANGES_H}
        return {name: column[:, None] for name, column in columns.items()}

    def _lasting(self, off: Floats) -> dict[str, Floats]:
        """What is left, at each lead, of the last hour's and the latest same hour's deviation; [N, L], some [N, 1]."""
        hourly, daily = persistence(off, self.per_hour), persistence(off, self.per_day)
        last_hour = _mean(off[:, -self.per_hour :])
        days_ahead = (self.leads - 1) // self.per_day + 1
        latest = np.nan_to_num(_take(off, off.shape[1] - self.per_day + self.slots), nan=0.0)
        columns = {f"carried_{h}h": self._carried(last_hour, np.array([exp(-1 / h)])) for h in _CARRIED_H}
        return columns | {
            "persistence_1h": hourly[:, None],
            "persistence_24h": daily[:, None],
            "carried": self._carried(last_hour, hourly),
            "carried_day": latest * decay(daily, days_ahead, 1),
        }

    def _carried(self, latest: Floats, per_hour: Floats) -> Floats:
        return carried(latest, decay(per_hour, self.leads, self.per_hour))

    def _calendar(self, free_target: Bools) -> dict[str, Floats]:
        """The target's local calendar; holidays of last week and the latest same hour explain odd lags."""
        local, at = self.grid.local, self.target_at
        latest = at - ((self.leads - 1) // self.per_day + 1) * self.per_day
        columns = {
            "lead_h": np.broadcast_to(self.leads / self.per_hour, at.shape),
            "hour": local.hour[at],
            "weekday": local.weekday[at],
            "hour_of_week": local.hour_of_week[at],
            "free_day": free_target,
            "holiday": local.holiday[at],
            "holiday_lag_168h": local.holiday[at - 7 * self.per_day],
            "free_day_latest": local.free[latest],
        }
        return {name: column.astype(np.float64) for name, column in columns.items()}


def _mean_and_scale(load: Floats, week: int, month: int) -> tuple[Floats, Floats]:
    """Return each row's level (last week, else all) and scale: max(std of a week, half the std of four), above zero."""
    mean = _mean(load[:, -week:])
    mean = np.where(np.isnan(mean), _mean(load), mean)
    scale = np.fmax(_std(load[:, -week:]), 0.5 * _std(load[:, -month:]))
    return mean, np.fmax(scale, _SCALE_FLOOR * np.abs(mean) + _SCALE_FLOOR_KW).clip(_SCALE_FLOOR_KW)


def _take(values: Floats, columns: Ints) -> Floats:
    """Return values[n, columns] for shared columns [L], or values[n, columns[n]] for columns [N, L]."""
    return values[:, columns] if columns.ndim == 1 else np.take_along_axis(values, columns, axis=1)


def _ratio(over: Floats, under: Floats) -> Floats:
    """Divide; NaN where `under` is not above zero."""
    ratio: Floats = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return ratio


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is there, NaN of nothing."""
    there = np.isfinite(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1).astype(np.float64))


def _std(values: Floats) -> Floats:
    """Population standard deviation over the last axis of what is there, NaN of nothing."""
    return np.sqrt(_mean((values - _mean(values)[..., None]) ** 2))


def _quantile_of_sorted(ordered: Floats, count: Ints, q: float) -> Floats:
    """Quantile of the first `count` of sorted values along the last axis; NaN where count is 0."""
    position = q * np.maximum(count - 1, 0)
    low = position.astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    below = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
    above = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
    return below + (position - low) * (above - below)
