"""Tables as files for other programs: Parquet or CSV, by the file's suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from shared.errors import DataFileError


def write_table(rows: pa.Table, path: Path) -> None:
    """Write `rows` to a file that appears whole; raises DataFileError for another suffix or a place not writable."""
    writers = {".parquet": pyarrow.parquet.write_table, ".csv": pyarrow.csv.write_csv}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise DataFileError(f"{path}: expected a name ending in .parquet or .csv")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(rows, str(fresh))
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise DataFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_parquet(schema: pa.Schema, blocks: Iterable[pa.Table], path: Path) -> None:
    """Write blocks of rows to one Parquet file that appears whole, a row group each, holding one block at a time.

    Raises DataFileError when the place cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(str(fresh), schema) as writer:
            for block in blocks:
                writer.write_table(block)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise DataFileError(f"{path}: cannot be written: {error.strerror or error}") from error
