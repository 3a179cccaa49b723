"""`central run` as a process, a real broker, hand-made uplink batches: what is published is in the record, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from central.record import Record
from shared.clock import HOUR_US, iso, parse_instant_us
from shared.messages import Acked, Restore, Status, Uplink
from shared.mqtt import Connection
from shared.params import MqttParams
from tests.mosquitto import Broker
from tests.processes import CentralProcess
from tests.waiting import wait_for

START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z


def batch(seq: int, *, rows: int = 48, site: str = "london", epoch: str = "e1") -> Uplink:
    """A batch of half-hourly energy of two meters; each seq has its own instants."""
    instants = [START_US + ((seq - 1) * rows // 2 + row // 2) * HOUR_US // 2 for row in range(rows)]
    readings: dict[str, list[Any]] = {
        "meter_id": [f"m{row % 2}" for row in range(rows)],
        "ts_us": instants,
        "value": [row / 10 for row in range(rows)],
        "unit": ["kWh"] * rows,
        "kind": ["energy"] * rows,
        "period_s": [1800] * rows,
        "quality": [""] * rows,
        "received_us": instants,
    }
    letter = {"id": [f"letter-{seq}"], "topic": ["t"], "payload": ["{"], "payload_b64": [None],
              "reason": ["not JSON"], "received_us": [instants[-1]], "count": [1]}  # fmt: skip
    return Uplink(
        site=site, epoch=epoch, seq=seq, at=iso(instants[-1]), kinds={"readings": readings, "dead_letters": letter}
    )


class Edge:
    """A stand-in for an edge's uplink: publishes what it is told and keeps the latest answer."""

    def __init__(self, broker: Broker, site: str = "london") -> None:
        self.site = site
        self.acked: Acked | None = None
        self.connection = Connection(
            MqttParams(host=broker.host, port=broker.port),
            client_id=f"test-{site}",
            filters=[f"metercast/{site}/uplink/acked", f"metercast/{site}/restore"],
        )
        self.heard: list[Acked] = []
        self.restored: list[Restore] = []
        self.connection.start()

    def send(self, payload: bytes) -> None:
        self.connection.publish(f"metercast/{self.site}/uplink", payload)

    def be(self, instance: str, epoch: str, *, state: str = "online", reasons: Sequence[str] = ()) -> None:
        """Tell of a process of this site's edge."""
        said = {"state": state, "instance": instance, "epoch": epoch, "version": "1", "started_at": iso(START_US)}
        status = Status.model_validate(said | {"reasons": list(reasons)})
        self.connection.publish(f"metercast/{self.site}/status", status.encode(), retain=True)

    def hear(self) -> None:
        for message in self.connection.receive(100, timeout_s=0.2):
            if message.topic.endswith("/restore"):
                self.restored.append(Restore.decompress(message.payload, message.topic))
            else:
                self.acked = Acked.decode(message.payload, message.topic)
                self.heard.append(self.acked)
            self.connection.acknowledge([message])

    def wait_restored(self) -> Restore:
        """The next part of a restore."""

        def came() -> bool:
            self.hear()
            return bool(self.restored)

        wait_for(came, f"{self.site} to be restored", every_s=0)
        return self.restored.pop(0)

    def wait_acked(self, accept: Callable[[Acked], bool]) -> Acked:
        """An answer that is accepted: the latest, once there is one."""

        def came() -> bool:
            self.hear()
            return self.acked is not None and accept(self.acked)

        wait_for(came, f"{self.site} to be acked", every_s=0)
        assert self.acked is not None
        return self.acked


@pytest.fixture
def central(broker: Broker, tmp_path: Path) -> Iterator[CentralProcess]:
    running = CentralProcess(tmp_path / "central", broker.port)
    running.spawn()
    try:
        broker.wait_subscribed("metercast-central", "metercast/+/uplink")
        yield running
    finally:
        running.kill()


@pytest.fixture
def edge(broker: Broker) -> Iterator[Edge]:
    made = Edge(broker)
    yield made
    made.connection.stop()


def test_batches_are_recorded_once_and_acked_whatever_comes_between(central: CentralProcess, edge: Edge) -> None:
    begun_s = time.time()
    for payload in (b"\x00garbage", b"", batch(1, site="paris").compress(), b"\x1f\x8b\x08\x00"):
        edge.send(payload)
    for seq in (1, 2, 4, 2, 3, 4, 5):
        edge.send(batch(seq).compress())
    answer = edge.wait_acked(lambda acked: acked.seq == 5)
    assert (answer.epoch, answer.missing) == ("e1", [])
    told_s = parse_instant_us(answer.at) / 1e6
    assert begun_s - 1 <= told_s <= time.time() + 1, "under the event clock too: it orders answers"
    out = central.folder / "out"
    central.export("--readings", str(out / "r.parquet"), "--dead-letters", str(out / "d.csv"))
    rows = pq.read_table(out / "r.parquet")
    sent = {(meter, ts) for seq in range(1, 6) for meter, ts in identities(batch(seq))}
    assert rows.num_rows == len(sent)
    assert set(zip(rows["meter_id"].to_pylist(), rows["ts"].cast(pa.int64()).to_pylist(), strict=True)) == sent
    assert len((out / "d.csv").read_text().splitlines()) == 1 + 5


def test_a_killed_central_goes_on_where_the_record_stands(central: CentralProcess, edge: Edge) -> None:
    edge.send(batch(1).compress())
    edge.wait_acked(lambda acked: acked.seq == 1)
    central.kill()
    for seq in (2, 1, 3):  # the broker keeps them for us
        edge.send(batch(seq).compress())
    central.spawn()
    edge.wait_acked(lambda acked: acked.seq == 3)
    assert Record(str(central.folder / "record")).readings().num_rows == sum(
        len(identities(batch(s))) for s in (1, 2, 3)
    )


def test_the_record_is_exported_while_it_is_written(central: CentralProcess, edge: Edge) -> None:
    for seq in range(1, 9):
        edge.send(batch(seq).compress())
    edge.wait_acked(lambda acked: acked.seq >= 4)
    for seq in range(9, 17):
        edge.send(batch(seq).compress())
    central.export("--readings", str(central.folder / "r.parquet"), "--site", "london")
    rows = pq.read_table(central.folder / "r.parquet").num_rows
    assert rows % 48 == 0
    assert rows >= 4 * 48
    edge.wait_acked(lambda acked: acked.seq == 16)


def test_central_ends_cleanly_when_asked(central: CentralProcess, edge: Edge) -> None:
    edge.send(batch(1).compress())
    edge.wait_acked(lambda acked: acked.seq == 1)
    assert central.stop() == 0


def test_a_second_central_on_the_same_folder_is_refused_in_a_sentence(central: CentralProcess, edge: Edge) -> None:
    edge.send(batch(1).compress())
    edge.wait_acked(lambda acked: acked.seq == 1)
    second = central.told("run")
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("central: central.work_dir")


def identities(uplink: Uplink) -> list[tuple[str, int]]:
    readings = uplink.kinds["readings"]
    return list(zip(readings["meter_id"], readings["ts_us"], strict=True))


def test_the_identities_of_a_batch_are_distinct() -> None:
    assert len(set(identities(batch(3)))) == 48
    assert json.loads(batch(3).encode())["schema"] == 1
