"""What a backtest found, in the keys of the contract: over all leads, by lead, and of seasonal naive beside it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.backtest_options import BacktestOptions
from central.dataset import Panel
from central.evaluation import Windows, forecast_windows, leads_of, measure, naive_forecaster, relative_mae

Floats = NDArray[np.float64]

SEASONS_H: Final = (24, 168)
_LEAD_BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 36), (37, 48))


def report(panel: Panel, windows: Windows, sent: Floats, raw: Floats, options: BacktestOptions) -> dict[str, Any]:
    """Return overall, by_lead and the two seasonal naives of forecasts `sent` [N, L, Q]; `raw`: before calibration."""
    everything = slice(0, len(windows.leads))
    naive = {season_h: _naive(panel, windows, options, season_h) for season_h in SEASONS_H}

    def complete(forecast: Floats, leads: slice, raw: Floats | None = None) -> dict[str, float]:
        measured = measure(windows, forecast, options.modelled, leads, raw=raw)
        part, own = leads_of(windows, forecast, leads)
        for season_h, rival in naive.items():
            measured[f"rel_mae_{season_h}"] = relative_mae(part, own, rival[:, leads], options.modelled)
        return measured

    return {
        "overall": complete(sent, everything, raw),
        "by_lead": [
            {"from": low_h, "to": high_h, **complete(sent, leads, raw)} for low_h, high_h, leads in _buckets(options)
        ],
        **{f"seasonal_naive_{season_h}": complete(naive[season_h], everything) for season_h in SEASONS_H},
    }


def _buckets(options: BacktestOptions) -> list[tuple[int, int, slice]]:
    """Return the buckets of leads, from and to in hours, as far as the horizon reaches."""
    per_hour = 3600 // options.step_s
    reached = [(low, min(high, options.horizon_h)) for low, high in _LEAD_BUCKETS_H if low <= options.horizon_h]
    return [(low, high, slice((low - 1) * per_hour, high * per_hour)) for low, high in reached]


def _naive(panel: Panel, windows: Windows, options: BacktestOptions, season_h: int) -> Floats:
    forecaster = naive_forecaster(options.modelled, season_h=season_h, step_s=options.step_s)
    return forecast_windows(panel, windows, forecaster)
