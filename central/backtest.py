"""The backtest of the contract: train once before the first origin, forecast each, measure beside seasonal naive."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel, panel_from_file
from central.evaluation import (
    Forecaster,
    Windows,
    forecast_windows,
    judged_windows,
    ladder_forecaster,
    leads_of,
    measure,
    model_forecaster,
    naive_forecaster,
    relative_mae,
)
from central.forecast_table import write_forecasts
from central.training import DEFAULT_RECIPE, Recipe, TrainedModel, train
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.features import window_steps
from shared.params import ForecastParams

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TELL_EVERY_S: Final = 5.0
_LEAD_BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 36), (37, 48))


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """What `central backtest` was asked for."""

    readings: Path
    origins: int = 8
    spacing_h: int = 48
    horizon_h: int = 48
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    step_s: int = 3600
    aggregate: str = "mean"
    zone: str = "UTC"
    country: str | None = None
    own_ends: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be forecast, in a sentence."""
        if self.origins < 1 or self.spacing_h < 1:
            raise DataFileError("--origins and --spacing: expected at least 1")
        if not 1 <= self.horizon_h <= 48:
            raise DataFileError(f"--horizon {self.horizon_h}h: expected 1h to 48h")
        if 0.5 not in self.quantiles or list(self.quantiles) != sorted(set(self.quantiles)):
            raise DataFileError("--quantiles: expected them ascending, with 0.5 among them")
        if not 0 < self.quantiles[0] <= self.quantiles[-1] < 1:
            raise DataFileError("--quantiles: expected fractions between 0 and 1")
        try:
            Calendar(self.zone, self.country)
        except ValueError as e:
            raise DataFileError(f"--zone, --country: {e}") from e

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


def backtest(options: BacktestOptions, recipe: Recipe = DEFAULT_RECIPE) -> dict[str, Any]:
    """Train once before the first origin, forecast every origin, and return the keys of the backtest contract.

    With `options.out` the forecasts are written there. Progress goes to stderr. Raises DataFileError when the file is
    too short for the origins asked for, or cannot be read or written.
    """
    _require_place(options.out)
    _say(f"reading {options.readings.name}")
    panel = panel_from_file(options.readings, step_s=options.step_s, aggregate=options.aggregate)
    windows, cuts_us = _contract_windows(panel, options)
    _say(f"training before the first of {options.origins} origins of {len(np.unique(windows.meters))} meters")
    started = time.perf_counter()
    model = _train_before(panel, cuts_us, options, recipe)
    train_s = time.perf_counter() - started
    if model is not None:
        _say(f"trained on {model.trained_rows} rows in {train_s:.1f} s")
    started = time.perf_counter()
    forecast = forecast_windows(panel, windows, _ladder(model, options), _Progress(len(windows)))
    forecast_ms = 1000 * (time.perf_counter() - started) / len(windows)
    if options.out is not None:
        write_forecasts(options.out, panel, windows, forecast, options.quantiles)
        _say(f"wrote the forecasts to {options.out.name}")
    naive = {h: _naive(panel, windows, options, season_h=h) for h in (24, 168)}
    return _report(windows, forecast, naive, options) | {
        "meters": len(np.unique(windows.meters)),
        "origins": options.origins,
        "train_s": round(train_s, 3),
        "forecast_ms": round(forecast_ms, 4),
    }


def _require_place(out: Path | None) -> None:
    """Find out before the work, not after it, whether there is a folder to write to."""
    if out is None:
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataFileError(f"--out {out}: cannot be written: {e.strerror or e}") from e
    if out.is_dir():
        raise DataFileError(f"--out {out}: is a folder, expected the name of a file")


def _contract_windows(panel: Panel, options: BacktestOptions) -> tuple[Windows, Ints]:
    """Return the windows of the last origins, and where each meter's knowledge must end for training, [M] µs.

    The last window ends at the latest end of all, or at each meter's own. An origin counts for a meter that was first
    seen a day before it and has anything in its window: nobody could forecast the others.
    """
    columns = _origin_columns(panel, options)
    usable = _usable(panel, columns)
    meters, which = np.nonzero(usable)
    origins_us = panel.start_us + columns[meters, which].astype(np.int64) * panel.step_us
    windows = judged_windows(
        panel, meters.astype(np.int64), origins_us, horizon_steps=options.horizon_h * 3600 // options.step_s
    )
    if not len(windows):
        raise DataFileError(f"{options.readings}: too short for {options.origins} origins {options.spacing_h} h apart")
    left = columns.size - len(windows)
    _say(f"{len(windows)} windows to forecast" + (f"; {left} left out: no history or no truth" if left else ""))
    return windows, _cuts_us(panel, columns, usable, own=options.own_ends)


def _origin_columns(panel: Panel, options: BacktestOptions) -> Ints:
    """Return the columns of all planned origins [M, K], ascending; early ones may lie before a meter's data."""
    length = panel.load_kw.shape[1]
    horizon = options.horizon_h * 3600 // options.step_s
    spacing = options.spacing_h * 3600 // options.step_s
    seen: NDArray[np.bool_] = np.isfinite(panel.load_kw)
    ends = length - seen[:, ::-1].argmax(axis=1) if options.own_ends else np.full(len(panel.meters), length)
    columns: Ints = ends[:, None] - horizon - spacing * np.arange(options.origins - 1, -1, -1)
    return columns


def _usable(panel: Panel, columns: Ints) -> NDArray[np.bool_]:
    """Whether a meter [M, K] was first seen a day before an origin, and at all within its window."""
    seen = np.isfinite(panel.load_kw)
    first = np.where(seen.any(axis=1), seen.argmax(axis=1), seen.shape[1])
    usable: NDArray[np.bool_] = columns >= first[:, None] + 86_400 // panel.step_s
    width = window_steps(panel.step_s)
    for meter, which in zip(*np.nonzero(usable), strict=True):
        end = columns[meter, which]
        usable[meter, which] = seen[meter, max(0, end - width) : end].any()
    return usable


def _cuts_us(panel: Panel, columns: Ints, usable: NDArray[np.bool_], *, own: bool) -> Ints:
    """Return the first origin [M]: each meter's with `own` ends, else the first that any meter has."""
    firsts = np.where(usable, columns, np.iinfo(np.int64).max).min(axis=1)
    firsts = np.where(usable.any(axis=1), firsts, np.maximum(columns[:, 0], 0))
    if not own:
        firsts = np.full(len(firsts), firsts[usable.any(axis=1)].min())
    cuts: Ints = panel.start_us + firsts.astype(np.int64) * panel.step_us
    return cuts


def _train_before(panel: Panel, cuts_us: Ints, options: BacktestOptions, recipe: Recipe) -> TrainedModel | None:
    """Train on what had ended before each meter's first origin, or return None where that is too little.

    With ends of their own, meters have first origins of their own: what lies after is hidden from the training, so that
    no meter's judged truth is learned from.
    """
    known = np.arange(panel.load_kw.shape[1]) < panel.column(cuts_us)[:, None]
    hidden = Panel(panel.meters, panel.start_us, panel.step_s, np.where(known, panel.load_kw, np.nan))
    try:
        return train(
            hidden,
            until_us=int(cuts_us.max()),
            quantiles=options.quantiles,
            horizon_steps=options.horizon_h * 3600 // options.step_s,
            recipe=recipe,
            calendar=options.calendar,
        )
    except ValueError as e:
        _say(f"no model, forecasting as an edge would without one: {e}")
        return None


def _ladder(model: TrainedModel | None, options: BacktestOptions) -> Forecaster:
    """Return the forecasts an edge would send: the model from the product's default history on, else simple rungs."""
    return ladder_forecaster(
        None if model is None else model_forecaster(model, options.calendar),
        options.quantiles,
        step_s=options.step_s,
        min_history_steps=int(ForecastParams().min_history.total_seconds()) // options.step_s,
    )


def _naive(panel: Panel, windows: Windows, options: BacktestOptions, *, season_h: int) -> Floats:
    forecaster = naive_forecaster(options.quantiles, season_h=season_h, step_s=options.step_s)
    return forecast_windows(panel, windows, forecaster)


def _report(windows: Windows, forecast: Floats, naive: dict[int, Floats], options: BacktestOptions) -> dict[str, Any]:
    """Return overall, by_lead and the two seasonal naives. Not calibrated online yet: raw is the same."""
    everything = slice(0, len(windows.leads))
    per_hour = 3600 // options.step_s
    buckets = [(low, min(high, options.horizon_h)) for low, high in _LEAD_BUCKETS_H if low <= options.horizon_h]

    def complete(forecast: Floats, leads: slice) -> dict[str, float]:
        measured = measure(windows, forecast, options.quantiles, leads)
        part, own = leads_of(windows, forecast, leads)
        for season_h, rival in naive.items():
            measured[f"rel_mae_{season_h}"] = relative_mae(part, own, rival[:, leads], options.quantiles)
        return measured

    return {
        "overall": complete(forecast, everything),
        "by_lead": [
            {"from": low, "to": high, **complete(forecast, slice((low - 1) * per_hour, high * per_hour))}
            for low, high in buckets
        ],
        "seasonal_naive_24": complete(naive[24], everything),
        "seasonal_naive_168": complete(naive[168], everything),
    }


class _Progress:
    """Tells on stderr how many of `total` windows are forecast, every few seconds at most."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._told_s = time.monotonic()

    def __call__(self, done: int) -> None:
        if done == self._total or time.monotonic() - self._told_s > _TELL_EVERY_S:
            self._told_s = time.monotonic()
            _say(f"forecast {done} of {self._total} windows")


def _say(sentence: str) -> None:
    sys.stderr.write(f"backtest: {sentence}\n")
    sys.stderr.flush()
