"""The development sets of `make bench-accuracy` and the conventions of their benchmark, in one table.

These are conventions of measuring, not of the product: nothing in shared, edge or central knows a set by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

_HOUR: Final = pd.Timedelta("1h")


@dataclass(frozen=True, slots=True)
class DevelopmentSet:
    """One group of series of one file, and how its readings become the hours that all contestants are given.

    `per_hour` readings make an hour whole, of which `least` must be there; `suffixes` map the end of a meter's name,
    after its colon, to its kind (others are left out), where the file says kinds that way, else all are `kind`.
    """

    file: str
    aggregate: Literal["mean", "sum"] = "mean"
    least: int = 1
    kind: str = "load"
    suffixes: Mapping[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    last_h: int | None = None  # only the last hours of each meter
    min_h: int = 0  # meters with fewer hours are left out
    max_zero_share: float = 1.0  # and those with more zeros
    cut_at_hole_h: int | None = None  # a meter ends before its first hole as long as this
    zone: str = "UTC"
    country: str | None = None


SETS: Final[Mapping[str, DevelopmentSet]] = {
    "lcl": DevelopmentSet(
        "lcl_households.parquet",
        aggregate="sum",
        least=2,
        min_h=4380,
        max_zero_share=0.5,
        zone="Europe/London",
        country="GB",
    ),
    "pjm": DevelopmentSet(
        "pjm_zones.parquet", without=frozenset({"NI"}), last_h=17_520, zone="America/New_York", country="US"
    ),
    "citylearn": DevelopmentSet("citylearn_2022.parquet", suffixes={"load": "load"}),
    "citylearn-pv-net": DevelopmentSet("citylearn_2022.parquet", suffixes={"pv": "pv", "net": "net"}),
    "feeders": DevelopmentSet(
        "openstef_feeders.parquet", least=2, kind="net", cut_at_hole_h=2000, zone="Europe/Amsterdam", country="NL"
    ),
    "aew": DevelopmentSet(
        "aew_pv_sites.parquet",
        least=2,
        suffixes={"consumption": "load", "import": "load", "generation": "pv", "export": "pv", "net": "net"},
        zone="Europe/Zurich",
        country="CH",
    ),
}


def prepare(chosen: DevelopmentSet, folder: Path) -> pd.DataFrame:
    """Return `meter_id, ts, value` of whole hours of a set, sorted. Raises OSError or ValueError for an odd file."""
    rows = pd.read_parquet(folder / chosen.file)[["meter_id", "ts", "value"]].dropna()
    rows["meter_id"] = rows["meter_id"].astype(str)
    rows["ts"] = pd.to_datetime(rows["ts"], utc=True).dt.floor("h")
    if chosen.suffixes:
        rows = rows[kinds_of(chosen, rows["meter_id"]) != ""]
    rows = rows[~rows["meter_id"].isin(chosen.without)]
    hours = rows.groupby(["meter_id", "ts"], as_index=False)["value"].agg([chosen.aggregate, "count"])
    hours = hours[hours["count"] >= chosen.least].rename(columns={chosen.aggregate: "value"})
    kept = [own for _, meter in hours.groupby("meter_id") if len(own := _cut(meter, chosen)) and _wanted(own, chosen)]
    if not kept:
        raise ValueError("no meter is left after the set's filters")
    return pd.concat(kept, ignore_index=True)[["meter_id", "ts", "value"]]


def kinds_of(chosen: DevelopmentSet, meters: pd.Series) -> pd.Series:
    """Return the kind of each meter, empty for one that is left out."""
    if not chosen.suffixes:
        return pd.Series(chosen.kind, index=meters.index)
    return meters.str.rsplit(":").str[-1].map(chosen.suffixes).fillna("")


def _cut(meter: pd.DataFrame, chosen: DevelopmentSet) -> pd.DataFrame:
    """Return what counts of one meter's hours, in time order."""
    meter = meter.sort_values("ts")
    if chosen.last_h is not None:
        meter = meter[meter["ts"] > meter["ts"].iloc[-1] - chosen.last_h * _HOUR]
    if chosen.cut_at_hole_h is not None:
        holes = np.flatnonzero(meter["ts"].diff() > chosen.cut_at_hole_h * _HOUR)
        meter = meter.iloc[: holes[0]] if len(holes) else meter
    return meter


def _wanted(meter: pd.DataFrame, chosen: DevelopmentSet) -> bool:
    return len(meter) >= chosen.min_h and float((meter["value"] == 0).mean()) <= chosen.max_zero_share
