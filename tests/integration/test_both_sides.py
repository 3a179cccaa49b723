"""Invariants 1 and 2 through the whole of it: meters, broker, edge, central, all real, both sides killed on the way."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shared.clock import iso
from tests.conftest import Broker
from tests.integration.edge_process import SITE, EdgeProcess, Watcher, origin, reading
from tests.integration.test_central_record import Central

METERS = ("m1", "m2", "m3")
HOURS = 90


@pytest.mark.timeout(240)  # seven process starts on a busy machine
def test_invariant_1_every_reading_is_in_the_record_once_or_a_dead_letter_though_both_sides_are_killed(
    broker: Broker, tmp_path: Path
) -> None:
    chance = random.Random(7)
    folder = tmp_path / "central"
    folder.mkdir()
    edge, central, meters = EdgeProcess(tmp_path / "edge", broker.port), Central(broker, folder), Watcher(broker.port)
    central.start()
    edge.start()
    try:
        for hour in range(HOURS):
            for meter in METERS:
                meters.send(meter, reading(hour, hour + 0.5))
                if chance.random() < 0.1:
                    meters.send(meter, reading(hour, hour + 0.5))  # a meter that repeats itself
            if hour % 10 == 9:
                meters.send("m1", reading(hour, 1.0, unit="furlong"))
            if hour in (30, 60):
                edge.kill()
                edge.start()
            if hour in (20, 50):
                central.end(signal.SIGKILL)
                central.start()
        meters.wait("forecasts/m3", lambda seen: seen[-1]["origin"] == origin(HOURS), "the last forecast")
        meters.wait(
            "status", lambda seen: seen[-1]["outbox"] == 0 and seen[-1]["watermark"] == origin(HOURS - 1), "acks"
        )
        readings, letters = tmp_path / "readings.parquet", tmp_path / "letters.parquet"
        central.export("--readings", str(readings), "--dead-letters", str(letters))
    finally:
        edge.kill()
        central.end()
        meters.connection.stop()
    table = pq.read_table(readings)
    rows = [(row["site"], row["meter_id"], row["ts"].timestamp(), row["value"]) for row in table.to_pylist()]
    sent = [(SITE, meter, origin(hour), hour + 0.5) for meter in METERS for hour in range(HOURS)]
    assert sorted((s, m, iso(round(ts * 1e6)), value) for s, m, ts, value in rows) == sorted(sent)
    refused = pq.read_table(letters).to_pylist()
    assert len(refused) == HOURS // 10
    assert all("furlong" in letter["reason"] for letter in refused)
