"""`record_readings_per_s`: readings a second from uplink batches through a real central into committed Delta tables.

A few sites that were long away catch up together, each as an edge does: a window of batches is under way, and each
acknowledgement lets as many follow. The clock runs from central's connect, when the first windows wait in its session,
until it has acknowledged the last batch of all.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.flood import leave_session
from bench.stage import BenchFailed, Broker, launch, python, say, settings, wait_for
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from shared.clock import iso, parse_instant_us
from shared.messages import READING_COLUMNS, Uplink, columns_of
from shared.topics import SiteTopics

ROOT_TOPIC: Final = "metercast"
WINDOW: Final = 16  # as `uplink.window` is by default
EPOCH: Final = "0123456789abcdef"
CLIENT_ID: Final = "metercast-central"
START_US: Final = parse_instant_us("2026-01-05T00:00:00Z")
PATIENCE_S: Final = 120.0


def run(*, readings: int = 1_000_000, sites: int = 16, batch: int = 1000, runs: int = 3) -> list[Figure]:
    """Record as many readings `runs` times, each into tables of its own."""
    batches = max(readings // (batch * sites), 1)
    fleet = {f"site-{number:03d}": _batches(f"site-{number:03d}", batches, batch) for number in range(sites)}
    recorded = sites * batches * batch
    seconds = []
    for number in range(1, runs + 1):
        seconds.append(_recorded_within(fleet))
        say(f"record {number}/{runs}: {recorded / seconds[-1]:,.0f} readings/s")
    value = round(recorded / statistics.median(seconds), 1)
    conditions = {
        "readings": recorded,
        "sites": sites,
        "readings_per_batch": batch,
        "window": WINDOW,
        "batch_bytes": len(_uplink("site-000", 1, batch)),
    }
    return [Figure("record_readings_per_s", value, "readings/s", runs, conditions=conditions)]


def _batches(site: str, batches: int, readings: int) -> list[bytes]:
    """A site's uplink, from number 1 on, as packets."""
    topic = SiteTopics(ROOT_TOPIC, site).uplink
    return [publish_packet(topic, _uplink(site, seq, readings), mid=seq % 65_535 + 1) for seq in range(1, batches + 1)]


def _uplink(site: str, seq: int, readings: int) -> bytes:
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
    return Uplink(site=site, epoch=EPOCH, seq=seq, at=iso(ts_us), kinds=kinds).compress()


def _recorded_within(fleet: Mapping[str, list[bytes]]) -> float:
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
        leave_session(broker, CLIENT_ID, f"{ROOT_TOPIC}/+/uplink")
        chosen: dict[str, object] = {
            "clock": "event",
            "mqtt.host": "127.0.0.1",
            "mqtt.port": broker.port,
            "central.work_dir": Path(name) / "central",
            "central.mlflow_uri": f"sqlite:///{name}/mlflow.sqlite",  # named, so none is prepared meanwhile
            "central.metrics_port": 0,
        }
        with Wire(broker.port, "bench-fleet") as wire:
            wire.subscribe(f"{ROOT_TOPIC}/+/uplink/acked")
            wire.send(b"".join(packet for packets in fleet.values() for packet in packets[:WINDOW]))
            child = launch("central", python("central", "run", *settings(chosen)), Path(name) / "log")
            try:
                wait_for(lambda: CLIENT_ID in broker.came_s, "central to connect", 120, of=child)
                return _all_acked_s(wire, fleet) - broker.came_s[CLIENT_ID]
            finally:
                child.stop()


def _all_acked_s(wire: Wire, fleet: Mapping[str, list[bytes]]) -> float:
    """Send on as central acknowledges; returns when it has acknowledged the last batch of every site."""
    acked = dict.fromkeys(fleet, 0)
    left = sum(map(len, fleet.values()))
    try:
        for kind, body in wire.packets(PATIENCE_S):
            if kind != PUBLISH:
                continue
            topic, payload = topic_and_payload(body)
            site, seq = topic.split("/")[1], json.loads(payload)["seq"]
            wire.send(b"".join(fleet[site][acked[site] + WINDOW : seq + WINDOW]))
            left -= seq - acked[site]
            acked[site] = seq
            if not left:
                break
    except TimeoutError as error:
        raise BenchFailed(f"record: {left} batches were not acknowledged after {PATIENCE_S:g} s") from error
    return time.monotonic()
