"""`edge backfill FILE`: load the history of new or returned meters, without disturbing what they send now.

Invariants: every reading of the file is published, in time order per meter; each message can be understood alone. It
holds all readings of whole intervals, the last one before them (its load lasts into the first interval, its register
is what the first difference is taken from) and the first one after them (with it the last interval is closed), so that
the interval at a seam is the same as if there were none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.dialects.native import MAX_ITEMS
from edge.files import Rows, Source, read
from edge.pacing import PacedPublisher
from shared.clock import SECOND_US, iso
from shared.errors import DataFileError
from shared.mqtt import Connection
from shared.params import Params
from shared.topics import SiteTopics

READINGS_PER_MESSAGE: Final = 1000
UNCONFIRMED_AT_MOST: Final = 20
ITEM_BYTES_AT_MOST: Final = 192  # the longest instant, value, unit, kind and period
STATUS_WITHIN_S: Final = 1.0
_MILLISECOND_US: Final = 1000
_NUMBERS_ARE_SECONDS_TO_US: Final = 100_000_000_000 * SECOND_US  # shared.clock.MILLISECONDS_FROM
_NUMBERS_ARE_MILLISECONDS_FROM_US: Final = 100_000_000_000 * _MILLISECOND_US


@dataclass(frozen=True, slots=True)
class Backfill:
    """What to publish, and at most how many readings a second: that the broker confirms is not that the edge has it."""

    source: Source
    rate: float


@dataclass(frozen=True, slots=True)
class Published:
    """What the broker confirmed; readings that stand in two messages count once."""

    readings: int
    meters: int
    messages: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message to be: the readings `[first, end)` of `meter` in time order, of which `fresh` stand in no earlier."""

    meter: str
    ts_us: NDArray[np.int64]
    value: NDArray[np.float64]
    fresh: int


def backfill(plan: Backfill, params: Params, *, report: Callable[[str], None]) -> Published:
    """Publish the file's readings on the meters' backfill topics; raises DataFileError before anything is published."""
    rows = read(plan.source)
    most_bytes = params.edge.max_payload_bytes * 3 // 4
    messages = list(chunks(rows, step_us=params.step_s * SECOND_US, readings=_per_message(most_bytes)))
    for chunk in messages:
        _check(chunk, plan.source, most_bytes)
    topics = SiteTopics(params.mqtt.root, params.site)
    client_id = f"metercast-backfill-{params.site}-{os.getpid()}"
    connection = Connection(params.mqtt, client_id=client_id, filters=[topics.status], lasting=False)
    connection.start()
    try:
        if not connection.receive(1, STATUS_WITHIN_S):
            report(f"no edge has served site {params.site} on this broker yet: nobody keeps what is published now\n")
        return _publish(plan, messages, connection, topics, report)
    finally:
        connection.stop()


def _publish(
    plan: Backfill, messages: list[Chunk], connection: Connection, topics: SiteTopics, report: Callable[[str], None]
) -> Published:
    publisher = PacedPublisher(connection, unconfirmed=UNCONFIRMED_AT_MOST, rate=plan.rate)
    total, done = sum(chunk.fresh for chunk in messages), 0
    for chunk in messages:
        publisher.publish(topics.backfill(chunk.meter), encode(chunk, plan.source.form), count=len(chunk.ts_us))
        done += chunk.fresh
        if publisher.due_to_report():
            report(f"\r{done}/{total} readings, {chunk.meter} up to {iso(int(chunk.ts_us[-1]))} ")
    publisher.finish()
    report(f"\r{total}/{total} readings \n")
    return Published(total, len({chunk.meter for chunk in messages}), len(messages))


def chunks(rows: Rows, *, step_us: int, readings: int) -> Iterator[Chunk]:
    """The messages of all meters in turn: about `readings` in each, more only where one interval holds more."""
    meters, number = np.unique(rows.meter.astype(str), return_inverse=True)
    order = np.argsort(number, kind="stable")
    borders = np.searchsorted(number[order], np.arange(len(meters) + 1))
    for meter, first, end in zip(meters.tolist(), borders[:-1], borders[1:], strict=True):
        own = order[first:end]
        yield from _chunks_of(meter, rows.ts_us[own], rows.value[own], step_us, readings)


def _chunks_of(
    meter: str, ts_us: NDArray[np.int64], value: NDArray[np.float64], step_us: int, readings: int
) -> Iterator[Chunk]:
    interval = ts_us // step_us
    first, sent = 0, 0  # of the readings inside the message's intervals; all before `sent` have been published
    while sent < len(ts_us):
        end = _end_of_whole_intervals(interval, first, readings)
        begin, stop = max(first - 1, 0), min(end + 1, len(ts_us))
        yield Chunk(meter, ts_us[begin:stop], value[begin:stop], stop - sent)
        first, sent = end, stop


def _end_of_whole_intervals(interval: NDArray[np.int64], first: int, readings: int) -> int:
    """Where intervals end that begin at `first`: as many as hold `readings` at most, at least one."""
    if first + readings >= len(interval):
        return len(interval)
    fitting = int(np.searchsorted(interval, interval[first + readings], side="left"))
    return fitting if fitting > first else int(np.searchsorted(interval, interval[first], side="right"))


def encode(chunk: Chunk, form: Mapping[str, object]) -> bytes:
    """A readings payload as compact as ours can be."""
    items = [
        {"ts": _instant(ts_us), "value": value, **form}
        for ts_us, value in zip(chunk.ts_us.tolist(), chunk.value.tolist(), strict=True)
    ]
    return json.dumps(items, separators=(",", ":")).encode()


def _instant(ts_us: int) -> int | str:
    """An epoch number in s or ms where that is exact and is read as such, else ISO text."""
    if ts_us % SECOND_US == 0 and ts_us < _NUMBERS_ARE_SECONDS_TO_US:
        return ts_us // SECOND_US
    if ts_us % _MILLISECOND_US == 0 and ts_us >= _NUMBERS_ARE_MILLISECONDS_FROM_US:
        return ts_us // _MILLISECOND_US
    return iso(ts_us)


def _per_message(most_bytes: int) -> int:
    """How many readings go into a message whatever they look like; two more are repeated from its neighbours."""
    return max(min(READINGS_PER_MESSAGE, most_bytes // ITEM_BYTES_AT_MOST) - 2, 1)


def _check(chunk: Chunk, source: Source, most_bytes: int) -> None:
    """Refuse an interval that no message can hold: cut in two, neither half would be the interval."""
    count = len(chunk.ts_us)
    if count * ITEM_BYTES_AT_MOST <= most_bytes:
        return
    size = len(encode(chunk, source.form))
    if count > MAX_ITEMS or size > most_bytes:
        raise DataFileError(
            f"{source.file}: {chunk.meter} has {count} readings within one interval of grid.step at "
            f"{iso(int(chunk.ts_us[0]))}, {size} bytes; a message holds at most {MAX_ITEMS} and {most_bytes} bytes: "
            "use a coarser file"
        )
