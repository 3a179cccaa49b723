"""What peers of `make bench-accuracy` are given and hand back, as Parquet files between two environments.

Given: readings `meter_id, ts, value` (hours, gaps missing) and windows `meter_id, origin`. Handed back: forecasts
`meter_id, origin, lead, quantile, value`. This runs in the peers' environment: it imports nothing of metercast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

HORIZON: Final = 48
LEVELS: Final = (20, 40, 60, 80)  # central intervals in percent; with the point they are the deciles
DECILES: Final = tuple(level / 10 for level in range(1, 10))


def read_series(path: Path) -> dict[str, pd.Series]:
    """Return each meter's hours without gaps: missing ones are those a week before, else a day, else the last seen.

    Peers take no missing values. What is filled is never judged.
    """
    rows = pd.read_parquet(path)
    return {str(meter): _filled(own.set_index("ts")["value"]) for meter, own in rows.groupby("meter_id")}


def read_origins(path: Path) -> dict[str, list[pd.Timestamp]]:
    """Return each meter's origins, ascending."""
    rows = pd.read_parquet(path)
    return {str(meter): sorted(own["origin"]) for meter, own in rows.groupby("meter_id")}


def spread(names: list[str], most: int) -> list[str]:
    """Return at most so many of the names, evenly from all of them in order."""
    names = sorted(names)
    return [names[at] for at in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))]


def as_frame(parts: dict[str, pd.Series]) -> pd.DataFrame:
    """Return series as the long table `unique_id, ds (naive UTC), y` that Nixtla's libraries take."""
    frames = [
        pd.DataFrame({"unique_id": meter, "ds": pd.DatetimeIndex(part.index).tz_localize(None), "y": part.to_numpy()})
        for meter, part in parts.items()
    ]
    return pd.concat(frames, ignore_index=True)


def decile_rows(made: pd.DataFrame, model: str, origins: dict[str, pd.Timestamp]) -> pd.DataFrame:
    """Return forecast rows of a library's table at one origin of each meter: point as median, intervals as deciles."""
    origin = made["unique_id"].map(origins)
    lead = (made["ds"] - origin.dt.tz_localize(None)) // pd.Timedelta("1h") + 1
    columns = {0.5: made[model]}
    for level in LEVELS:
        columns[round(0.5 - level / 200, 1)] = made[f"{model}-lo-{level}"]
        columns[round(0.5 + level / 200, 1)] = made[f"{model}-hi-{level}"]
    parts = [
        pd.DataFrame({"meter_id": made["unique_id"], "origin": origin, "lead": lead, "quantile": q, "value": values})
        for q, values in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


def say(sentence: str) -> None:
    """Tell progress on stderr."""
    sys.stderr.write(f"bench: {sentence}\n")
    sys.stderr.flush()


def _filled(series: pd.Series) -> pd.Series:
    hours = pd.date_range(series.index.min(), series.index.max(), freq="h")
    series = series.reindex(hours)
    for season_h in (168, 24):
        while (gaps := series.isna() & series.shift(season_h).notna()).any():
            series = series.where(~gaps, series.shift(season_h))
    return series.ffill()
