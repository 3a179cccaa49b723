"""Covariates through the whole of it: published to a real broker, taken by the edge though it is killed, recorded."""

from __future__ import annotations

import json
from pathlib import Path

from central.record import Record
from shared.clock import iso
from tests.integration.plant import SITE, START_US, Watcher, edge_at, origin, reading
from tests.mosquitto import Broker
from tests.processes import CentralProcess
from tests.waiting import wait_for


def _publish(watcher: Watcher, name: str, content: bytes) -> None:
    watcher.publish(f"{SITE}/covariates/{name}", content, retain=True)


def test_what_is_published_ahead_is_in_the_record_though_the_edge_is_killed(broker: Broker, tmp_path: Path) -> None:
    said = {"start": iso(START_US), "step": "1h", "values": [20.5, None, -3.0], "unit": "°C"}
    edge, hub = edge_at(broker.port, tmp_path / "edge"), CentralProcess(tmp_path / "central", broker.port)
    watcher = Watcher(broker.port)
    hub.spawn()
    try:
        before = json.dumps(said | {"issued_at": iso(START_US)}).encode()
        _publish(watcher, "before", before)  # retained: nobody is here
        edge.start()
        watcher.send("m1", reading(0, 1.0))
        for hour in (1, 2):
            _publish(watcher, "temperature", json.dumps(said | {"issued_at": origin(hour)}).encode())
        _publish(watcher, "temperature", b"not json")
        watcher.wait("deadletter", lambda seen: "covariates/temperature" in seen[-1]["topic"], "the dead letter")
        edge.kill()
        edge.start()
        watcher.send("m1", reading(1, 1.0))
        record = Record(str(hub.folder / "record"))
        wait_for(lambda: record.covariates(site=SITE).num_rows >= 3, "all to be recorded", hub.log, every_s=0.1)
    finally:
        edge.kill()
        hub.stop()
        watcher.stop()
    rows = record.covariates(site=SITE)
    held = [(row["name"], iso(row["issued_us"]), row["values"], row["unit"]) for row in rows.to_pylist()]
    assert held == [
        ("before", origin(0), [20.5, None, -3.0], "°C"),
        ("temperature", origin(1), [20.5, None, -3.0], "°C"),
        ("temperature", origin(2), [20.5, None, -3.0], "°C"),
    ]
