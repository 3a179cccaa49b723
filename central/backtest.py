"""The backtest of the contract: train once before the first origin, forecast each, measure beside seasonal naive.

windows → train once → forecast → replay the edge → measure
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.backtest_options import BacktestOptions, panel_of, require_place
from central.backtest_report import report
from central.backtest_windows import contract_windows
from central.dataset import Panel
from central.edge_replay import Ladder, served_windows
from central.evaluation import Forecaster, Windows, forecast_windows, model_forecaster, model_rung, simple_rungs
from central.forecast_table import write_forecasts
from central.hindcast import Stretch, hindcast
from central.progress import Counted, teller
from central.training import DEFAULT_RECIPE, Recipe, TrainedModel, train
from shared.errors import DataFileError
from shared.quantiles import places

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WARM_UP_DAYS: Final = 28  # of calibration before the first origin, by a model that ends there
_WARM_UP_SHARE: Final = 1 / 3  # of what is known by then, at most

_say = teller("backtest")


def backtest(options: BacktestOptions, recipe: Recipe = DEFAULT_RECIPE) -> dict[str, Any]:
    """Train once before the first origin, forecast every origin, and return the keys of the backtest contract.

    With `options.out` the forecasts are written there. Progress goes to stderr. Raises DataFileError when the file is
    too short for the origins asked for, or cannot be read or written.
    """
    require_place(options.out)
    panel = panel_of(options, _say)
    windows, firsts = _windows(panel, options)
    model, train_s = _trained(panel, windows, firsts, options, recipe)
    own, forecast_ms = _forecast(panel, windows, model, options)
    raw, sent = _served(panel, windows, own, firsts, model, options)
    _write(panel, windows, sent, options)
    return report(panel, windows, sent, raw, options) | {
        "meters": len(np.unique(windows.meters)),
        "origins": options.origins,
        "train_s": round(train_s, 3),
        "forecast_ms": round(forecast_ms, 4),
    }


def _windows(panel: Panel, options: BacktestOptions) -> tuple[Windows, Ints]:
    """Return what is judged, and the column of each meter's first origin."""
    try:
        windows, firsts, left = contract_windows(
            panel,
            origins=options.origins,
            spacing_steps=options.spacing_steps,
            horizon_steps=options.horizon_steps,
            own_ends=options.own_ends,
        )
    except DataFileError as e:
        raise DataFileError(f"{options.readings}: {e}") from e
    _say(f"{len(windows)} windows to forecast" + (f"; {left} left out: no history or no truth" if left else ""))
    return windows, firsts


def _trained(
    panel: Panel, windows: Windows, firsts: Ints, options: BacktestOptions, recipe: Recipe
) -> tuple[TrainedModel | None, float]:
    """Return the model of what had ended before the first origins, and the seconds that took."""
    _say(f"training before the first of {options.origins} origins of {len(np.unique(windows.meters))} meters")
    started = time.perf_counter()
    model = _train_before(panel, firsts, options, recipe)
    train_s = time.perf_counter() - started
    if model is not None:
        _say(f"trained on {model.trained_rows} rows in {train_s:.1f} s")
    return model, train_s


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


def _forecast(
    panel: Panel, windows: Windows, model: TrainedModel | None, options: BacktestOptions
) -> tuple[Floats, float]:
    """Return the model's kW [N, L, Q] of the windows, NaN where it gives nothing, and the milliseconds for each."""
    started = time.perf_counter()
    own = forecast_windows(panel, windows, _rung(model, options), Counted(len(windows), _say))
    return own, 1000 * (time.perf_counter() - started) / len(windows)


def _rung(model: TrainedModel | None, options: BacktestOptions) -> Forecaster:
    """Return the model as an edge would use it: from the default history on."""
    forecaster = None if model is None else model_forecaster(model, options.calendar)
    return model_rung(forecaster, options.modelled, min_history_steps=options.min_history_steps)


def _served(
    panel: Panel, windows: Windows, own: Floats, firsts: Ints, model: TrainedModel | None, options: BacktestOptions
) -> tuple[Floats, Floats]:
    """Return what an edge without a starter would send, having seen every origin before; raw, and calibrated."""
    _say("calibrating online up to each window")
    raw = hindcast(panel, _stretches(panel, windows, firsts, model, options), options.knots, options.modelled)
    simple = simple_rungs(options.modelled, options.calendar, step_s=options.step_s)
    ladder = Ladder(simple, options.horizon_steps, options.modelled)
    sent, moved, down = served_windows(panel, windows, own, raw, ladder)
    if down.any():
        _say(f"the model was stood down for {len(np.unique(windows.meters[down]))} meters, {down.sum()} windows")
    return sent, moved


def _stretches(
    panel: Panel, windows: Windows, firsts: Ints, model: TrainedModel | None, options: BacktestOptions
) -> list[Stretch]:
    """Return which model serves where up to the last windows.

    As at an edge, where an earlier champion served before this one: a model trained up to `_WARM_UP_DAYS` before the
    first origin serves until there, so that nothing is calibrated, and no model stood down, by what it was trained on.
    """
    lasts = np.zeros_like(firsts)
    np.maximum.at(lasts, windows.meters, panel.column(windows.origins_us) + 1)
    judged = Stretch(_rung(model, options), firsts, np.maximum(firsts, lasts))
    begins, earlier = _warm_up_columns(panel, firsts), None
    if model is not None:  # half the rows: half the time, the same spread
        recipe = replace(model.recipe, rows_cap=model.recipe.rows_cap // 2)
        earlier = _train_before(panel, begins, options, recipe)
    if earlier is None and model is not None:
        _say("too little before the first origin to calibrate on; calibration begins there")
        return [judged]
    return [Stretch(_rung(earlier, options), begins, firsts), judged]


def _warm_up_columns(panel: Panel, firsts: Ints) -> Ints:
    """Return the columns [M] at which calibration begins."""
    born = np.isfinite(panel.load_kw).argmax(axis=1)
    known = np.maximum(firsts - born, 0)
    most = _WARM_UP_DAYS * 86_400 // panel.step_s
    begins: Ints = firsts - np.minimum(most, (known * _WARM_UP_SHARE).astype(np.int64))
    return begins


def _write(panel: Panel, windows: Windows, sent: Floats, options: BacktestOptions) -> None:
    """Write the quantiles that were asked for, where there is a place for them."""
    if options.out is None:
        return
    published = sent[..., places(options.quantiles, options.modelled)]
    write_forecasts(options.out, panel, windows, published, options.quantiles)
    _say(f"wrote the forecasts to {options.out.name}")
