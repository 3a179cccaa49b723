"""The backtest of the contract: train once before the first origin, forecast each, measure beside seasonal naive."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.calibrating import Stretch, calibrated_windows, hindcast
from central.covariates import Covariates, issues_from_file
from central.dataset import Panel, panel_from_file
from central.evaluation import Windows, forecast_windows, judged_windows, measure, model_forecaster, naive_forecaster
from central.training import DEFAULT_RECIPE, Recipe, TrainedModel, train
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.params import scored_leads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAD_BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 36), (37, 48))
_WARM_UP_DAYS: Final = 28  # of calibration before the first origin, by a model that ends there
_WARM_UP_SHARE: Final = 1 / 3  # of what is known by then, at most


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
    covariates: Path | None = None

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
    def horizon_steps(self) -> int:
        """Return the horizon in steps."""
        return self.horizon_h * 3600 // self.step_s

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


def backtest(options: BacktestOptions, recipe: Recipe = DEFAULT_RECIPE) -> dict[str, Any]:
    """Train once before the first origin, forecast every origin, and return the keys of the backtest contract.

    Progress goes to stderr. Raises DataFileError when the file is too short for the origins asked for.
    """
    _say(f"reading {options.readings.name}")
    panel = panel_from_file(options.readings, step_s=options.step_s, aggregate=options.aggregate)
    if options.covariates is not None:
        panel = _with_covariates(panel, options.covariates)
    windows = _contract_windows(panel, options)
    started = time.perf_counter()
    firsts = _first_columns(panel, windows)
    model = _train_before(panel, firsts, options, recipe)
    train_s = time.perf_counter() - started
    _say(f"trained on {model.trained_rows} rows in {train_s:.1f} s; forecasting {len(windows)} windows")
    started = time.perf_counter()
    forecast = forecast_windows(panel, windows, model_forecaster(model, options.calendar))
    forecast_ms = 1000 * (time.perf_counter() - started) / len(windows)
    _say("calibrating online up to each window")
    calibrated = _calibrated(panel, windows, forecast, firsts, model, options)
    naive = {h: _naive(panel, windows, options, season_h=h) for h in (24, 168)}
    return _report(windows, calibrated, forecast, naive, options) | {
        "meters": len(np.unique(windows.meters)),
        "origins": options.origins,
        "train_s": round(train_s, 3),
        "forecast_ms": round(forecast_ms, 4),
    }


def _with_covariates(panel: Panel, path: Path) -> Panel:
    """Return the panel with a file's covariates, the same for all meters; DataFileError where they say too little."""
    _say(f"reading {path.name}")
    known = Covariates.by_site({"": issues_from_file(path)}, [""] * len(panel.meters), panel.step_us)
    worth = known.worth_learning(panel.start_us, panel.end_us, panel.step_us)
    left_out = sorted(set(known.names) - set(worth.names))
    if not worth.names:
        raise DataFileError(f"{path}: says next to nothing of the readings' time: {', '.join(left_out)}")
    _say(f"covariates: {', '.join(worth.names)}" + (f"; too little of {', '.join(left_out)}" if left_out else ""))
    return replace(panel, covariates=worth)


def _contract_windows(panel: Panel, options: BacktestOptions) -> Windows:
    """Return the windows of the last origins: counted back from the latest end of all, or from each meter's own."""
    horizon = options.horizon_steps
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


def _first_columns(panel: Panel, windows: Windows) -> Ints:
    """Return the column of each meter's first origin [M]; the panel's end where a meter has none."""
    firsts = np.full(len(panel.meters), panel.load_kw.shape[1], dtype=np.int64)
    np.minimum.at(firsts, windows.meters, panel.column(windows.origins_us))
    return firsts


def _train_before(panel: Panel, ends: Ints, options: BacktestOptions, recipe: Recipe) -> TrainedModel:
    """Train on what had ended before each meter's column of `ends` [M].

    With ends of their own, meters have first origins of their own: what lies after is hidden from the training, so that
    no meter's judged truth is learned from.
    """
    known = np.arange(panel.load_kw.shape[1]) < ends[:, None]
    hidden = replace(panel, load_kw=np.where(known, panel.load_kw, np.nan))
    try:
        return train(
            hidden,
            until_us=panel.start_us + int(ends.max()) * panel.step_us,
            quantiles=options.quantiles,
            horizon_steps=options.horizon_steps,
            recipe=recipe,
            calendar=options.calendar,
        )
    except ValueError as e:
        raise DataFileError(f"{options.readings}: {e}") from e


def _calibrated(
    panel: Panel, windows: Windows, forecast: Floats, firsts: Ints, model: TrainedModel, options: BacktestOptions
) -> Floats:
    """Return the forecasts as an edge would issue them, whose calibration has seen every origin before.

    As at an edge, where an earlier champion served before this one: a model trained up to `_WARM_UP_DAYS` before the
    first origin serves until there, so that nothing is calibrated on what its model was trained on.
    """
    lasts = np.zeros_like(firsts)
    np.maximum.at(lasts, windows.meters, panel.column(windows.origins_us) + 1)
    stretches = [Stretch(model_forecaster(model, options.calendar), firsts, np.maximum(firsts, lasts))]
    begins = _warm_up_columns(panel, firsts)
    try:
        recipe = replace(model.recipe, rows_cap=model.recipe.rows_cap // 2)  # half the time, the same spread
        earlier = _train_before(panel, begins, options, recipe)
        stretches.append(Stretch(model_forecaster(earlier, options.calendar), begins, firsts))
    except DataFileError:
        _say("too little before the first origin to calibrate on; calibration begins there")
    knots = scored_leads(options.step_s, options.horizon_steps)
    raw = hindcast(panel, stretches, knots, options.quantiles)
    return calibrated_windows(panel, windows, forecast, raw, options.quantiles)


def _warm_up_columns(panel: Panel, firsts: Ints) -> Ints:
    """Return the columns [M] at which calibration begins."""
    born = np.isfinite(panel.load_kw).argmax(axis=1)
    known = np.maximum(firsts - born, 0)
    most = _WARM_UP_DAYS * 86_400 // panel.step_s
    begins: Ints = firsts - np.minimum(most, (known * _WARM_UP_SHARE).astype(np.int64))
    return begins


def _naive(panel: Panel, windows: Windows, options: BacktestOptions, *, season_h: int) -> Floats:
    forecaster = naive_forecaster(options.quantiles, season_h=season_h, step_s=options.step_s)
    return forecast_windows(panel, windows, forecaster)


def _report(
    windows: Windows, forecast: Floats, raw: Floats, naive: dict[int, Floats], options: BacktestOptions
) -> dict[str, Any]:
    """Return overall, by_lead and the two seasonal naives; `raw` is `forecast` before calibration."""
    everything = slice(0, len(windows.leads))
    per_hour = 3600 // options.step_s
    buckets = [(low, min(high, options.horizon_h)) for low, high in _LEAD_BUCKETS_H if low <= options.horizon_h]

    def complete(forecast: Floats, leads: slice, raw: Floats | None = None) -> dict[str, float]:
        own = measure(windows, forecast, options.quantiles, leads, raw=raw)
        rivals = {h: measure(windows, naive[h], options.quantiles, leads)["mase"] for h in naive}
        return own | {f"rel_mae_{h}": own["mase"] / rival if rival > 0 else float("nan") for h, rival in rivals.items()}

    return {
        "overall": complete(forecast, everything, raw),
        "by_lead": [
            {"from": low, "to": high, **complete(forecast, slice((low - 1) * per_hour, high * per_hour), raw)}
            for low, high in buckets
        ],
        "seasonal_naive_24": complete(naive[24], everything),
        "seasonal_naive_168": complete(naive[168], everything),
    }


def _say(sentence: str) -> None:
    sys.stderr.write(f"backtest: {sentence}\n")
    sys.stderr.flush()
