"""The data sets of the ablation: many origins at all hours of the day, and nothing of them in what is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.accuracy_sets import DevelopmentSet, prepare
from central.dataset import Panel
from central.evaluation import Windows, forecast_windows, judged_windows, measure, naive_forecaster
from central.file_panel import panel_from_readings
from shared.calendars import Calendar
from shared.features import window_steps

QUANTILES: Final = (0.1, 0.5, 0.9)
HORIZON_H: Final = 48


@dataclass(frozen=True, slots=True)
class Protocol:
    """Which windows are judged: so many origins this far apart, ending this long before each meter's own end."""

    origins: int = 27
    spacing_h: int = 47  # no divisor of a day: so that every hour is an origin's
    before_h: int = 384  # kept for other tests


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set with its judged windows, a panel in which these are hidden, and seasonal naive's measures."""

    name: str
    panel: Panel
    known: Panel
    windows: Windows
    calendar: Calendar
    naive: dict[str, float]


def data_set(name: str, chosen: DevelopmentSet, folder: Path, protocol: Protocol) -> DataSet:
    """Return a development set of a folder. Raises OSError or ValueError, in a sentence, when it cannot be used."""
    panel = panel_from_readings(prepare(chosen, folder))
    windows = many_windows(panel, protocol)
    if not len(windows):
        raise ValueError(f"too short for {protocol.origins} origins {protocol.spacing_h} h apart")
    naive = forecast_windows(panel, windows, naive_forecaster(QUANTILES, season_h=168))
    calendar = Calendar(chosen.zone, chosen.country)
    known = before_judged(panel, windows)
    return DataSet(name, panel, known, windows, calendar, measure(windows, naive, QUANTILES, slice(None)))


def many_windows(panel: Panel, protocol: Protocol) -> Windows:
    """Return the protocol's windows of each meter, of origins with a full window behind them."""
    seen = np.isfinite(panel.load_kw)
    ends = panel.load_kw.shape[1] - seen[:, ::-1].argmax(axis=1)
    last = ends[:, None] - protocol.before_h - HORIZON_H
    columns = last - protocol.spacing_h * np.arange(protocol.origins - 1, -1, -1)
    first = seen.argmax(axis=1)[:, None]
    meters, which = np.nonzero((columns - first >= window_steps(panel.step_s)) & seen.any(axis=1, keepdims=True))
    origins_us = panel.start_us + columns[meters, which].astype(np.int64) * panel.step_us
    return judged_windows(panel, meters.astype(np.int64), origins_us, horizon_steps=HORIZON_H)


def before_judged(panel: Panel, windows: Windows) -> Panel:
    """Return the panel with each meter's readings from its first judged origin on hidden."""
    first = np.full(len(panel.meters), panel.end_us)
    np.minimum.at(first, windows.meters, windows.origins_us)
    known = np.arange(panel.load_kw.shape[1]) < panel.column(first)[:, None]
    return replace(panel, load_kw=np.where(known, panel.load_kw, np.nan))
