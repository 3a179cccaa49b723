"""Online calibration: a meter's outer quantiles are moved until as many truths lie outside as should.

Quantile tracking, the online form of adaptive conformal prediction (Gibbs and Candès 2021, "Adaptive conformal
inference under distribution shift"; Angelopoulos, Candès and Tibshirani 2023, "Conformal PID control"): after each
truth a side's width grows when the truth lay beyond it and shrinks a little when not, so that in the long run the share
beyond is the nominal one, whatever the model and the load do. The median stays as it is.

Invariants: `learned` uses nothing but what was issued and what came true; factors are bounded; calibrated quantiles
ascend and stay above the floor; a fresh state changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

STATE: Final = 2  # of a meter at a scored lead: log of the factor on the width below the median, and above it

_RATE: Final = 0.03
_FACTOR_AT_MOST: Final = 6.0

Floats = NDArray[np.float64]
States = NDArray[np.float32]


def fresh(meters: int, knots: int) -> States:
    """Return the states [M, K, STATE] of meters nothing is known of, for K scored leads."""
    return np.zeros((meters, knots, STATE), dtype=np.float32)


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

    Between the scored leads `knots` [K] (in steps, ascending) factors are linear in the logarithm of the lead. A
    quantile at distance d from the median is moved by d as the outermost of its side. `floor_kw` [N]: see `load_floor`.
    """
    middle = list(quantiles).index(0.5)
    below, above = (_between(states[:, :, side].astype(np.float64), leads, knots) for side in (0, 1))
    log_factor = np.stack([below] * middle + [np.zeros_like(below)] + [above] * (len(quantiles) - middle - 1), axis=2)
    median = load_kw[:, :, middle : middle + 1]
    moved = np.sort(median + (load_kw - median) * np.exp(log_factor), axis=2)
    return np.maximum(moved, floor_kw[:, None, None])


def learned(states: States, truth_kw: Floats, issued_kw: NDArray[np.floating], *, outer: tuple[float, float]) -> States:
    """Return the states [N, STATE] after truths [N] met the low, median and high [N, 3] that were issued for them.

    `outer` are the quantiles that low and high stand for. Where the truth is NaN nothing changes.
    """
    low_kw, _, high_kw = issued_kw.astype(np.float64).T
    step = _RATE * np.stack([(truth_kw < low_kw) - outer[0], (truth_kw > high_kw) - (1 - outer[1])], axis=1)
    bound = np.log(_FACTOR_AT_MOST)
    moved = np.clip(states + np.where(np.isfinite(truth_kw)[:, None], step, 0.0), -bound, bound)
    return moved.astype(np.float32)


def _between(values: Floats, leads: NDArray[np.int64], knots: Sequence[int]) -> Floats:
    """Return values [N, K] at the knots as values [N, L] at the leads."""
    at = np.interp(np.log(leads), np.log(knots), np.arange(len(knots)))
    low = np.minimum(at.astype(np.int64), len(knots) - 1)
    high = np.minimum(low + 1, len(knots) - 1)
    return values[:, low] + (at - low) * (values[:, high] - values[:, low])
