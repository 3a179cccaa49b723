"""`edge replay FILE`: publish the readings of a Parquet or CSV file as those meters would, at any speed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from edge.files import Rows, Source, read
from edge.pacing import PacedPublisher
from shared.clock import iso
from shared.mqtt import Connection
from shared.params import Params
from shared.topics import SiteTopics

UNCONFIRMED_AT_MOST: Final = 2000


@dataclass(frozen=True, slots=True)
class Replay:
    """What to publish and how fast; `speed` in event time per wall time (inf: no pause)."""

    source: Source
    speed: float


def replay(plan: Replay, params: Params, *, report: Callable[[str], None]) -> int:
    """Publish the file's readings at QoS 1 in time order; returns how many the broker confirmed."""
    rows = read(plan.source)
    connection = Connection(params.mqtt, client_id=f"metercast-replay-{params.site}-{os.getpid()}", lasting=False)
    connection.start()
    try:
        return _publish(plan, rows, connection, SiteTopics(params.mqtt.root, params.site), report)
    finally:
        connection.stop()


def _publish(
    plan: Replay, rows: Rows, connection: Connection, topics: SiteTopics, report: Callable[[str], None]
) -> int:
    form = plan.source.form
    count, first_us = len(rows.ts_us), int(rows.ts_us[0])
    publisher = PacedPublisher(connection, unconfirmed=UNCONFIRMED_AT_MOST)
    for number, (meter, ts_us, value) in enumerate(_each(rows), start=1):
        publisher.wait_until((ts_us - first_us) / 1e6 / plan.speed)
        payload = json.dumps({"ts": iso(ts_us), "value": value, **form}).encode()
        publisher.publish(topics.reading(meter), payload)
        if publisher.due_to_report():
            report(f"\r{number}/{count} readings, {iso(ts_us)} ")
    publisher.finish()
    report(f"\r{count}/{count} readings, {iso(int(rows.ts_us[-1]))} \n")
    return count


def _each(rows: Rows) -> Iterator[tuple[str, int, float]]:
    return zip(rows.meter.tolist(), rows.ts_us.tolist(), rows.value.tolist(), strict=True)
