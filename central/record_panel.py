"""Rows of the record as a panel in kW: intervals made as at the edge, and what each was known as before late readings.

central/panels.py knows which rows the parameters ask for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from central.dataset import Panel
from central.lateness import received_us, record_revisions
from shared.bindings import Bindings
from shared.grid import KINDS, UNITS, GridRules, MeterReadings, Span, intervals_of_many

Floats = NDArray[np.float64]

_TOGETHER: Final = 64  # meters whose intervals are made at once


def panel_from_record(
    rows: pd.DataFrame,
    rules: GridRules,
    *,
    bindings: Bindings | None = None,
    since_us: int | None = None,
    grace: timedelta = timedelta(0),
) -> Panel:
    """Return the panel, in kW, of rows of the record: `meter_id, ts, value, unit, kind, period_s`, perhaps `site`.

    With `received_at` windows hold what was known at their origins plus `grace`; rows are then all that was ever
    received of an identity, if what was corrected is to be known too.

    Intervals are made by shared/grid.py under the meters' `bindings`, as at the edge and with the same bits; of rows of
    one identity the last counts. With a `site` column meters are named `site/meter`. Readings before `since_us` are
    left out. Raises ValueError when none are left.
    """
    table = _record_columns(rows)
    table = table[table["ts_us"] >= since_us] if since_us is not None else table
    if not len(table):
        raise ValueError("the record holds no readings")
    identity = ["site", "meter", "ts_us"]
    received = table.sort_values([*identity, "received_us"], kind="stable")
    table = received.drop_duplicates(identity, keep="last")
    first = int(table["ts_us"].min()) // rules.step_us
    count = int(table["until_us"].max() - 1) // rules.step_us + 1 - first
    known = bindings if bindings is not None else Bindings()
    meters = {(str(site), str(meter)): own for (site, meter), own in table.groupby(identity[:2], observed=True)}
    spans = [
        Span(_meter_readings(own), first * rules.step_us, count, known.of(*meter).limits)
        for meter, own in meters.items()
    ]
    names = [f"{site}/{meter}" if "site" in rows else meter for site, meter in meters]
    panel = Panel(names, first * rules.step_us, rules.step_us // 1_000_000, _loads_kw(spans, rules))
    if "received_at" not in rows:
        return panel
    received["meter"] = received.groupby(identity[:2], observed=True).ngroup()
    limits = [span.limits for span in spans]
    found = record_revisions(
        panel.load_kw, received, _meter_readings(received), limits, rules, start_us=panel.start_us, grace=grace
    )
    return replace(panel, revisions=found)


def _loads_kw(spans: list[Span], rules: GridRules) -> Floats:
    """Return the loads [M, T] of spans of equal length."""
    blocks = (spans[first : first + _TOGETHER] for first in range(0, len(spans), _TOGETHER))
    return np.stack([made.load_kw for block in blocks for made in intervals_of_many(block, rules)])


def _record_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the record in our columns: `value` in kW or kWh, `kind` an index, instants in microseconds."""
    factor = rows["unit"].map({name: unit.to_kilo for name, unit in UNITS.items()}).astype(np.float64)
    kind = rows["kind"].map({name: code for code, name in enumerate(KINDS)}).astype(np.int8)
    ts_us = rows["ts"].dt.as_unit("us").astype("int64")
    period_us = (rows["period_s"].astype(np.float64).fillna(0.0) * 1e6).round().astype(np.int64)
    received_at = rows["received_at"] if "received_at" in rows else pd.Series(pd.NaT, rows.index)
    return pd.DataFrame(
        {
            "site": rows["site"].astype(str) if "site" in rows else "",
            "meter": rows["meter_id"].astype(str),
            "ts_us": ts_us,
            "value": rows["value"].astype(np.float64) * factor,
            "period_us": period_us,
            "kind": kind,
            "until_us": ts_us + np.where(kind == KINDS.index("energy"), period_us, 1),
            "received_us": received_us(received_at),
        }
    )


def _meter_readings(own: pd.DataFrame) -> MeterReadings:
    return MeterReadings(
        own["ts_us"].to_numpy(dtype=np.int64),
        own["value"].to_numpy(dtype=np.float64),
        own["period_us"].to_numpy(dtype=np.int64),
        own["kind"].to_numpy(dtype=np.int8),
    )
