"""Peer: mlforecast, a recursive global LightGBM with conformal intervals. Runs in an environment of its own.

Trained once on what each meter had before its first origin; then the hours up to each later origin are taken in by
`update`, and 48 hours forecast. Calendar features are in the set's zone, as ours are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import lightgbm
import pandas as pd
from mlforecast import MLForecast
from mlforecast.lag_transforms import RollingMax, RollingMean, RollingMin, RollingStd
from mlforecast.target_transforms import LocalStandardScaler
from mlforecast.utils import PredictionIntervals

from bench.peers_exchange import HORIZON, LEVELS, as_frame, decile_rows, read_origins, read_series, say

TREES: Final = 400
LEAVES: Final = 63
CALIBRATION_WINDOWS: Final = 10  # of 48 hours each, before the first origin
LAGS: Final = (1, 2, 3, 6, 12, 23, 24, 25, 48, 72, 96, 120, 144, 167, 168, 169, 336, 504, 672)
MIN_HISTORY_H: Final = 672 + (CALIBRATION_WINDOWS + 2) * HORIZON


def model(trees: int, leaves: int, learning_rate: float, zone: str) -> MLForecast:
    """Return the forecaster, on one thread, for any number of trees."""

    def hour(times: pd.DatetimeIndex) -> Any:
        return _local(times, zone).hour

    def weekday(times: pd.DatetimeIndex) -> Any:
        return _local(times, zone).dayofweek

    def month(times: pd.DatetimeIndex) -> Any:
        return _local(times, zone).month

    booster = lightgbm.LGBMRegressor(
        objective="l1",
        n_estimators=trees,
        num_leaves=leaves,
        learning_rate=learning_rate,
        num_threads=1,
        verbosity=-1,
        random_state=7,
    )
    return MLForecast(
        models={"lightgbm": booster},
        freq="h",
        lags=list(LAGS),
        lag_transforms={
            1: [RollingMean(24), RollingStd(24), RollingMin(24), RollingMax(24), RollingMean(168), RollingStd(168)],
            24: [RollingMean(24), RollingMean(168)],
            168: [RollingMean(24)],
        },
        date_features=[hour, weekday, month],
        target_transforms=[LocalStandardScaler()],
        num_threads=1,
    )


def main(readings: str, windows: str, out: str, zone: str) -> None:
    """Forecast every window of every meter with enough history for training and calibration."""
    series, origins = read_series(Path(readings)), read_origins(Path(windows))
    parts = {meter: series[meter][: own[0] - pd.Timedelta("1h")] for meter, own in origins.items()}
    parts = {meter: part for meter, part in parts.items() if len(part) >= MIN_HISTORY_H}
    say(f"mlforecast: training on {sum(map(len, parts.values()))} hours of {len(parts)} meters")
    forecaster = model(TREES, LEAVES, 0.05, zone)
    forecaster.fit(
        as_frame(parts),
        static_features=[],
        prediction_intervals=PredictionIntervals(n_windows=CALIBRATION_WINDOWS, h=HORIZON),
    )
    made = []
    for number in range(max(len(origins[meter]) for meter in parts)):
        at = {meter: origins[meter][min(number, len(origins[meter]) - 1)] for meter in parts}
        if number:
            _take_in(forecaster, series, {meter: (origins[meter], number) for meter in parts})
        made.append(decile_rows(forecaster.predict(HORIZON, level=list(LEVELS)), "lightgbm", at))
        say(f"mlforecast: origin {number + 1} forecast")
    rows = pd.concat(made, ignore_index=True).drop_duplicates(["meter_id", "origin", "lead", "quantile"])
    rows.to_parquet(out)


def _take_in(
    forecaster: MLForecast, series: dict[str, pd.Series], steps: dict[str, tuple[list[pd.Timestamp], int]]
) -> None:
    """Give the forecaster each meter's hours between its last origin and the next."""
    fresh = {
        meter: series[meter][own[number - 1] : own[number] - pd.Timedelta("1h")]
        for meter, (own, number) in steps.items()
        if number < len(own)
    }
    forecaster.update(as_frame(fresh))


def _local(times: pd.DatetimeIndex, zone: str) -> pd.DatetimeIndex:
    return times.tz_localize("UTC").tz_convert(zone)


if __name__ == "__main__":
    main(*sys.argv[1:])
