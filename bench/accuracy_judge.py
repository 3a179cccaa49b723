"""One judge for all: forecasts as rows, held against the same truth at the same origins by the same measures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Forecaster, Windows, forecast_windows, judged_windows, measure, naive_forecaster
from central.file_panel import panel_from_file
from shared.metrics import DECILES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RULES: Final = ("seasonal naive 24", "seasonal naive 168", "mean of last 4 same weekdays")
_WEEK: Final = 168


@dataclass(frozen=True, slots=True)
class Measured:
    """A contestant on a set: how many meters it forecast, and how well."""

    meters: int
    mase: float
    wql: float
    coverage_80: float

    def as_json(self) -> dict[str, float | int | None]:
        """Return it with None where there is no number."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


class Judge:
    """Knows truth and scale of each window; the windows are those of the forecasts it is made with.

    Invariant: a contestant is measured on the meters it forecast, and there on every window.
    """

    def __init__(self, readings: Path, forecasts: pd.DataFrame) -> None:
        self.panel: Panel = panel_from_file(readings)
        rows = {name: row for row, name in enumerate(self.panel.meters)}
        pairs = forecasts[["meter_id", "origin"]].drop_duplicates().sort_values(["meter_id", "origin"])
        meters = np.array([rows[name] for name in pairs["meter_id"]], dtype=np.int64)
        horizon = int(forecasts["lead"].max())
        self.windows: Windows = judged_windows(self.panel, meters, _us(pairs["origin"]), horizon_steps=horizon)

    def measure(self, forecasts: pd.DataFrame) -> Measured:
        """Return the measures of forecast rows over all windows of the meters in them."""
        kw, quantiles = self.as_array(forecasts)
        forecast = np.unique(self.windows.meters[np.isfinite(kw).any(axis=(1, 2))])
        return self.measure_array(kw, quantiles, np.isin(self.windows.meters, forecast))

    def measure_array(self, kw: Floats, quantiles: tuple[float, ...], chosen: NDArray[np.bool_]) -> Measured:
        """Return the measures of kW [N, L, Q] over the chosen windows [N]."""
        own = self.windows
        part = Windows(
            own.meters[chosen], own.origins_us[chosen], own.leads, own.step_s, own.actual[chosen], own.scale[chosen]
        )
        if not len(part):
            return Measured(0, math.nan, math.nan, math.nan)
        found = measure(part, kw[chosen], quantiles, slice(None))
        return Measured(len(np.unique(part.meters)), found["mase"], found["wql"], found["coverage_80"])

    def as_array(self, forecasts: pd.DataFrame) -> tuple[Floats, tuple[float, ...]]:
        """Return forecast rows as kW [N, L, Q] in the order of the windows, NaN where there is none."""
        quantiles = tuple(sorted(forecasts["quantile"].unique()))
        names = np.array(self.panel.meters, dtype=object)[self.windows.meters]
        at = pd.MultiIndex.from_arrays([names, self.windows.origins_us])
        window = at.get_indexer(pd.MultiIndex.from_arrays([forecasts["meter_id"], _us(forecasts["origin"])]))
        lead = forecasts["lead"].to_numpy(dtype=np.int64) - 1
        known = (window >= 0) & (lead < len(self.windows.leads))
        kw = np.full((*self.windows.actual.shape, len(quantiles)), np.nan)
        column = np.searchsorted(quantiles, forecasts["quantile"])
        kw[window[known], lead[known], column[known]] = forecasts["value"].to_numpy(dtype=np.float64)[known]
        return np.sort(kw, axis=2), quantiles

    def rule(self, name: str) -> pd.DataFrame:
        """Return the forecast rows of one of RULES."""
        forecaster: Forecaster = {
            RULES[0]: naive_forecaster(DECILES, season_h=24),
            RULES[1]: naive_forecaster(DECILES, season_h=168),
            RULES[2]: same_weekdays,
        }[name]
        return self.as_rows(forecast_windows(self.panel, self.windows, forecaster), DECILES)

    def as_rows(self, kw: Floats, quantiles: tuple[float, ...]) -> pd.DataFrame:
        """Return kW [N, L, Q] as forecast rows."""
        count, leads, width = kw.shape
        names = np.array(self.panel.meters, dtype=object)[self.windows.meters]
        return pd.DataFrame(
            {
                "meter_id": np.repeat(names, leads * width),
                "origin": pd.to_datetime(np.repeat(self.windows.origins_us, leads * width), unit="us", utc=True),
                "lead": np.tile(np.repeat(self.windows.leads, width), count),
                "quantile": np.tile(quantiles, count * leads),
                "value": kw.ravel(),
            }
        )


def same_weekdays(
    windows: NDArray[np.float32], _origins_us: Ints, leads: Ints, _covariates: object = None, /
) -> Floats:
    """Return deciles in kW [N, L, 9]: the mean of the last four same hours of the week, spread by its past errors."""
    load = windows.astype(np.float64)
    width = load.shape[1]
    columns = width - 1 + leads[:, None] - _WEEK * np.arange(1, 5)
    centre = _mean_of(load[:, np.maximum(columns, 0)], columns >= 0)
    past = np.arange(_WEEK, width)
    before = past[:, None] - _WEEK * np.arange(1, 5)
    missed = load[:, past] - _mean_of(load[:, np.maximum(before, 0)], before >= 0)
    offsets = np.stack([_deciles_of(row) for row in missed])
    kw: Floats = centre[:, :, None] + (offsets - offsets[:, 4:5])[:, None, :]
    return np.sort(kw, axis=2)


def _deciles_of(errors: Floats) -> Floats:
    """Return the deciles of what is finite; zeros of nothing."""
    known = errors[np.isfinite(errors)]
    return np.quantile(known, DECILES) if len(known) else np.zeros(len(DECILES))


def _mean_of(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """Return the mean over the last axis of what is finite and there; NaN of nothing."""
    known = np.isfinite(values) & there
    count = known.sum(axis=-1)
    mean: Floats = np.divide(
        np.where(known, values, 0.0).sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return mean


def _us(instants: pd.Series) -> Ints:
    us: Ints = instants.dt.as_unit("us").to_numpy(dtype="datetime64[us]").astype(np.int64)
    return us
