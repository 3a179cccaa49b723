"""Measures of forecasts against what came true, in the definitions of the backtest contract.

Arrays are kW; `actual` and `median` share a shape, forecasts carry quantiles in their last axis. NaN in `actual` is
missing truth and counts nowhere. Ratios over nothing are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

DECILES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Floats = NDArray[np.float64]


def mean_of(values: Floats) -> Floats:
    """Return the mean over the last axis of what is finite; NaN of nothing."""
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0.0).sum(axis=-1)
    mean: Floats = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return mean


def mase(actual: Floats, median: Floats, scale: Floats) -> Floats:
    """Return MAE along the last axis over `scale` (one per remaining index); NaN where the scale is not above zero.

    Hyndman & Koehler (2006): the scale is the mean |y_t − y_{t−season}| of what came before, the season being a day.
    """
    mae = mean_of(np.abs(actual - median))
    scaled: Floats = np.divide(mae, scale, out=np.full(np.shape(mae), np.nan), where=scale > 0)
    return scaled


def smape(actual: Floats, median: Floats) -> float:
    """Return the mean of 200·|e| / (|y| + |f|) in percent, 0/0 = 0."""
    error, size = np.abs(actual - median), np.abs(actual) + np.abs(median)
    terms = np.divide(200.0 * error, size, out=np.zeros(np.shape(error)), where=size != 0)
    return float(mean_of(np.where(np.isnan(error), np.nan, terms).ravel()))


def wape(actual: Floats, median: Floats) -> float:
    """Return Σ|e| / Σ|y|."""
    known = np.isfinite(actual) & np.isfinite(median)
    return _over(np.abs(actual - median)[known].sum(), np.abs(actual[known]).sum())


def pinball(actual: Floats, forecast: Floats, quantile: float) -> Floats:
    """Return the pinball loss of each forecast of one quantile, in kW: q·(y − f) above it, (1 − q)·(f − y) below."""
    error = actual - forecast
    return np.maximum(quantile * error, (quantile - 1.0) * error)


def wql(actual: Floats, forecast: Floats, quantiles: Sequence[float]) -> float:
    """Return the weighted quantile loss over .1 … .9: the mean over those of Σ 2·pinball / Σ|y|.

    `forecast` [..., Q] at the modelled `quantiles`; the others are interpolated by `at_quantiles`.
    """
    wanted = at_quantiles(forecast, quantiles, DECILES)
    known = np.isfinite(actual) & np.isfinite(wanted).all(axis=-1)
    losses = [2.0 * pinball(actual[known], wanted[known][:, i], q).sum() for i, q in enumerate(DECILES)]
    return _over(float(np.mean(losses)), np.abs(actual[known]).sum())


def at_quantiles(forecast: Floats, quantiles: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Return `forecast` [..., Q] at other quantiles [..., W], ascending.

    Linear in normal-score space; the slopes at both ends are carried on.
    """
    if len(quantiles) == 1:
        return np.repeat(forecast, len(wanted), axis=-1)
    known = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    scores = np.array([NormalDist().inv_cdf(q) for q in wanted])
    right = np.clip(np.searchsorted(known, scores), 1, len(known) - 1)
    share = (scores - known[right - 1]) / (known[right] - known[right - 1])
    low, high = forecast[..., right - 1], forecast[..., right]
    return np.sort(np.where(share == 1.0, high, low + share * (high - low)), axis=-1)


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Return the fraction of known truths inside [low, high]."""
    inside = ((actual >= low) & (actual <= high)).astype(np.float64)
    return float(mean_of(np.where(np.isfinite(actual) & np.isfinite(low), inside, np.nan).ravel()))


def width(actual: Floats, low: Floats, high: Floats) -> float:
    """Return the summed width of intervals over Σ|y| of the same rows: comparable across meters' sizes."""
    known = np.isfinite(actual) & np.isfinite(low)
    return _over((high - low)[known].sum(), np.abs(actual[known]).sum())


def peak_hour_error(actual: Floats, median: Floats, *, step_s: int = 3600) -> float:
    """Return the mean hours between forecast and true peak, over rows of one day each along the last axis.

    Rows with missing truth are left out; of equal peaks the first counts.
    """
    whole = np.isfinite(actual).all(axis=-1) & np.isfinite(median).all(axis=-1)
    if not whole.any():
        return float("nan")
    apart = np.abs(actual[whole].argmax(axis=-1) - median[whole].argmax(axis=-1))
    return float(apart.mean() * step_s / 3600)


def _over(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole > 0 else float("nan")
