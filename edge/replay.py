"""`edge replay FILE`: publish the readings of a Parquet or CSV file as those meters would, at any speed."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.clock import iso, parse_instant_us
from shared.errors import BrokerUnreachable, DataFileError
from shared.grid import UNITS
from shared.mqtt import Connection, Delivery
from shared.params import Params
from shared.topics import SiteTopics, is_id

COLUMNS: Final = ("meter_id", "ts", "value")
UNCONFIRMED_AT_MOST: Final = 2000
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Replay:
    """What to publish and how fast; instants in microseconds, `speed` in event time per wall time (inf: no pause)."""

    file: Path
    unit: str
    kind: str | None
    period: timedelta | None
    speed: float
    start_us: int | None
    end_us: int | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings in time order."""

    meter: NDArray[np.object_]
    ts_us: NDArray[np.int64]
    value: NDArray[np.float64]


def replay(plan: Replay, params: Params, *, report: Callable[[str], None]) -> int:
    """Publish the file's readings at QoS 1 in time order; returns how many the broker confirmed."""
    if plan.kind is None and len(UNITS[plan.unit].kinds) > 1:
        raise DataFileError(f"--kind is needed: {plan.unit} may be energy or register")
    rows = _between(load(plan.file), plan.start_us, plan.end_us)
    if not len(rows.ts_us):
        raise DataFileError(f"{plan.file}: no readings between --from and --to")
    connection = Connection(params.mqtt, client_id=f"metercast-replay-{params.site}-{os.getpid()}", lasting=False)
    connection.start()
    try:
        return _publish(plan, rows, connection, SiteTopics(params.mqtt.root, params.site), report)
    finally:
        connection.stop()


def _publish(
    plan: Replay, rows: Rows, connection: Connection, topics: SiteTopics, report: Callable[[str], None]
) -> int:
    extra: dict[str, object] = {"unit": plan.unit}
    if plan.kind:
        extra["kind"] = plan.kind
    if plan.period:
        extra["period_s"] = plan.period.total_seconds()
    unconfirmed: list[Delivery] = []
    count, first_us, began_s, told_s = len(rows.ts_us), int(rows.ts_us[0]), time.monotonic(), 0.0
    for number, (meter, ts_us, value) in enumerate(_each(rows), start=1):
        ahead_s = (ts_us - first_us) / 1e6 / plan.speed - (time.monotonic() - began_s)
        if ahead_s > 0:
            time.sleep(ahead_s)
        payload = json.dumps({"ts": iso(ts_us), "value": value, **extra}).encode()
        unconfirmed.append(connection.publish(topics.reading(meter), payload))
        if len(unconfirmed) >= UNCONFIRMED_AT_MOST:
            unconfirmed = _wait(unconfirmed, at_most=UNCONFIRMED_AT_MOST // 2)
        if time.monotonic() - told_s > 1:
            told_s = time.monotonic()
            report(f"\r{number}/{count} readings, {iso(ts_us)} ")
    _wait(unconfirmed, at_most=0)
    report(f"\r{count}/{count} readings, {iso(int(rows.ts_us[-1]))} \n")
    return count


def _each(rows: Rows) -> Iterator[tuple[str, int, float]]:
    return zip(rows.meter.tolist(), rows.ts_us.tolist(), rows.value.tolist(), strict=True)


def _wait(unconfirmed: list[Delivery], *, at_most: int) -> list[Delivery]:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        unconfirmed = [delivery for delivery in unconfirmed if not delivery.done]
        if len(unconfirmed) <= at_most:
            return unconfirmed
        if time.monotonic() > deadline_s:
            raise BrokerUnreachable(f"{len(unconfirmed)} readings were not confirmed within {PATIENCE_S:g} s")
        time.sleep(0.005)


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
