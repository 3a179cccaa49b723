"""Invariants 1 and 2 through the whole of it: meters, broker, edge, central, all real, both sides killed on the way."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq

from central.record import Record
from shared.clock import iso
from tests.integration.plant import SITE, Watcher, edge_at, origin, reading
from tests.mosquitto import Broker
from tests.processes import CentralProcess
from tests.waiting import wait_for

METERS = ("m1", "m2", "m3")
HOURS = 90


def test_invariant_1_every_reading_is_in_the_record_once_or_a_dead_letter_though_both_sides_are_killed(
    broker: Broker, tmp_path: Path
) -> None:
    chance = random.Random(7)
    edge, central = edge_at(broker.port, tmp_path / "edge"), CentralProcess(tmp_path / "central", broker.port)
    meters = Watcher(broker.port)
    central.spawn()
    edge.start()
    try:
        for hour in range(HOURS):
            of_hour = [(meter, reading(hour, hour + 0.5)) for meter in METERS]
            of_hour += [one for one in of_hour if chance.random() < 0.1]  # a meter that repeats itself
            if hour % 10 == 9:
                of_hour.append(("m1", reading(hour, 1.0, unit="furlong")))
            meters.send_all(of_hour)
            if hour in (30, 60):
                edge.kill()
                edge.start()
            if hour in (20, 50):
                kill_at_work(central, broker)
                central.spawn()
        meters.wait("forecasts/m3", lambda seen: seen[-1]["origin"] == origin(HOURS), "the last forecast")
        wait_for(lambda: is_recorded(central), "all to be recorded", central.log, every_s=0.2)
        readings, letters = tmp_path / "readings.parquet", tmp_path / "letters.parquet"
        central.export("--readings", str(readings), "--dead-letters", str(letters))
    finally:
        edge.kill()
        central.kill()
        meters.stop()
    table = pq.read_table(readings)
    rows = [(row["site"], row["meter_id"], row["ts"].timestamp(), row["value"]) for row in table.to_pylist()]
    sent = [(SITE, meter, origin(hour), hour + 0.5) for meter in METERS for hour in range(HOURS)]
    assert sorted((s, m, iso(round(ts * 1e6)), value) for s, m, ts, value in rows) == sorted(sent)
    refused = pq.read_table(letters).to_pylist()
    assert len(refused) == HOURS // 10
    assert all("furlong" in letter["reason"] for letter in refused)


def kill_at_work(central: CentralProcess, broker: Broker) -> None:
    """Kill central, once it has begun to take what waits."""
    mine = ("metercast-central", "metercast/+/uplink")
    wait_for(lambda: broker.subscriptions(*mine) >= central.starts, "central to work", central.log)
    central.kill()


def is_recorded(central: CentralProcess) -> bool:
    """Whether the record has as many readings and dead letters as there should be."""
    record = Record(str(central.folder / "record"))
    readings, letters = len(METERS) * HOURS, HOURS // 10
    return bool(record.readings().num_rows >= readings and record.dead_letters().num_rows >= letters)
