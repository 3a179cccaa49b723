"""Peer: one of statsforecast's models per meter, fitted anew at each origin. Runs in an environment of its own.

The models are slow, so each is given the last weeks of a bounded number of meters; the table says how many.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd
from statsforecast import StatsForecast
from statsforecast.models import MSTL, AutoETS, DynamicOptimizedTheta, SeasonalNaive

from bench.peers_exchange import HORIZON, LEVELS, as_frame, decile_rows, read_origins, read_series, say, spread

HISTORY_H: Final = 8 * 168
_MODELS: Final[dict[str, Callable[[], Any]]] = {
    "ets": lambda: AutoETS(season_length=24, alias="model"),
    "mstl": lambda: MSTL(season_length=[24, 168], alias="model"),
    "theta": lambda: DynamicOptimizedTheta(season_length=24, alias="model"),
}


def main(name: str, most: str, readings: str, windows: str, out: str) -> None:
    """Forecast every window of up to `most` meters."""
    series, origins = read_series(Path(readings)), read_origins(Path(windows))
    chosen = spread(list(origins), int(most))
    made = []
    for number in range(max(len(origins[meter]) for meter in chosen)):
        at = {meter: origins[meter][number] for meter in chosen if number < len(origins[meter])}
        parts = {meter: series[meter][: origin - pd.Timedelta("1h")][-HISTORY_H:] for meter, origin in at.items()}
        naive = SeasonalNaive(season_length=24, alias="model")
        forecaster = StatsForecast([_MODELS[name]()], freq="h", n_jobs=1, fallback_model=naive)
        made.append(decile_rows(forecaster.forecast(df=as_frame(parts), h=HORIZON, level=list(LEVELS)), "model", at))
        say(f"{name}: origin {number + 1} of {len(at)} meters forecast")
    pd.concat(made, ignore_index=True).to_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
