"""A file of readings as a panel, in the file's own unit; one that cannot be used is answered in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from central.dataset import Panel
from central.lateness import file_revisions, received_us
from shared.errors import DataFileError
from shared.features import window_steps

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CELLS_MAX: Final = 100_000_000  # of a panel: 0.8 GB
_EPOCH_UNITS: Final = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0))  # below the bound: microseconds in one unit
_SLASHED_DATE: Final = r"^(\d{4})/(\d{1,2})/(\d{1,2})"


def panel_from_file(path: Path, *, step_s: int = 3600, aggregate: str = "mean") -> Panel:
    """Read `meter_id, ts, value` from Parquet or CSV onto the grid, in the file's unit (`sum` turns energy into load).

    With a column `received_at` windows hold what was known at their origins, else all is taken as known in time.
    `aggregate` is `mean` or `sum` of an interval's readings; an interval with under half of them is missing. How many
    readings an interval should have follows from each meter's most common distance between readings. Raises
    DataFileError, in a sentence, for a file that cannot be used.
    """
    window_steps(step_s)
    rows = _read(path)
    if not len(rows):
        raise DataFileError(f"{path}: holds no readings")
    return panel_from_readings(rows, step_s=step_s, aggregate=aggregate)


def panel_from_readings(rows: pd.DataFrame, *, step_s: int = 3600, aggregate: str = "mean") -> Panel:
    """Return the panel of rows `meter_id, ts (aware), value`, perhaps `received_at`; of duplicates the last counts."""
    if aggregate not in ("mean", "sum"):
        raise DataFileError(f"aggregate {aggregate!r}: expected mean or sum")
    arrived = "received_at" in rows
    all_rows = rows.sort_values("received_at", kind="stable", na_position="first") if arrived else rows
    rows = all_rows.drop_duplicates(["meter_id", "ts"], keep="last")
    codes, names = pd.factorize(rows["meter_id"].astype(str), sort=True)
    ts_us, step_us = rows["ts"].dt.as_unit("us").astype("int64").to_numpy(), step_s * 1_000_000
    expected = _readings_per_interval(codes, ts_us, len(names), step_us)
    factor = expected if aggregate == "sum" else np.ones_like(expected)
    first = int(ts_us.min()) // step_us
    shape = (len(names), int(ts_us.max()) // step_us - first + 1)
    _require_room(shape, rows["ts"], step_s)
    mean = _means(codes, ts_us // step_us - first, rows["value"].to_numpy(dtype=np.float64), shape, expected)
    panel = Panel([str(name) for name in names], first * step_us, step_s, mean * factor[:, None])
    if not arrived:
        return panel
    received, at = _received(all_rows, pd.Index(names)), {"start_us": panel.start_us, "step_us": step_us}
    return replace(panel, revisions=file_revisions(panel.load_kw, received, expected, factor, **at))


def _require_room(shape: tuple[int, int], ts: pd.Series, step_s: int) -> None:
    if shape[0] * shape[1] > _CELLS_MAX:
        raise DataFileError(
            f"{shape[0]} meters from {ts.min():%Y-%m-%d} to {ts.max():%Y-%m-%d} at steps of {step_s} s "
            "are more than memory should hold: is a ts wrong?"
        )


def _means(codes: Ints, columns: Ints, value: Floats, shape: tuple[int, int], expected: Floats) -> Floats:
    """Return the means [M, T] of each interval's readings, NaN under half of the `expected` [M] ones."""
    cell, size = codes * shape[1] + columns, shape[0] * shape[1]
    there = np.isfinite(value)
    count = np.bincount(cell[there], minlength=size).reshape(shape)
    total = np.bincount(cell[there], weights=value[there], minlength=size).reshape(shape)
    enough = (count > 0) & (2 * count >= expected[:, None])
    means: Floats = np.divide(total, count, out=np.full(shape, np.nan), where=enough)
    return means


def _received(rows: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Return all that was ever received, as `file_revisions` takes it; meters are places among `names`."""
    return pd.DataFrame(
        {
            "meter": names.get_indexer(pd.Index(rows["meter_id"].astype(str))),
            "ts_us": rows["ts"].dt.as_unit("us").astype("int64"),
            "received_us": received_us(rows["received_at"]),
            "value": rows["value"].astype(np.float64),
        }
    )


def _read(path: Path) -> pd.DataFrame:
    """Return `meter_id, ts (UTC), value`, perhaps `received_at`, of a file, or say what is wrong with it."""
    try:
        csv = ".csv" in path.name.lower()  # .csv.gz too
        rows = _read_csv(path) if csv else pd.read_parquet(path)
    except (OSError, ValueError) as e:  # pyarrow's own errors are ValueErrors
        raise DataFileError(f"{path}: cannot be read: {str(e).splitlines()[0]}") from e
    if set(rows.index.names) & {"meter_id", "ts"}:
        rows = rows.reset_index()
    missing = {"meter_id", "ts", "value"} - set(rows.columns)
    if missing:
        raise DataFileError(f"{path}: has no column {', '.join(sorted(missing))}")
    rows["ts"] = _column(path, rows, "ts", _instants)
    rows["value"] = _column(path, rows, "value", pd.to_numeric)
    if "received_at" in rows:
        rows["received_at"] = _column(path, rows, "received_at", _instants)
    kept = ["meter_id", "ts", "value", *(["received_at"] if "received_at" in rows else [])]
    return rows[kept].dropna(subset=["meter_id", "ts", "value"])


def _column(path: Path, rows: pd.DataFrame, name: str, read: Callable[[pd.Series], pd.Series]) -> pd.Series:
    """Return a column as `read` makes it. Raises DataFileError where it cannot."""
    try:
        return read(rows[name])
    except (ValueError, TypeError, OverflowError) as e:
        raise DataFileError(f"{path}: column {name}: {str(e).splitlines()[0].split('. You might')[0]}") from e


def _read_csv(path: Path) -> pd.DataFrame:
    """Return the rows of a CSV in which a meter may be called `007` or `NA`, but a value may not."""
    nothing = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
    return pd.read_csv(path, dtype={"meter_id": str}, keep_default_na=False, na_values={"ts": [""], "value": nothing})


def _instants(column: pd.Series) -> pd.Series:
    """Return aware UTC instants of ISO 8601 text (forms may differ; without offset it is UTC) or epoch numbers.

    Epoch numbers are s, ms, µs or ns, whichever puts their median between 1973 and 5138.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return pd.to_datetime(column, utc=True)
    if pd.api.types.is_numeric_dtype(column):
        size = float(column.abs().median())
        per_us = next((factor for bound, factor in _EPOCH_UNITS if size < bound), 1e-3)
        return pd.to_datetime((column * per_us).round().astype("Int64"), unit="us", utc=True)
    text = column.astype("string").str.strip().str.replace(_SLASHED_DATE, r"\1-\2-\3", regex=True)
    return pd.to_datetime(text, utc=True, format="ISO8601")


def _readings_per_interval(codes: Ints, ts_us: Ints, meters: int, step_us: int) -> Floats:
    """Return how many readings an interval of each meter should hold, at least one, [M]."""
    expected = np.ones(meters)
    order = np.lexsort((ts_us, codes))
    apart = np.diff(ts_us[order])
    bounds = np.searchsorted(codes[order], np.arange(meters + 1))
    for meter in range(meters):
        own = apart[bounds[meter] : max(bounds[meter + 1] - 1, bounds[meter])]
        if len(own):
            distances, counts = np.unique(own, return_counts=True)
            expected[meter] = max(1.0, round(step_us / int(distances[counts.argmax()])))
    return expected
