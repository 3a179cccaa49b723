"""The backtest of the contract: train once before the first origin, forecast each, measure beside seasonal naive."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.backtest_windows import contract_windows
from central.calibrating import Ladder, Stretch, hindcast, served_windows
from central.covariates import Covariates, issues_from_file
from central.dataset import Panel
from central.evaluation import (
    Forecaster,
    Windows,
    forecast_windows,
    leads_of,
    measure,
    model_forecaster,
    model_rung,
    naive_forecaster,
    relative_mae,
    simple_rungs,
)
from central.file_panel import panel_from_file
from central.forecast_table import write_forecasts
from central.training import DEFAULT_RECIPE, Recipe, TrainedModel, train
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.params import ForecastParams, scored_leads
from shared.quantiles import Quantiles, modelled, places

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TELL_EVERY_S: Final = 5.0
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
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be forecast, in a sentence."""
        if self.origins < 1 or self.spacing_h < 1:
            raise DataFileError("--origins and --spacing: expected at least 1")
        if not 1 <= self.horizon_h <= 48:
            raise DataFileError(f"--horizon {self.horizon_h}h: expected 1h to 48h")
        try:
            modelled(self.quantiles)
        except ValueError as e:
            raise DataFileError(f"--quantiles: {e}") from e
        try:
            Calendar(self.zone, self.country)
        except ValueError as e:
            raise DataFileError(f"--zone, --country: {e}") from e

    @property
    def horizon_steps(self) -> int:
        """Return the horizon in steps."""
        return self.horizon_h * 3600 // self.step_s

    @property
    def modelled(self) -> Quantiles:
        """Return the quantiles of the model: those asked for, and the median."""
        return modelled(self.quantiles)

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
    panel = _panel(options)
    windows, firsts = _windows(panel, options)
    _say(f"training before the first of {options.origins} origins of {len(np.unique(windows.meters))} meters")
    started = time.perf_counter()
    model = _train_before(panel, firsts, options, recipe)
    train_s = time.perf_counter() - started
    if model is not None:
        _say(f"trained on {model.trained_rows} rows in {train_s:.1f} s")
    started = time.perf_counter()
    own = forecast_windows(panel, windows, _rung(model, options), _Progress(len(windows)))
    forecast_ms = 1000 * (time.perf_counter() - started) / len(windows)
    raw, forecast = _served(panel, windows, own, firsts, model, options)
    if options.out is not None:
        published = forecast[..., places(options.quantiles, options.modelled)]
        write_forecasts(options.out, panel, windows, published, options.quantiles)
        _say(f"wrote the forecasts to {options.out.name}")
    naive = {h: _naive(panel, windows, options, season_h=h) for h in (24, 168)}
    return _report(windows, forecast, raw, naive, options) | {
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


def _panel(options: BacktestOptions) -> Panel:
    _say(f"reading {options.readings.name}")
    panel = panel_from_file(options.readings, step_s=options.step_s, aggregate=options.aggregate)
    return panel if options.covariates is None else _with_covariates(panel, options.covariates)


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


def _windows(panel: Panel, options: BacktestOptions) -> tuple[Windows, Ints]:
    """Return what is judged, and the column of each meter's first origin."""
    try:
        windows, firsts, left = contract_windows(
            panel,
            origins=options.origins,
            spacing_steps=options.spacing_h * 3600 // options.step_s,
            horizon_steps=options.horizon_steps,
            own_ends=options.own_ends,
        )
    except DataFileError as e:
        raise DataFileError(f"{options.readings}: {e}") from e
    _say(f"{len(windows)} windows to forecast" + (f"; {left} left out: no history or no truth" if left else ""))
    return windows, firsts


def _train_before(panel: Panel, ends: Ints, options: BacktestOptions, recipe: Recipe) -> TrainedModel | None:
    """Train on what had ended before each meter's column of `ends` [M], or return None where that is too little.

    With ends of their own, meters have first origins of their own: what lies after is hidden from the training, so that
    no meter's judged truth is learned from.
    """
    try:
        return train(
            panel.known_at(ends),
            until_us=panel.start_us + int(ends.max()) * panel.step_us,
            quantiles=options.modelled,
            horizon_steps=options.horizon_steps,
            recipe=recipe,
            calendar=options.calendar,
        )
    except ValueError as e:
        _say(f"no model: {e}")
        return None


def _rung(model: TrainedModel | None, options: BacktestOptions) -> Forecaster:
    """Return the model as an edge would use it: from the default history on."""
    return model_rung(
        None if model is None else model_forecaster(model, options.calendar),
        options.modelled,
        min_history_steps=int(ForecastParams().min_history.total_seconds()) // options.step_s,
    )


def _served(
    panel: Panel, windows: Windows, own: Floats, firsts: Ints, model: TrainedModel | None, options: BacktestOptions
) -> tuple[Floats, Floats]:
    """Return what an edge without a starter would send, having seen every origin before; uncalibrated, and calibrated.

    As at an edge, where an earlier champion served before this one: a model trained up to `_WARM_UP_DAYS` before the
    first origin serves until there, so that nothing is calibrated, and no model stood down, by what it was trained on.
    """
    _say("calibrating online up to each window")
    lasts = np.zeros_like(firsts)
    np.maximum.at(lasts, windows.meters, panel.column(windows.origins_us) + 1)
    stretches = [Stretch(_rung(model, options), firsts, np.maximum(firsts, lasts))]
    begins = _warm_up_columns(panel, firsts)
    earlier = None
    if model is not None:  # half the rows: half the time, the same spread
        recipe = replace(model.recipe, rows_cap=model.recipe.rows_cap // 2)
        earlier = _train_before(panel, begins, options, recipe)
    if earlier is not None or model is None:
        stretches.insert(0, Stretch(_rung(earlier, options), begins, firsts))
    else:
        _say("too little before the first origin to calibrate on; calibration begins there")
    raw = hindcast(panel, stretches, scored_leads(options.step_s, options.horizon_steps), options.modelled)
    ladder = Ladder(simple_rungs(options.modelled, options.calendar, step_s=options.step_s), options.horizon_steps)
    sent, moved, down = served_windows(panel, windows, own, raw, ladder, options.modelled)
    if down.any():
        _say(f"the model was stood down for {len(np.unique(windows.meters[down]))} meters, {down.sum()} windows")
    return sent, moved


def _warm_up_columns(panel: Panel, firsts: Ints) -> Ints:
    """Return the columns [M] at which calibration begins."""
    born = np.isfinite(panel.load_kw).argmax(axis=1)
    known = np.maximum(firsts - born, 0)
    most = _WARM_UP_DAYS * 86_400 // panel.step_s
    begins: Ints = firsts - np.minimum(most, (known * _WARM_UP_SHARE).astype(np.int64))
    return begins


def _naive(panel: Panel, windows: Windows, options: BacktestOptions, *, season_h: int) -> Floats:
    forecaster = naive_forecaster(options.modelled, season_h=season_h, step_s=options.step_s)
    return forecast_windows(panel, windows, forecaster)


def _report(
    windows: Windows, forecast: Floats, raw: Floats, naive: dict[int, Floats], options: BacktestOptions
) -> dict[str, Any]:
    """Return overall, by_lead and the two seasonal naives; `raw` is `forecast` before calibration."""
    everything = slice(0, len(windows.leads))
    per_hour = 3600 // options.step_s
    buckets = [(low, min(high, options.horizon_h)) for low, high in _LEAD_BUCKETS_H if low <= options.horizon_h]

    def complete(forecast: Floats, leads: slice, raw: Floats | None = None) -> dict[str, float]:
        measured = measure(windows, forecast, options.modelled, leads, raw=raw)
        part, own = leads_of(windows, forecast, leads)
        for season_h, rival in naive.items():
            measured[f"rel_mae_{season_h}"] = relative_mae(part, own, rival[:, leads], options.modelled)
        return measured

    return {
        "overall": complete(forecast, everything, raw),
        "by_lead": [
            {"from": low, "to": high, **complete(forecast, slice((low - 1) * per_hour, high * per_hour), raw)}
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
