"""Rolling-origin evaluation: what candidates are judged by, and what `central backtest` measures.

At each origin a forecaster sees the windows that ended there; what came true afterwards is only ever compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates, covariate_columns_of
from central.criteria import Score
from central.dataset import Panel
from central.training import TrainedModel, predict
from shared import metrics
from shared.baselines import fallback_forecast, seasonal_naive_forecast
from shared.calendars import Calendar
from shared.covariates import with_columns
from shared.dormancy import known_in_use
from shared.features import WINDOW_DAYS, feature_matrix, to_load
from shared.quantiles import MEDIAN, spans

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Forecaster(Protocol):
    """Makes forecasts in kW, float64 [N, L, Q] ascending along Q."""

    def __call__(
        self, windows: NDArray[np.float32], origins_us: Ints, leads: Ints, covariates: Covariates | None = None, /
    ) -> Floats:
        """Forecast windows [N, W] at origins [N] for leads [L]; `covariates` are what the N know ahead, if anything."""
        ...


INTERVAL_80: Final = (0.1, 0.9)

_BLOCK: Final = 512  # windows forecast at once


@dataclass(frozen=True, slots=True)
class Windows:
    """The judged windows: meter index and origin of each [N], what came true [N, L] and MASE's scale [N]."""

    meters: Ints
    origins_us: Ints
    leads: Ints
    step_s: int
    actual: Floats
    scale: Floats

    def __len__(self) -> int:
        """Return how many windows there are."""
        return len(self.meters)


def judged_windows(panel: Panel, meters: Ints, origins_us: Ints, *, horizon_steps: int = 48) -> Windows:
    """Return the windows of (meter, origin) pairs [N] in which anything came true.

    The scale is the mean |y_t − y_{t−24h}| of all the meter's data before the origin, NaN where there is none.
    """
    leads = np.arange(1, horizon_steps + 1, dtype=np.int64)
    actual = panel.truth(meters, origins_us, leads)
    kept = np.isfinite(actual).any(axis=1)
    meters, origins_us, actual = meters[kept], origins_us[kept], actual[kept]
    return Windows(meters, origins_us, leads, panel.step_s, actual, _scales(panel, meters, origins_us))


def all_pairs(panel: Panel, origins_us: Ints) -> tuple[Ints, Ints]:
    """Return every meter at every origin, as the two columns `judged_windows` takes."""
    count = len(panel.meters)
    return np.repeat(np.arange(count, dtype=np.int64), len(origins_us)), np.tile(origins_us, count)


def forecast_windows(
    panel: Panel, windows: Windows, forecaster: Forecaster, progress: Callable[[int], None] = lambda _: None
) -> Floats:
    """Return kW [N, L, Q] of a forecaster, block by block; `progress` is told how many windows are done."""
    made = []
    for first in range(0, len(windows), _BLOCK):
        block = slice(first, first + _BLOCK)
        meters, origins_us = windows.meters[block], windows.origins_us[block]
        ahead = panel.covariates_of(meters)
        made.append(forecaster(panel.windows(meters, origins_us), origins_us, windows.leads, ahead))
        progress(min(first + _BLOCK, len(windows)))
    return np.concatenate(made)


def judged_score(panel: Panel, forecaster: Forecaster, windows: Windows, quantiles: tuple[float, ...]) -> Score:
    """Return the Score of a forecaster on `windows`, as central/criteria.judge takes it."""
    forecast = forecast_windows(panel, windows, forecaster)
    measured = measure(windows, forecast, quantiles, slice(None))
    coverage_80 = measured["coverage_80"] if spans(quantiles, *INTERVAL_80) else None
    return Score(measured["mase"], measured["wql"], coverage_80, len(windows), len(np.unique(windows.meters)))


def naive_forecaster(quantiles: tuple[float, ...], *, season_h: int, step_s: int = 3600) -> Forecaster:
    """Return seasonal naive with residual quantiles as a forecaster."""

    def forecast(
        windows: NDArray[np.float32], _origins_us: Ints, leads: Ints, _covariates: Covariates | None = None, /
    ) -> Floats:
        return seasonal_naive_forecast(windows, leads, quantiles, step_s=step_s, season_h=season_h)

    return forecast


def model_forecaster(model: TrainedModel, calendar: Calendar) -> Forecaster:
    """Return a trained model, in LightGBM itself, as a forecaster."""

    def forecast(
        windows: NDArray[np.float32], origins_us: Ints, leads: Ints, covariates: Covariates | None = None, /
    ) -> Floats:
        matrix = feature_matrix(windows, origins_us, leads, step_s=model.step_s, calendar=calendar)
        columns = covariate_columns_of(covariates, model.covariates, origins_us, leads)
        return to_load(predict(model, with_columns(matrix.x, columns)), matrix)

    return forecast


def model_rung(model: Forecaster | None, quantiles: tuple[float, ...], *, min_history_steps: int) -> Forecaster:
    """Return a model as a rung of the ladder: NaN where the history is too short for it, or there is no model."""

    def forecast(
        windows: NDArray[np.float32], origins_us: Ints, leads: Ints, covariates: Covariates | None = None, /
    ) -> Floats:
        kw = np.full((len(windows), len(leads), len(quantiles)), np.nan)
        enough = known_in_use(windows, windows.shape[1] // WINDOW_DAYS).sum(axis=1) >= min_history_steps
        if model is not None and enough.any():
            ahead = None if covariates is None else covariates.of(np.flatnonzero(enough))
            kw[enough] = model(windows[enough], origins_us[enough], leads, ahead)
        return kw

    return forecast


def simple_rungs(quantiles: tuple[float, ...], calendar: Calendar, *, step_s: int = 3600) -> Forecaster:
    """Return the rungs without a model as a forecaster, finite for every window with any finite value."""

    def forecast(windows: NDArray[np.float32], origins_us: Ints, leads: Ints, _: Covariates | None = None, /) -> Floats:
        return fallback_forecast(windows, origins_us, leads, quantiles, calendar=calendar, step_s=step_s)[0]

    return forecast


def relative_mae(windows: Windows, forecast: Floats, rival: Floats, quantiles: tuple[float, ...]) -> float:
    """Return MASE over that of a rival, over what both have forecast; NaN where the rival made no error."""
    answered = np.isfinite(forecast).all(axis=2) & np.isfinite(rival).all(axis=2)
    actual = np.where(answered, windows.actual, np.nan)
    ours, theirs = (
        _mean_over_meters(windows.meters, metrics.mase(actual, median_of(f, quantiles), windows.scale))
        for f in (forecast, rival)
    )
    return ours / theirs if theirs > 0 else float("nan")


def median_of(forecast: Floats, quantiles: tuple[float, ...]) -> Floats:
    """Return the medians [N, L] of quantiles [N, L, Q], the point forecasts; interpolated where not among them."""
    return metrics.at_quantiles(forecast, quantiles, (MEDIAN,))[..., 0]


def leads_of(windows: Windows, forecast: Floats, leads: slice) -> tuple[Windows, Floats]:
    """Return the windows and forecasts of a range of leads alone."""
    return replace(windows, leads=windows.leads[leads], actual=windows.actual[:, leads]), forecast[:, leads]


def measure(
    windows: Windows, forecast: Floats, quantiles: tuple[float, ...], leads: slice, *, raw: Floats | None = None
) -> dict[str, float]:
    """Return the measures M of the backtest contract over a range of leads, but for those relative to seasonal naive.

    `forecast` [N, L, Q]; `raw` is the same before online calibration (default: there was none). MASE is the mean over
    origins, then over meters; `width_80` is relative to Σ|y|. What is said of the 80 % interval is NaN where the
    quantiles do not span it.
    """
    actual, forecast = windows.actual[:, leads], forecast[:, leads]
    raw = forecast if raw is None else raw[:, leads]
    (low, high), (raw_low, raw_high) = (_interval_80(f, quantiles) for f in (forecast, raw))
    median = median_of(forecast, quantiles)
    return {
        "mase": _mean_over_meters(windows.meters, metrics.mase(actual, median, windows.scale)),
        "smape": metrics.smape(actual, median),
        "wape": metrics.wape(actual, median),
        "wql": metrics.wql(actual, forecast, quantiles),
        "coverage_80": metrics.coverage(actual, low, high),
        "coverage_80_raw": metrics.coverage(actual, raw_low, raw_high),
        "width_80": metrics.width(actual, low, high),
        "peak_hour_error": _peak_hour_error(windows, median, leads),
    }


def _interval_80(forecast: Floats, quantiles: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return both ends [N, L], interpolated where not modelled; NaN where the quantiles do not reach them."""
    if not spans(quantiles, *INTERVAL_80):
        nothing = np.full(forecast.shape[:-1], np.nan)
        return nothing, nothing
    ends = metrics.at_quantiles(forecast, quantiles, INTERVAL_80)
    return ends[..., 0], ends[..., 1]


def _scales(panel: Panel, meters: Ints, origins_us: Ints) -> Floats:
    """Return MASE's scale of each window: mean |y_t − y_{t−24h}| before its origin, by running sums of each meter."""
    season = 86_400 // panel.step_s
    scales = np.full(len(meters), np.nan)
    last = np.minimum(panel.column(origins_us), panel.load_kw.shape[1])  # columns before it are known
    for meter in np.unique(meters):
        load = panel.load_kw[meter]
        apart = np.abs(load[season:] - load[:-season])
        there = np.isfinite(apart)
        own = np.flatnonzero((meters == meter) & (last > season))
        total, count = np.cumsum(np.where(there, apart, 0.0)), np.cumsum(there)
        known = own[count[last[own] - season - 1] > 0]
        at = last[known] - season - 1
        scales[known] = total[at] / count[at]
    return scales


def _mean_over_meters(meters: Ints, values: Floats) -> float:
    """Return the mean over each meter's windows, then over meters; what is NaN counts nowhere."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    _, index = np.unique(meters[known], return_inverse=True)
    return float((np.bincount(index, values[known]) / np.bincount(index)).mean())


def _peak_hour_error(windows: Windows, median: Floats, leads: slice) -> float:
    """Return the mean peak hour error over each window's days of leads (or the part of a day asked for)."""
    per_day = 86_400 // windows.step_s
    numbers = windows.leads[leads]
    days = [(numbers - 1) // per_day == day for day in np.unique((numbers - 1) // per_day)]
    errors = [
        metrics.peak_hour_error(windows.actual[:, leads][:, d], median[:, d], step_s=windows.step_s) for d in days
    ]
    return float(metrics.mean_of(np.array(errors)))
