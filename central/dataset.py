"""From readings to panels of load, and from panels to windows, truth and training rows.

Invariants: `training_rows` yields no target that had not ended by the cutoff; a window at an origin holds what the
readings received by then (plus the grace) make of it, where it is known when they were received.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from central.covariates import Covariates, covariate_columns_of
from central.lateness import file_revisions, received_us, record_revisions
from central.revisions import Revisions
from shared.bindings import Bindings
from shared.calendars import Calendar
from shared.clock import DAY_US
from shared.covariates import COLUMNS_OF_A_NAME, column_names, with_columns
from shared.errors import DataFileError
from shared.features import FEATURES, feature_matrix, to_target, window_steps
from shared.grid import KINDS, UNITS, GridRules, MeterReadings, Span, intervals_of_many

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MIN_SEEN: Final = 24  # finite values a window must hold to be a training sample
_MOST_SCALES: Final = 20.0  # a target beyond is of a window that shows nothing, zeros perhaps: it may not rule a leaf
_BLOCK: Final = 512  # windows whose features are computed at once
_TOGETHER: Final = 64  # meters whose intervals are made at once
_CELLS_MAX: Final = 100_000_000  # of a panel: 0.8 GB
_EPOCH_UNITS: Final = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0))  # below the bound: microseconds in one unit
_SLASHED_DATE: Final = r"^(\d{4})/(\d{1,2})/(\d{1,2})"


@dataclass(frozen=True, slots=True)
class Panel:
    """Load of M meters on one grid: `load_kw` float64 [M, T], NaN = missing; column 0 starts at `start_us` UTC.

    `load_kw` is the last word on each interval; `revisions` are the earlier ones, None where there were none.
    """

    meters: list[str]
    start_us: int
    step_s: int
    load_kw: Floats
    revisions: Revisions | None = None
    covariates: Covariates | None = None  # a row for each meter

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
        """Return float32 [N, window_steps] of row indices `meters` just before `origins_us`; NaN outside the panel.

        They hold what was known at `origins_us`.
        """
        origins = self.column(origins_us)[:, None]
        columns = origins + np.arange(-window_steps(self.step_s), 0)
        values = self._at(meters, columns)
        if self.revisions is not None:
            values = self.revisions.known(values, meters[:, None], columns, origins)
        return values.astype(np.float32)

    def truth(self, meters: Ints, origins_us: Ints, leads: Ints) -> Floats:
        """Return the load [N, L] at `leads` ([L], or [N, L]) of `origins_us`; NaN outside the panel."""
        return self._at(meters, self.column(origins_us)[:, None] + leads - 1)

    def until(self, end_us: int) -> Panel:
        """Return the panel as it stood at `end_us`: only intervals that had ended, as they were known."""
        count = max(0, int(self.column(np.array([end_us], dtype=np.int64))[0]))
        known = self.known_at(np.full(len(self.meters), count, dtype=np.int64))
        revisions = None if known.revisions is None else known.revisions.until(count)
        return replace(known, load_kw=known.load_kw[:, :count], revisions=revisions)

    def known_at(self, ends: Ints) -> Panel:
        """Return the panel as it stood at each meter's own column of `ends` [M]; from there on it is missing."""
        ended = np.arange(self.load_kw.shape[1]) < ends[:, None]
        if self.revisions is None:
            return replace(self, load_kw=np.where(ended, self.load_kw, np.nan))
        meters, columns = np.arange(len(ends))[:, None], np.arange(self.load_kw.shape[1])
        known_kw = self.revisions.known(self.load_kw, meters, columns, ends[:, None])
        return replace(self, load_kw=np.where(ended, known_kw, np.nan), revisions=self.revisions.forgotten_from(ends))

    def as_it_ended(self, column: int) -> Floats:
        """Return the load [M] of an interval as it was known at its end."""
        return self.as_known(column, column + 1)

    def as_known(self, column: int, origin: int) -> Floats:
        """Return the load [M] of an interval as it was known at the start of column `origin`."""
        load_kw = self.load_kw[:, column]
        if self.revisions is None:
            return load_kw
        return self.revisions.known(load_kw, np.arange(len(load_kw)), np.array(column), np.array(origin))

    def covariates_of(self, meters: Ints) -> Covariates | None:
        """Return what is known ahead to row indices `meters`, None where there is nothing of the kind."""
        return None if self.covariates is None else self.covariates.of(meters)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the columns of training rows drawn from here: the features, then the covariates' columns."""
        return FEATURES if self.covariates is None else (*FEATURES, *column_names(self.covariates.names))

    def _at(self, meters: Ints, columns: Ints) -> Floats:
        inside = (columns >= 0) & (columns < self.load_kw.shape[1])
        values: Floats = (
            self.load_kw[meters[:, None], np.where(inside, columns, 0)] if inside.any() else np.zeros(columns.shape)
        )
        return np.where(inside, values, np.nan)


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows: `x` float32 [R, F], `target` float64 [R] (normalised), `weight` float64 [R] (mean one).

    `origin_us` int64 [R] is where each row's window ended.
    """

    x: NDArray[np.float32]
    target: Floats
    weight: Floats
    origin_us: Ints

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.target)

    def part(self, kept: NDArray[np.bool_] | Ints) -> Rows:
        """Return the rows of a mask [R] or of indices, their weights as they are."""
        return Rows(self.x[kept], self.target[kept], self.weight[kept], self.origin_us[kept])


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several panels as one, their weights as they are."""
    columns = ((one.x, one.target, one.weight, one.origin_us) for one in parts)
    x, target, weight, origin_us = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Rows(x, target, weight, origin_us)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How training rows are drawn.

    Each sample is a window of one meter at one origin with some of its leads. `dropout` is the chance that a window is
    spoilt the way real ones are: shortened history, a gap, or a stale tail (an equal chance each, possibly together).
    `covariate_dropout` is the chance that a sample knows none of its covariates, and as much that it lacks a certain
    one. `half_life_days` weights rows by the age of their origin; None weights all alike. `meter_balance` (0 … 1) gives
    meters of long history less weight for each row, at 1 all meters the same in sum. `peak_weight` (0 … 1) lets rows of
    low load count for less, at 1 in proportion to |load| over the meter's highest hundredth, not under a tenth.
    """

    rows_cap: int = 100_000
    leads_per_sample: int = 8
    horizon_steps: int = 48
    dropout: float = 0.3
    half_life_days: float | None = None
    covariate_dropout: float = 0.25
    meter_balance: float = 0.0
    peak_weight: float = 0.0


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
    all_rows = rows = rows.sort_values("received_at", kind="stable", na_position="first") if arrived else rows
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
    factor = expected if aggregate == "sum" else np.ones_like(expected)
    panel = Panel([str(name) for name in names], first * step_us, step_s, mean * factor)
    if not arrived:
        return panel
    received = pd.DataFrame(
        {
            "meter": pd.Index(names).get_indexer(pd.Index(all_rows["meter_id"].astype(str))),
            "ts_us": all_rows["ts"].dt.as_unit("us").astype("int64"),
            "received_us": received_us(all_rows["received_at"]),
            "value": all_rows["value"].astype(np.float64),
        }
    )
    return replace(
        panel,
        revisions=file_revisions(
            panel.load_kw, received, expected[:, 0], factor[:, 0], start_us=panel.start_us, step_us=step_us
        ),
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
    try:
        rows["ts"] = _instants(rows["ts"])
        rows["value"] = pd.to_numeric(rows["value"])
        if "received_at" in rows:
            rows["received_at"] = _instants(rows["received_at"])
    except (ValueError, TypeError, OverflowError) as e:
        raise DataFileError(f"{path}: {str(e).splitlines()[0]}") from e
    kept = ["meter_id", "ts", "value", *(["received_at"] if "received_at" in rows else [])]
    return rows[kept].dropna(subset=["meter_id", "ts", "value"])


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


def training_rows(
    panel: Panel, *, until_us: int, rng: np.random.Generator, sampling: Sampling, calendar: Calendar
) -> Rows:
    """Draw up to `rows_cap` rows whose targets had ended by `until_us`. Raises ValueError when there are none.

    Leads are drawn per sample without replacement; rows with missing truth are dropped. Targets are cut off at
    _MOST_SCALES: no quantile that is learnt lies there, but a window of zeros makes targets of a million scales, and
    the leaf they fall in an interval of a gigawatt.
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
    origins_us, meters, load_kw = (np.concatenate([block[i] for block in blocks]) for i in (2, 3, 4))
    weight = (
        _age_weight((until_us - origins_us) / DAY_US, sampling.half_life_days)
        * _balance_weight(meters, sampling.meter_balance)
        * _peak_weight(meters, load_kw, sampling.peak_weight)
    )
    return Rows(x, target, weight / weight.mean(), origins_us)


def split_by_time(rows: Rows, *, share: float, gap_us: int) -> tuple[Rows, Rows]:
    """Return (earlier, latest) rows: the latest `share` of origins, and those whose targets had ended before them.

    `gap_us` is the longest horizon: no target of the earlier rows lies at or after the first of the latest origins.
    """
    first_us = int(np.quantile(rows.origin_us, 1.0 - share, method="lower"))
    return rows.part(rows.origin_us + gap_us <= first_us), rows.part(rows.origin_us >= first_us)


def _age_weight(age_days: Floats, half_life_days: float | None) -> Floats:
    weight: Floats = np.ones(len(age_days)) if half_life_days is None else 0.5 ** (age_days / half_life_days)
    return weight


def _balance_weight(meters: Ints, balance: float) -> Floats:
    """Return rows' weights: the count of their meter's rows to the power of −balance."""
    weight: Floats = np.bincount(meters)[meters].astype(np.float64) ** -balance
    return weight


def _peak_weight(meters: Ints, load_kw: Floats, peak_weight: float) -> Floats:
    """Return 1 − p + p·clip(|load| / the meter's 99th percentile of it, .1, 1), OpenSTEF's weight at p = 1."""
    if peak_weight == 0.0:
        return np.ones(len(load_kw))
    size = np.abs(load_kw)
    high = np.zeros(int(meters.max()) + 1)
    for meter in np.unique(meters):
        high[meter] = np.quantile(size[meters == meter], 0.99)
    top = high[meters]
    relative = np.divide(size, top, out=np.ones(len(size)), where=top > 0)
    weight: Floats = 1.0 - peak_weight + peak_weight * np.clip(relative, 0.1, 1.0)
    return weight


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
) -> tuple[NDArray[np.float32], Floats, Ints, Ints, Floats]:
    """Return x, target, origin, meter and load (kW) of a block's rows that have truth and a usable window."""
    windows = spoil(known.windows(meters, origins_us), rng, sampling.dropout, steps_per_day=DAY_US // known.step_us)
    matrix = feature_matrix(windows, origins_us, leads, step_s=known.step_s, calendar=calendar)
    x = with_columns(matrix.x, _covariate_columns(known.covariates_of(meters), origins_us, leads, rng, sampling))
    load_kw = known.truth(meters, origins_us, leads)
    target = np.clip(to_target(load_kw, matrix), -_MOST_SCALES, _MOST_SCALES)
    kept = np.isfinite(target)
    origin_us, meter = (np.repeat(column, leads.shape[1])[kept] for column in (origins_us, meters))
    return x[kept], target[kept], origin_us, meter, load_kw.reshape(-1)[kept]


def _covariate_columns(
    covariates: Covariates | None, origins_us: Ints, leads: Ints, rng: np.random.Generator, sampling: Sampling
) -> NDArray[np.float32]:
    """Return the covariates' columns [N, L, C] with some made unknown, so that the model learns to go without them."""
    names = covariates.names if covariates is not None else ()
    columns = covariate_columns_of(covariates, names, origins_us, leads)
    if not names:
        return columns
    chance = sampling.covariate_dropout
    lost = (rng.random((len(origins_us), 1)) < chance) | (rng.random((len(origins_us), len(names))) < chance)
    return np.where(np.repeat(lost, COLUMNS_OF_A_NAME, axis=1)[:, None, :], np.float32(np.nan), columns)


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
