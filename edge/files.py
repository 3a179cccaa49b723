"""Readings in a Parquet or CSV file, as `replay` and `backfill` publish them (only home of pyarrow at the edge)."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.clock import parse_instant_us
from shared.errors import DataFileError
from shared.grid import UNITS
from shared.topics import is_id

COLUMNS: Final = ("meter_id", "ts", "value")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, what its values are, and which part of it is meant: from `start_us`, before `end_us`."""

    file: Path
    unit: str
    kind: str | None = None
    period: timedelta | None = None
    start_us: int | None = None
    end_us: int | None = None

    @property
    def form(self) -> dict[str, object]:
        """What every reading of it says of itself, apart from instant and value."""
        form: dict[str, object] = {"unit": self.unit}
        if self.kind:
            form["kind"] = self.kind
        if self.period:
            form["period_s"] = self.period.total_seconds()
        return form


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings in time order."""

    meter: NDArray[np.object_]
    ts_us: NDArray[np.int64]
    value: NDArray[np.float64]


def read(source: Source) -> Rows:
    """The readings meant; raises DataFileError naming the file and what is wrong with it."""
    _check_kind(source)
    rows = _between(load(source.file), source.start_us, source.end_us)
    if not len(rows.ts_us):
        raise DataFileError(f"{source.file}: no readings between --from and --to")
    return rows


def _check_kind(source: Source) -> None:
    kinds = UNITS[source.unit].kinds
    if source.kind is None and len(kinds) > 1:
        raise DataFileError(f"--kind is needed: {source.unit} may be energy or register")
    if source.kind is not None and source.kind not in kinds:
        raise DataFileError(
            f"--kind {source.kind} does not go with --unit {source.unit}: every reading would be refused"
        )


def _between(rows: Rows, start_us: int | None, end_us: int | None) -> Rows:
    chosen = np.isfinite(rows.value)
    if start_us is not None:
        chosen &= rows.ts_us >= start_us
    if end_us is not None:
        chosen &= rows.ts_us < end_us
    order = np.flatnonzero(chosen)[np.argsort(rows.ts_us[chosen], kind="stable")]
    return Rows(rows.meter[order], rows.ts_us[order], rows.value[order])


def load(file: Path) -> Rows:
    """The file's readings; raises DataFileError naming the file and what is wrong with it."""
    try:
        rows = _load_parquet(file) if file.suffix == ".parquet" else _load_csv(file)
    except OSError as error:
        raise DataFileError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataFileError(f"{file}: not UTF-8 text") from error
    strange = next((name for name in rows.meter if not is_id(name)), None)
    if strange is not None:
        raise DataFileError(f"{file}: meter_id {strange!r} is not 1 to 64 of letters, digits, _ . : -")
    return rows


def _load_csv(file: Path) -> Rows:
    meters: list[str] = []
    instants_us: list[int] = []
    values: list[float] = []
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataFileError(f"{file}: column {missing[0]} is missing; expected {', '.join(COLUMNS)}")
        for row in reader:
            try:
                instants_us.append(parse_instant_us(_numeric(row["ts"])))
                values.append(float(row["value"] or math.nan))
            except (ValueError, TypeError) as error:
                raise DataFileError(f"{file}: line {reader.line_num}: {error}") from error
            meters.append(row["meter_id"])
    return Rows(np.array(meters, dtype=object), np.array(instants_us, dtype=np.int64), np.array(values, dtype=float))


def _numeric(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _load_parquet(file: Path) -> Rows:
    try:
        import pyarrow as arrow
        import pyarrow.compute as compute
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataFileError(f"{file}: reading Parquet needs pyarrow; install it, or use CSV") from error
    try:
        table = parquet.read_table(file, columns=list(COLUMNS))
    except (arrow.ArrowInvalid, KeyError) as error:
        raise DataFileError(f"{file}: expected Parquet with {', '.join(COLUMNS)}: {error}") from error
    stamps = compute.cast(table["ts"], arrow.timestamp("us", tz="UTC" if table["ts"].type.tz else None))
    return Rows(
        np.array(table["meter_id"].to_pylist(), dtype=object),
        stamps.cast(arrow.int64()).to_numpy(),
        table["value"].cast(arrow.float64()).to_numpy(),
    )
