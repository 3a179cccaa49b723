"""Rolling-origin evaluation: what candidates are judged by, and what `central backtest` measures.

At each origin a forecaster sees the windows that ended there; what came true afterwards is only ever compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates, covariate_columns_of
from central.criteria import Score
from central.dataset import Panel
from central.training import TrainedModel, predict
from shared import metrics
from shared.baselines import seasonal_naive_forecast
from shared.calendars import Calendar
from shared.covariates import with_columns
from shared.features import feature_matrix, to_load

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Forecaster(Protocol):
    """Makes forecasts in kW, float64 [N, L, Q] ascending along Q."""

    def __call__(
        self, windows: NDArray[np.float32], origins_us: Ints, leads: Ints, covariates: Covariates | None = None, /
    ) -> Floats:
        """Forecast windows [N, W] at origins [N] for leads [L]; `covariates` are what the N know ahead, if anything."""
        ...


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


def forecast_windows(panel: Panel, windows: Windows, forecaster: Forecaster) -> Floats:
    """Return kW [N, L, Q] of a forecaster, block by block."""
    blocks = [slice(first, first + _BLOCK) for first in range(0, len(windows), _BLOCK)]
    return np.concatenate(
        [
            forecaster(
                panel.windows(windows.meters[b], windows.origins_us[b]),
                windows.origins_us[b],
                windows.leads,
                panel.covariates_of(windows.meters[b]),
            )
            for b in blocks
        ]
    )


def judged_score(panel: Panel, forecaster: Forecaster, windows: Windows, quantiles: tuple[float, ...]) -> Score:
    """Return the Score of a forecaster on `windows`, as central/criteria.judge takes it."""
    forecast = forecast_windows(panel, windows, forecaster)
    measured = measure(windows, forecast, quantiles, slice(None))
    meters = len(np.unique(windows.meters))
    return Score(measured["mase"], measured["wql"], measured["coverage_80"], len(windows), meters)


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


def measure(
    windows: Windows, forecast: Floats, quantiles: tuple[float, ...], leads: slice, *, raw: Floats | None = None
) -> dict[str, float]:
    """Return the measures M of the backtest contract over a range of leads, but for those relative to seasonal naive.

    `forecast` [N, L, Q]; `raw` is the same before online calibration (default: there was none). MASE is the mean over
    origins, then over meters; `width_80` is relative to Σ|y|.
    """
    actual, forecast = windows.actual[:, leads], forecast[:, leads]
    raw = forecast if raw is None else raw[:, leads]
    interval, raw_interval = (metrics.at_quantiles(f, quantiles, (0.1, 0.5, 0.9)) for f in (forecast, raw))
    low, median, high = (interval[..., i] for i in range(3))
    return {
        "mase": _mean_over_meters(windows.meters, metrics.mase(actual, median, windows.scale)),
        "smape": metrics.smape(actual, median),
        "wape": metrics.wape(actual, median),
        "wql": metrics.wql(actual, forecast, quantiles),
        "coverage_80": metrics.coverage(actual, low, high),
        "coverage_80_raw": metrics.coverage(actual, raw_interval[..., 0], raw_interval[..., 2]),
        "width_80": metrics.width(actual, low, high),
        "peak_hour_error": _peak_hour_error(windows, median, leads),
    }


def _scales(panel: Panel, meters: Ints, origins_us: Ints) -> Floats:
    """Return MASE's scale of each window: mean |y_t − y_{t−24h}| before its origin, by running sums."""
    season = 86_400 // panel.step_s
    apart = np.full(panel.load_kw.shape, np.nan)
    apart[:, season:] = np.abs(panel.load_kw[:, season:] - panel.load_kw[:, :-season])
    there = np.isfinite(apart)
    total = np.cumsum(np.where(there, apart, 0.0), axis=1)
    count = np.cumsum(there, axis=1)
    last = np.minimum(panel.column(origins_us), panel.load_kw.shape[1]) - 1
    sums, counts = total[meters, last], count[meters, last]
    scales: Floats = np.divide(sums, counts, out=np.full(len(meters), np.nan), where=counts > 0)
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
    return float(np.mean(errors))
