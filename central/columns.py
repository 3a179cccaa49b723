"""From the columns of uplink batches to Arrow tables of the record, without a Python step per row.

Invariant: every row of every kind in a batch is in exactly one table that `tables_of` returns: columns that do not fit
their kind, and kinds this version does not know, go to `other` as JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.clock import LATEST_US, parse_instant_us
from shared.messages import COVARIATE_COLUMNS, GAP_COLUMNS, Uplink

log = logging.getLogger(__name__)

INSTANT: Final = pa.timestamp("us", tz="UTC")
_ORIGIN: Final = [("epoch", pa.string()), ("seq", pa.int64()), ("row", pa.int32())]

READINGS: Final = pa.schema(
    [
        ("site", pa.string()),
        ("month", pa.string()),
        ("meter_id", pa.string()),
        ("ts", INSTANT),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("kind", pa.string()),
        ("period_s", pa.float64()),
        ("quality", pa.string()),
        ("received_at", INSTANT),
        *_ORIGIN,
    ]
)
DEAD_LETTERS: Final = pa.schema(
    [
        ("site", pa.string()),
        ("id", pa.string()),
        ("topic", pa.string()),
        ("payload", pa.string()),
        ("payload_b64", pa.string()),
        ("reason", pa.string()),
        ("received_at", INSTANT),
        ("count", pa.int64()),
        *_ORIGIN,
    ]
)
SCORES: Final = pa.schema(
    [
        ("site", pa.string()),
        ("meter_id", pa.string()),
        ("valid_at", INSTANT),
        ("lead", pa.int32()),
        ("role", pa.string()),
        ("rung", pa.string()),
        ("model_version", pa.int64()),
        ("y_kw", pa.float64()),
        ("forecast_kw", pa.float64()),
        ("low_kw", pa.float64()),
        ("high_kw", pa.float64()),
        ("naive_kw", pa.float64()),
        ("received_at", INSTANT),
        *_ORIGIN,
    ]
)
EVENTS: Final = pa.schema(
    [("site", pa.string()), ("at", INSTANT), ("event", pa.string()), ("detail", pa.string()), *_ORIGIN]
)
GAPS: Final = pa.schema(
    [
        ("site", pa.string()),
        ("from_seq", pa.int64()),
        ("to_seq", pa.int64()),
        ("meter_id", pa.string()),
        ("readings", pa.int64()),
        ("reason", pa.string()),
        ("at", INSTANT),
        *_ORIGIN,
    ]
)
COVARIATES: Final = pa.schema(
    [
        ("site", pa.string()),
        ("name", pa.string()),
        ("issued_at", INSTANT),
        ("start", INSTANT),
        ("step_s", pa.float64()),
        ("values", pa.list_(pa.float64())),
        ("unit", pa.string()),
        ("received_at", INSTANT),
        *_ORIGIN,
    ]
)
OTHER: Final = pa.schema([("site", pa.string()), ("kind", pa.string()), ("columns", pa.string()), *_ORIGIN])

SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "dead_letters": DEAD_LETTERS,
    "scores": SCORES,
    "events": EVENTS,
    "gaps": GAPS,
    "covariates": COVARIATES,
    "other": OTHER,
    "readings": READINGS,
}
_MISFITS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError)
# What a column is called on the wire, where the record calls it otherwise: instants lose their unit.
_WIRE_NAMES: Final = {
    "ts": "ts_us",
    "received_at": "received_us",
    "valid_at": "valid_us",
    "at": "at_us",
    "issued_at": "issued_us",
    "start": "start_us",
}
_NEEDED: Final[Mapping[str, frozenset[str]]] = {
    "readings": frozenset({"meter_id", "ts_us", "value", "received_us"}),
    "dead_letters": frozenset({"id", "reason", "received_us"}),
    "scores": frozenset({"meter_id", "valid_us", "lead", "role"}),
    "events": frozenset({"at_us", "event"}),
    "gaps": frozenset(GAP_COLUMNS),
    "covariates": frozenset(COVARIATE_COLUMNS) - {"unit"},
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """Batches that went into the record together, and their rows as `tables_of` has them."""

    batches: Sequence[Uplink]
    tables: Mapping[str, pa.Table]

    @classmethod
    def of(cls, batches: Sequence[Uplink]) -> Recorded:
        """Batches as they are about to be written."""
        return cls(batches, tables_of(batches))


def tables_of(batches: Sequence[Uplink]) -> dict[str, pa.Table]:
    """The rows of `batches` as one table for each of SCHEMAS that has any, in the order they came."""
    parts: dict[str, list[pa.RecordBatch]] = {}
    for batch in batches:
        for kind, columns in batch.kinds.items():
            name, part = _part_of(batch, kind, columns)
            if part.num_rows:
                parts.setdefault(name, []).append(part)
    return {name: pa.Table.from_batches(rows, SCHEMAS[name]) for name, rows in parts.items()}


def spans_of(readings: pa.Table) -> pa.Table:
    """`site, meter_id, first, last` of every meter's readings."""
    spans = readings.group_by(["site", "meter_id"]).aggregate([("ts", "min"), ("ts", "max")])
    return spans.rename_columns({"ts_min": "first", "ts_max": "last"})


def _part_of(batch: Uplink, kind: str, columns: Mapping[str, list[Any]]) -> tuple[str, pa.RecordBatch]:
    if kind in _NEEDED:
        try:
            return kind, _known_part(batch, kind, columns)
        except _MISFITS as error:
            log.warning("columns kept as json", extra={"site": batch.site, "kind": kind, "reason": str(error)})
    content = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    rows = 1 if any(columns.values()) else 0
    return "other", _batch_of(OTHER, batch, {"kind": [kind] * rows, "columns": [content] * rows}, rows)


def _known_part(batch: Uplink, kind: str, columns: Mapping[str, list[Any]]) -> pa.RecordBatch:
    rows = max((len(column) for column in columns.values()), default=0)
    lacking = _NEEDED[kind] - columns.keys()
    if rows and lacking:
        raise ValueError(f"no column {', '.join(sorted(lacking))}")
    schema = SCHEMAS[kind]
    wired = {name: _WIRE_NAMES.get(name, name) for name in schema.names}
    part = _batch_of(schema, batch, {name: columns[wire] for name, wire in wired.items() if wire in columns}, rows)
    if any(part[name].null_count for name, wire in wired.items() if wire in _NEEDED[kind]):
        raise ValueError(f"a gap in {', '.join(sorted(_NEEDED[kind]))}")
    return part


def _batch_of(schema: pa.Schema, batch: Uplink, given: Mapping[str, list[Any]], rows: int) -> pa.RecordBatch:
    made: dict[str, pa.Array] = {
        "site": pa.repeat(pa.scalar(batch.site), rows),
        "epoch": pa.repeat(pa.scalar(batch.epoch), rows),
        "seq": pa.repeat(pa.scalar(batch.seq, pa.int64()), rows),
        "row": pa.array(np.arange(rows, dtype=np.int32)),
    }
    for name, values in given.items():
        if name not in made:
            made[name] = _array(values, schema.field(name).type)
    if "received_at" in schema.names and "received_at" not in made:
        made["received_at"] = pa.repeat(pa.scalar(parse_instant_us(batch.at), pa.int64()).cast(INSTANT), rows)
    if "ts" in made:
        made["month"] = _months(made["ts"])
    return pa.RecordBatch.from_arrays(
        [made.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema
    )


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        try:
            return pa.array(values, kind)
        except (pa.ArrowTypeError, pa.ArrowInvalid):  # lists and objects are told as JSON
            return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], kind)
    if pa.types.is_timestamp(kind):
        return _instants(values).cast(kind)
    return pa.array(values, kind)


def _instants(values: list[Any]) -> pa.Array:
    """As `shared.clock.parse_instant_us` bounds them, so that every instant in a table can be told as text."""
    instants = pa.array(values, pa.int64())
    bounds = pc.min_max(instants).as_py()
    if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < LATEST_US:
        raise ValueError("an instant that is not between 1970 and 9998")
    return instants


def _months(ts: pa.Array) -> pa.Array:
    """`2013-05` for each instant, by which the readings are partitioned."""
    if ts.null_count:
        raise ValueError("an instant is missing")
    months = ts.cast(pa.int64()).to_numpy().astype("datetime64[us]").astype("datetime64[M]")
    names, which = np.unique(months, return_inverse=True)
    return pa.array(names.astype(str), pa.string()).take(pa.array(which))
