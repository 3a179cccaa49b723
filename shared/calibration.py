"""Online calibration: a meter's outer quantiles are moved until as many truths lie outside as should.

Quantile tracking, the online form of adaptive conformal prediction (Gibbs and Candès 2021, "Adaptive conformal
inference under distribution shift"), in the PI form of Angelopoulos, Candès and Tibshirani 2023, "Conformal PID control
for time series prediction": each truth is an error of either side, 1 − α when it lay beyond the quantile of that side
and −α when not, and the log of the factor on that side's width is

    a slow part, the sum of all errors times a rate: it holds the long-run share beyond at α, whatever the model does;
    plus a fast part, a sum that forgets within days: it answers a change, and is gone when the change is learned.

The median stays as it is. Rates are per hour of truth, so a site with four steps an hour learns no faster than one with
one. docs/adr/0015 tells what else was tried.

Invariants: `learned` uses nothing but what was issued and what came true; factors are bounded; calibrated quantiles
ascend and stay above the floor; a fresh state changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.quantiles import MEDIAN

STATE: Final = 5  # of a meter at a scored lead: slow part below and above the median, fast part likewise, hours learned

FACTOR_AT_MOST: Final = 6.0  # and at least its inverse

_SLOW_RATE: Final = 0.006  # of an hour's error; at its beginning a state learns faster, as 1 / time
_FIRST_RATE: Final = 0.02
_FIRST_HOURS: Final = 50.0
_FAST_RATE: Final = 0.02
_FAST_HOURS: Final = 72.0  # in which the fast part forgets
_BOUND: Final = float(np.log(FACTOR_AT_MOST))
_DAY_H: Final = 24
_LATER_COURSE: Final = 0.5  # how much of a first day's course is taken for that of a later one, which has one knot

Floats = NDArray[np.float64]
States = NDArray[np.float32]


def fresh(meters: int, knots: int) -> States:
    """Return the states [M, K, STATE] of meters nothing is known of, for K scored leads."""
    return np.zeros((meters, knots, STATE), dtype=np.float32)


def sound(states: States) -> NDArray[np.bool_]:
    """Return which states [N, K, STATE] can have been learned: parts within their bounds, hours not below zero."""
    parts, age_h = states[..., : STATE - 1], states[..., STATE - 1 :]
    within = (np.abs(parts) <= _BOUND).all(axis=2) & ((age_h >= 0) & np.isfinite(age_h)).all(axis=2)  # NaN is not
    every: NDArray[np.bool_] = np.logical_and.reduce(within, axis=1)
    return every


def calibrated(
    load_kw: Floats,
    states: States,
    *,
    leads: NDArray[np.int64],
    knots: Sequence[int],
    quantiles: Sequence[float],
    floor_kw: Floats,
) -> Floats:
    """Return kW [N, L, Q] of forecasts `load_kw` [N, L, Q] at `leads` [L], ascending along Q, by states [N, K, STATE].

    `knots` [K] are the scored leads in steps, ascending, the first an hour ahead: see `_between` for the leads between.
    A quantile at distance d from the median is moved by d as the outermost of its side. `floor_kw` [N]: see
    `load_floor`.
    """
    middle = list(quantiles).index(MEDIAN)
    growth = np.expm1(np.clip(_between(log_factors(states), leads, knots), -_BOUND, _BOUND))  # [N, L, 2]
    away = load_kw - load_kw[:, :, middle : middle + 1]
    moved = load_kw.copy()
    moved[:, :, :middle] += away[:, :, :middle] * growth[:, :, :1]
    moved[:, :, middle + 1 :] += away[:, :, middle + 1 :] * growth[:, :, 1:]
    moved.sort(axis=2)
    return np.maximum(moved, floor_kw[:, None, None])


def learned(
    states: States,
    truth_kw: Floats,
    issued_kw: NDArray[np.floating],
    *,
    outer: tuple[float, float],
    step_s: int = 3600,
) -> States:
    """Return the states [N, STATE] after truths [N] met the low, median and high [N, 3] that were issued for them.

    `outer` are the quantiles that low and high stand for, `step_s` the seconds that a truth covers. Where the truth or
    what was issued is NaN nothing changes.
    """
    hours = step_s / 3600
    low_kw, high_kw = issued_kw[:, 0].astype(np.float64), issued_kw[:, 2].astype(np.float64)
    error = np.stack([(truth_kw < low_kw) - outer[0], (truth_kw > high_kw) - (1 - outer[1])], axis=1)
    slow, fast, age_h = (states[:, part].astype(np.float64) for part in (slice(0, 2), slice(2, 4), slice(4, 5)))
    rate = np.maximum(_SLOW_RATE, _FIRST_RATE / (1 + age_h / _FIRST_HOURS))
    moved = [
        np.clip(slow + hours * rate * error, -_BOUND, _BOUND),
        fast * (1 - hours / _FAST_HOURS) + hours * _FAST_RATE * error,
        age_h + hours,
    ]
    known = np.isfinite(truth_kw) & np.isfinite(low_kw) & np.isfinite(high_kw)
    return np.where(known[:, None], np.concatenate(moved, axis=1), states).astype(np.float32)


def log_factors(states: States) -> Floats:
    """Return the logs [..., 2] of the factors on the widths below and above the median, of states [..., STATE]."""
    together = states[..., 0:2].astype(np.float64) + states[..., 2:4]
    return np.clip(together, -_BOUND, _BOUND)


def _between(values: Floats, leads: NDArray[np.int64], knots: Sequence[int]) -> Floats:
    """Return values [N, K, …] at the knots as values [N, L, …] at the leads.

    Within the first day they are linear in the logarithm of the lead. A later day ends with its last knot's value, and
    until there runs _LATER_COURSE as steeply as the first day does from the second knot on (docs/adr/0029).
    """
    day = _DAY_H * knots[0]
    later, within = leads > day, (leads - 1) % day + 1
    alike = np.where(later, np.maximum(within, knots[:2][-1]), leads)
    steepness = np.where(later, _LATER_COURSE, 1.0)[:, None]
    ends = leads - within + day
    return _at(values, ends, knots) + steepness * (_at(values, alike, knots) - _at(values, np.array([day]), knots))


def _at(values: Floats, leads: NDArray[np.int64], knots: Sequence[int]) -> Floats:
    """Return values at leads, linear in their logarithm between knots and level beyond the last."""
    at = np.interp(np.log(leads), np.log(knots), np.arange(len(knots)))
    low = at.astype(np.int64)
    high = np.minimum(low + 1, len(knots) - 1)
    return values[:, low] + (at - low)[:, None] * (values[:, high] - values[:, low])
