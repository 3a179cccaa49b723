"""From readings to panels of load, and from panels to windows, truth and training rows.

Invariant: `training_rows` yields no target that had not ended by the cutoff.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.bindings import Bindings
from shared.calendars import Calendar
from shared.clock import DAY_US
from shared.errors import DataFileError
from shared.features import FEATURES, feature_matrix, to_target, window_steps
from shared.grid import KINDS, UNITS, GridRules, MeterReadings, Span, intervals_of_many

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MIN_SEEN: Final = 24  # finite values a window must hold to be a training sample
_BLOCK: Final = 512  # windows whose features are computed at once
_TOGETHER: Final = 64  # meters whose intervals are made at once
_CELLS_MAX: Final = 100_000_000  # of a panel: 0.8 GB
_EPOCH_UNITS: Final = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0))  # below the bound: microseconds in one unit
_SLASHED_DATE: Final = r"^(\d{4})/(\d{1,2})/(\d{1,2})"


@dataclass(frozen=True, slots=True)
class Panel:
    """Load of M meters on one grid: `load_kw` float64 [M, T], NaN = missing; column 0 starts at `start_us` UTC."""

    meters: list[str]
    start_us: int
    step_s: int
    load_kw: Floats

    @property
    def step_us(self) -> int:
        """Return the step in microseconds."""
        return self.step_s * 1_000_000

    @property
    def end_us(self) -> int:
        """Return the end of the last interval."""
        return self.start_us + int(self.load_kw.shape[1]) * self.step_us

    def column(self, instants_us: Ints) -> Ints:
        """Return the columns whose intervals start at `instants_us`; may lie outside the panel."""
        columns: Ints = (instants_us - self.start_us) // self.step_us
        return columns

    def windows(self, meters: Ints, origins_us: Ints) -> NDArray[np.float32]:
        """Return float32 [N, window_steps] of row indices `meters` just before `origins_us`; NaN outside the panel."""
        offsets = np.arange(-window_steps(self.step_s), 0)
        return self._at(meters, self.column(origins_us)[:, None] + offsets).astype(np.float32)

    def truth(self, meters: Ints, origins_us: Ints, leads: Ints) -> Floats:
        """Return the load [N, L] at `leads` ([L], or [N, L]) of `origins_us`; NaN outside the panel."""
        return self._at(meters, self.column(origins_us)[:, None] + leads - 1)

    def until(self, end_us: int) -> Panel:
        """Return the panel as it stood at `end_us`: only intervals that had ended."""
        columns = max(0, int(self.column(np.array([end_us], dtype=np.int64))[0]))
        return Panel(self.meters, self.start_us, self.step_s, self.load_kw[:, :columns])

    def _at(self, meters: Ints, columns: Ints) -> Floats:
        inside = (columns >= 0) & (columns < self.load_kw.shape[1])
        values: Floats = (
            self.load_kw[meters[:, None], np.where(inside, columns, 0)] if inside.any() else np.zeros(columns.shape)
        )
        return np.where(inside, values, np.nan)


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows: `x` float32 [R, F], `target` float64 [R] (normalised), `weight` float64 [R] (mean one)."""

    x: NDArray[np.float32]
    target: Floats
    weight: Floats


@dataclass(frozen=True, slots=True)
class Sampling:
    """How training rows are drawn.

    Each sample is a window of one meter at one origin with some of its leads. `dropout` is the chance that a window is
    spoilt the way real ones are: shortened history, a gap, or a stale tail (an equal chance each, possibly together).
    `half_life_days` weights rows by the age of their origin; None weights all alike.
    """

    rows_cap: int = 100_000
    leads_per_sample: int = 8
    horizon_steps: int = 48
    dropout: float = 0.3
    half_life_days: float | None = None


def panel_from_file(path: Path, *, step_s: int = 3600, aggregate: str = "mean") -> Panel:
    """Read `meter_id, ts, value` from Parquet or CSV onto the grid, in the file's unit (`sum` turns energy into load).

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
    """Return the panel of rows `meter_id, ts (aware), value`, the last of duplicates counting."""
    if aggregate not in ("mean", "sum"):
        raise DataFileError(f"aggregate {aggregate!r}: expected mean or sum")
    rows = rows.drop_duplicates(["meter_id", "ts"], keep="last")
    codes, names = pd.factorize(rows["meter_id"].astype(str), sort=True)
    ts_us = rows["ts"].dt.as_unit("us").astype("int64").to_numpy()
    value = rows["value"].to_numpy(dtype=np.float64)
    step_us = step_s * 1_000_000
    first, last = int(ts_us.min()) // step_us, int(ts_us.max()) // step_us
    shape = (len(names), last - first + 1)
    if shape[0] * shape[1] > _CELLS_MAX:
        raise DataFileError(
            f"{shape[0]} meters from {rows['ts'].min():%Y-%m-%d} to {rows['ts'].max():%Y-%m-%d} at steps of {step_s} s "
            "are more than memory should hold: is a ts wrong?"
        )
    cell = codes * shape[1] + (ts_us // step_us - first)
    there = np.isfinite(value)
    size = shape[0] * shape[1]
    count = np.bincount(cell[there], minlength=size).reshape(shape)
    total = np.bincount(cell[there], weights=value[there], minlength=size).reshape(shape)
    expected = _readings_per_interval(codes, ts_us, len(names), step_us)[:, None]
    mean = np.divide(total, count, out=np.full(shape, np.nan), where=(count > 0) & (2 * count >= expected))
    return Panel(
        [str(name) for name in names], first * step_us, step_s, mean * expected if aggregate == "sum" else mean
    )


def _read(path: Path) -> pd.DataFrame:
    """Return `meter_id, ts (UTC), value` of a file, or say what is wrong with it."""
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
    try:
        rows["ts"] = _instants(rows["ts"])
        rows["value"] = pd.to_numeric(rows["value"])
    except (ValueError, TypeError, OverflowError) as e:
        raise DataFileError(f"{path}: {str(e).splitlines()[0]}") from e
    return rows[["meter_id", "ts", "value"]].dropna()


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


def panel_from_record(
    rows: pd.DataFrame, rules: GridRules, *, bindings: Bindings | None = None, since_us: int | None = None
) -> Panel:
    """Return the panel, in kW, of rows of the record: `meter_id, ts, value, unit, kind, period_s`, perhaps `site`.

    Intervals are made by shared/grid.py under the meters' `bindings`, as at the edge and with the same bits; of rows of
    one identity the last counts. With a `site` column meters are named `site/meter`. Readings before `since_us` are
    left out. Raises ValueError when none are left.
    """
    table = _record_columns(rows)
    table = table[table["ts_us"] >= since_us] if since_us is not None else table
    if not len(table):
        raise ValueError("the record holds no readings")
    identity = ["site", "meter", "ts_us"]
    table = table.drop_duplicates(identity, keep="last").sort_values(identity, kind="stable")
    first = int(table["ts_us"].min()) // rules.step_us
    count = int(table["until_us"].max() - 1) // rules.step_us + 1 - first
    known = bindings if bindings is not None else Bindings()
    meters = {(str(site), str(meter)): own for (site, meter), own in table.groupby(identity[:2], observed=True)}
    spans = [
        Span(_meter_readings(own), first * rules.step_us, count, known.of(*meter).limits)
        for meter, own in meters.items()
    ]
    names = [f"{site}/{meter}" if "site" in rows else meter for site, meter in meters]
    return Panel(names, first * rules.step_us, rules.step_us // 1_000_000, _loads_kw(spans, rules))


def _loads_kw(spans: list[Span], rules: GridRules) -> Floats:
    """Return the loads [M, T] of spans of equal length."""
    blocks = (spans[first : first + _TOGETHER] for first in range(0, len(spans), _TOGETHER))
    return np.stack([made.load_kw for block in blocks for made in intervals_of_many(block, rules)])


def _record_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `site, meter, ts_us, value (kW or kWh), period_us, kind (index), until_us` of rows of the record."""
    factor = rows["unit"].map({name: unit.to_kilo for name, unit in UNITS.items()}).astype(np.float64)
    kind = rows["kind"].map({name: code for code, name in enumerate(KINDS)}).astype(np.int8)
    ts_us = rows["ts"].dt.as_unit("us").astype("int64")
    period_us = (rows["period_s"].astype(np.float64).fillna(0.0) * 1e6).round().astype(np.int64)
    return pd.DataFrame(
        {
            "site": rows["site"].astype(str) if "site" in rows else "",
            "meter": rows["meter_id"].astype(str),
            "ts_us": ts_us,
            "value": rows["value"].astype(np.float64) * factor,
            "period_us": period_us,
            "kind": kind,
            "until_us": ts_us + np.where(kind == KINDS.index("energy"), period_us, 1),
        }
    )


def _meter_readings(own: pd.DataFrame) -> MeterReadings:
    return MeterReadings(
        own["ts_us"].to_numpy(dtype=np.int64),
        own["value"].to_numpy(dtype=np.float64),
        own["period_us"].to_numpy(dtype=np.int64),
        own["kind"].to_numpy(dtype=np.int8),
    )


def training_rows(
    panel: Panel, *, until_us: int, rng: np.random.Generator, sampling: Sampling, calendar: Calendar
) -> Rows:
    """Draw up to `rows_cap` rows whose targets had ended by `until_us`. Raises ValueError when there are none.

    Leads are drawn per sample without replacement; rows with missing truth are dropped.
    """
    known = panel.until(until_us)
    meters, origins_us = _draw_samples(known, rng, sampling)
    leads = _draw_leads(len(meters), rng, sampling)
    blocks = [
        _block_rows(known, meters[part], origins_us[part], leads[part], rng, sampling, calendar)
        for part in _parts(len(meters))
    ]
    x = np.concatenate([block[0] for block in blocks]) if blocks else np.empty((0, len(FEATURES)), dtype=np.float32)
    if not len(x):
        raise ValueError("no training rows: no meter has a day of history followed by a known interval")
    target = np.concatenate([block[1] for block in blocks])
    age_days = (until_us - np.concatenate([block[2] for block in blocks])) / DAY_US
    weight = np.ones(len(x)) if sampling.half_life_days is None else 0.5 ** (age_days / sampling.half_life_days)
    return Rows(x, target, weight / weight.mean())


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _draw_samples(known: Panel, rng: np.random.Generator, sampling: Sampling) -> tuple[Ints, Ints]:
    """Draw (meter, origin) pairs that have some history behind and at least one known interval ahead."""
    seen = np.isfinite(known.load_kw)
    before = np.concatenate([np.zeros((len(seen), 1), dtype=np.int64), np.cumsum(seen, axis=1)], axis=1)
    columns = np.arange(seen.shape[1] + 1)
    behind = before - before[:, np.maximum(columns - window_steps(known.step_s), 0)]
    ahead = before[:, np.minimum(columns + sampling.horizon_steps, seen.shape[1])] - before
    meters, origins = np.nonzero((behind >= _MIN_SEEN) & (ahead > 0))
    wanted = -(-sampling.rows_cap // sampling.leads_per_sample)
    if len(meters) > wanted:
        chosen = np.sort(rng.choice(len(meters), size=wanted, replace=False))
        meters, origins = meters[chosen], origins[chosen]
    return meters.astype(np.int64), known.start_us + origins.astype(np.int64) * known.step_us


def _draw_leads(samples: int, rng: np.random.Generator, sampling: Sampling) -> Ints:
    """Return distinct leads [S, leads_per_sample] of 1 … horizon, ascending within a sample."""
    each = min(sampling.leads_per_sample, sampling.horizon_steps)
    drawn = np.argsort(rng.random((samples, sampling.horizon_steps)), axis=1)[:, :each] + 1
    return np.sort(drawn, axis=1).astype(np.int64)


def _block_rows(
    known: Panel,
    meters: Ints,
    origins_us: Ints,
    leads: Ints,
    rng: np.random.Generator,
    sampling: Sampling,
    calendar: Calendar,
) -> tuple[NDArray[np.float32], Floats, Ints]:
    """Return x, target and origin of a block's rows that have truth and a usable window."""
    windows = spoil(known.windows(meters, origins_us), rng, sampling.dropout, steps_per_day=DAY_US // known.step_us)
    matrix = feature_matrix(windows, origins_us, leads, step_s=known.step_s, calendar=calendar)
    target = to_target(known.truth(meters, origins_us, leads), matrix)
    kept = np.isfinite(target)
    return matrix.x[kept], target[kept], np.repeat(origins_us, leads.shape[1])[kept]


def spoil(
    windows: NDArray[np.float32], rng: np.random.Generator, chance: float, *, steps_per_day: int
) -> NDArray[np.float32]:
    """Return windows of which a share lost early history, a stretch, or the latest values, as real ones do.

    The model then has met every feature missing (it would read NaN as 0 otherwise) and learns to go without.
    """
    count, width = windows.shape
    steps = np.arange(width)
    spoilt = rng.random((3, count, 1)) < chance / 2
    start = width - (steps_per_day * rng.uniform(2, 28, (count, 1))).astype(np.int64)
    gap_start = rng.integers(0, width, (count, 1))
    gap_end = gap_start + (steps_per_day * rng.exponential(2.0, (count, 1))).astype(np.int64) + 1
    tail = (
        width - (steps_per_day * 10.0 ** rng.uniform(-1.4, 1.0, (count, 1))).astype(np.int64) - 1
    )  # an hour to ten days
    lost = (
        (spoilt[0] & (steps < start))
        | (spoilt[1] & (steps >= gap_start) & (steps < gap_end))
        | (spoilt[2] & (steps >= tail))
    )
    return np.where(lost, np.float32(np.nan), windows)
