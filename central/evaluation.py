"""Rolling-origin evaluation: the scores that candidates are judged by, and the measures of `central backtest`.

At each origin a forecaster sees the windows that ended there; what came true afterwards is only ever compared with.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.backtest import BacktestOptions
from central.criteria import Score
from central.dataset import Panel, panel_from_file
from central.training import DEFAULT_RECIPE, Recipe, TrainedModel, predict, train
from shared import metrics
from shared.baselines import seasonal_naive_forecast
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.features import feature_matrix, to_load

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# (windows float32 [N, W], origins_us int64 [N], leads int64 [L]) → kW float64 [N, L, Q], ascending along Q
Forecaster = Callable[[NDArray[np.float32], Ints, Ints], Floats]

_BLOCK: Final = 512  # windows forecast at once
_LEAD_BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 36), (37, 48))


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
            forecaster(panel.windows(windows.meters[b], windows.origins_us[b]), windows.origins_us[b], windows.leads)
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
    return lambda windows, _, leads: seasonal_naive_forecast(
        windows, leads, quantiles, step_s=step_s, season_h=season_h
    )


def model_forecaster(model: TrainedModel, calendar: Calendar) -> Forecaster:
    """Return a trained model, in LightGBM itself, as a forecaster."""

    def forecast(windows: NDArray[np.float32], origins_us: Ints, leads: Ints) -> Floats:
        matrix = feature_matrix(windows, origins_us, leads, step_s=model.step_s, calendar=calendar)
        return to_load(predict(model, matrix.x), matrix)

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


def backtest(options: BacktestOptions, recipe: Recipe = DEFAULT_RECIPE) -> dict[str, Any]:
    """Train once before the first origin, forecast every origin, and return the keys of the backtest contract.

    Progress goes to stderr. Raises DataFileError when the file is too short for the origins asked for.
    """
    _say(f"reading {options.readings.name}")
    panel = panel_from_file(options.readings, step_s=options.step_s, aggregate=options.aggregate)
    windows = _contract_windows(panel, options)
    started = time.perf_counter()
    model = _train_before(panel, windows, options, recipe)
    train_s = time.perf_counter() - started
    _say(f"trained on {model.trained_rows} rows in {train_s:.1f} s; forecasting {len(windows)} windows")
    started = time.perf_counter()
    forecast = forecast_windows(panel, windows, model_forecaster(model, options.calendar))
    forecast_ms = 1000 * (time.perf_counter() - started) / len(windows)
    naive = {h: _naive(panel, windows, options, season_h=h) for h in (24, 168)}
    return _report(windows, forecast, naive, options) | {
        "meters": len(np.unique(windows.meters)),
        "origins": options.origins,
        "train_s": round(train_s, 3),
        "forecast_ms": round(forecast_ms, 4),
    }


def _contract_windows(panel: Panel, options: BacktestOptions) -> Windows:
    """Return the windows of the last origins: counted back from the latest end of all, or from each meter's own."""
    horizon = options.horizon_h * 3600 // options.step_s
    spacing = options.spacing_h * 3600 // options.step_s
    length = panel.load_kw.shape[1]
    seen: NDArray[np.bool_] = np.isfinite(panel.load_kw)
    own_end = length - seen[:, ::-1].argmax(axis=1)
    ends = own_end if options.own_ends else np.full(len(panel.meters), length)
    columns = ends[:, None] - horizon - spacing * np.arange(options.origins - 1, -1, -1)
    usable = (columns >= 86_400 // options.step_s) & np.isfinite(panel.load_kw).any(axis=1, keepdims=True)
    meters, which = np.nonzero(usable)
    origins_us = panel.start_us + columns[meters, which].astype(np.int64) * panel.step_us
    windows = judged_windows(panel, meters.astype(np.int64), origins_us, horizon_steps=horizon)
    if not len(windows):
        raise DataFileError(f"{options.readings}: too short for {options.origins} origins {options.spacing_h} h apart")
    return windows


def _train_before(panel: Panel, windows: Windows, options: BacktestOptions, recipe: Recipe) -> TrainedModel:
    """Train on what had ended before each meter's first origin.

    With ends of their own, meters have first origins of their own: what lies after is hidden from the training, so that
    no meter's judged truth is learned from.
    """
    first = np.full(len(panel.meters), np.iinfo(np.int64).max)
    np.minimum.at(first, windows.meters, windows.origins_us)
    ends = np.where(first == np.iinfo(np.int64).max, panel.end_us, first)
    known = np.arange(panel.load_kw.shape[1]) < panel.column(ends)[:, None]
    hidden = Panel(panel.meters, panel.start_us, panel.step_s, np.where(known, panel.load_kw, np.nan))
    try:
        return train(
            hidden,
            until_us=int(ends.max()),
            quantiles=options.quantiles,
            horizon_steps=len(windows.leads),
            recipe=recipe,
            calendar=options.calendar,
        )
    except ValueError as e:
        raise DataFileError(f"{options.readings}: {e}") from e


def _naive(panel: Panel, windows: Windows, options: BacktestOptions, *, season_h: int) -> Floats:
    forecaster = naive_forecaster(options.quantiles, season_h=season_h, step_s=options.step_s)
    return forecast_windows(panel, windows, forecaster)


def _report(windows: Windows, forecast: Floats, naive: dict[int, Floats], options: BacktestOptions) -> dict[str, Any]:
    """Return overall, by_lead and the two seasonal naives. Not calibrated online yet: raw is the same."""
    everything = slice(0, len(windows.leads))
    per_hour = 3600 // options.step_s
    buckets = [(low, min(high, options.horizon_h)) for low, high in _LEAD_BUCKETS_H if low <= options.horizon_h]

    def complete(forecast: Floats, leads: slice) -> dict[str, float]:
        own = measure(windows, forecast, options.quantiles, leads)
        rivals = {h: measure(windows, naive[h], options.quantiles, leads)["mase"] for h in naive}
        return own | {f"rel_mae_{h}": own["mase"] / rival if rival > 0 else float("nan") for h, rival in rivals.items()}

    return {
        "overall": complete(forecast, everything),
        "by_lead": [
            {"from": low, "to": high, **complete(forecast, slice((low - 1) * per_hour, high * per_hour))}
            for low, high in buckets
        ],
        "seasonal_naive_24": complete(naive[24], everything),
        "seasonal_naive_168": complete(naive[168], everything),
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


def _say(sentence: str) -> None:
    sys.stderr.write(f"backtest: {sentence}\n")
    sys.stderr.flush()
