"""`record_readings_per_s`: readings a second from uplink batches through a real central into committed Delta tables.

The batches wait in central's session; its clock runs from its connect until it has acknowledged the last of them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.flood import leave_session, park
from bench.stage import BenchFailed, Broker, launch, python, say, settings, wait_for
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from shared.clock import iso, parse_instant_us
from shared.messages import READING_COLUMNS, Uplink, columns_of
from shared.topics import SiteTopics

SITE: Final = "bench"
EPOCH: Final = "0123456789abcdef"
CLIENT_ID: Final = "metercast-central"
START_US: Final = parse_instant_us("2026-01-05T00:00:00Z")
PATIENCE_S: Final = 120.0


def run(*, readings: int = 1_000_000, batch: int = 1000, runs: int = 3) -> list[Figure]:
    """Record as many readings `runs` times, each into tables of its own."""
    topics = SiteTopics("metercast", SITE)
    batches = max(readings // batch, 1)
    packets = [
        publish_packet(topics.uplink, _uplink(seq, batch), mid=seq % 65_535 + 1) for seq in range(1, batches + 1)
    ]
    seconds = []
    for number in range(1, runs + 1):
        seconds.append(_recorded_within(packets, topics, batches))
        say(f"record {number}/{runs}: {batches * batch / seconds[-1]:,.0f} readings/s")
    value = round(batches * batch / statistics.median(seconds), 1)
    conditions = {"readings": batches * batch, "readings_per_batch": batch, "batch_bytes": len(_uplink(1, batch))}
    return [Figure("record_readings_per_s", value, "readings/s", runs, conditions=conditions)]


def _uplink(seq: int, readings: int) -> bytes:
    """A batch as an edge makes it of a minute's readings of as many meters."""
    ts_us = START_US + seq * 60_000_000
    rows = [
        (
            f"meter-{meter:05d}",
            ts_us,
            (seq * 104_729 + meter * 7919) % 1_000_000 / 1000,
            "kW",
            "power",
            None,
            "ok",
            ts_us + 1_000_000,
        )
        for meter in range(readings)
    ]
    kinds = {"readings": columns_of(READING_COLUMNS, rows)}
    return Uplink(site=SITE, epoch=EPOCH, seq=seq, at=iso(ts_us), kinds=kinds).compress()


def _recorded_within(packets: list[bytes], topics: SiteTopics, batches: int) -> float:
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
        leave_session(broker, CLIENT_ID, "metercast/+/uplink")
        park(broker.port, packets)
        chosen: dict[str, object] = {
            "clock": "event",
            "mqtt.host": "127.0.0.1",
            "mqtt.port": broker.port,
            "central.work_dir": Path(name) / "central",
            "central.mlflow_uri": f"sqlite:///{name}/mlflow.sqlite",  # named, so none is prepared meanwhile
            "central.metrics_port": 0,
        }
        with Wire(broker.port, "bench-observer") as observer:
            observer.subscribe(topics.acked)
            child = launch("central", python("central", "run", *settings(chosen)), Path(name) / "log")
            try:
                wait_for(lambda: CLIENT_ID in broker.came_s, "central to connect", 120, of=child)
                return _acked_s(observer, batches) - broker.came_s[CLIENT_ID]
            finally:
                child.stop()


def _acked_s(observer: Wire, batches: int) -> float:
    """When central acknowledged the last batch."""
    seq = 0
    try:
        for kind, body in observer.packets(PATIENCE_S):
            if kind == PUBLISH:
                seq = json.loads(topic_and_payload(body)[1])["seq"]
                if seq >= batches:
                    break
    except TimeoutError as error:
        raise BenchFailed(f"record: central acknowledged {seq} of {batches} batches") from error
    return time.monotonic()
