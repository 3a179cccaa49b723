"""`central run` from a bare record to a model at an edge: readings in, a training, chunks and manifest on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.clock import HOUR_US, iso
from shared.manifest import Manifest, unpack
from shared.messages import Desired, Reported, Running, Uplink
from shared.mqtt import Connection
from shared.params import MqttParams
from shared.signing import trusted_by_id, verify
from shared.topics import SiteTopics, parse_artifact_chunk
from tests.integration.uplinks import START_US
from tests.mosquitto import Broker
from tests.processes import CentralProcess
from tests.small_model import KEY
from tests.waiting import found

TOPICS = SiteTopics("metercast", "home")


def month() -> list[Uplink]:
    """Thirty days of hourly power of three meters, a day in each batch."""
    rng = np.random.default_rng(4)
    batches = []
    for day in range(30):
        hours = [day * 24 + hour for hour in range(24) for _ in range(3)]
        rows = len(hours)
        shape = 1 + 0.5 * np.sin(2 * np.pi * np.array(hours) / 24) + 0.3 * (day % 7 >= 5)
        readings: dict[str, list[Any]] = {
            "meter_id": ["a", "b", "c"] * 24,
            "ts_us": [START_US + hour * HOUR_US for hour in hours],
            "value": (shape + rng.normal(0, 0.1, rows)).round(3).tolist(),
            "unit": ["kW"] * rows,
            "kind": ["power"] * rows,
            "period_s": [None] * rows,
            "quality": [""] * rows,
            "received_us": [START_US + hour * HOUR_US for hour in hours],
        }
        at = iso(START_US + (day + 1) * 24 * HOUR_US)
        batches.append(Uplink(site="home", epoch="e", seq=day + 1, at=at, kinds={"readings": readings}))
    return batches


class Witness:
    """An edge's side of the model topics."""

    def __init__(self, broker: Broker) -> None:
        params = MqttParams(host=broker.host, port=broker.port)
        filters = [TOPICS.desired, "metercast/artifacts/+/+"]
        self.connection = Connection(params, client_id="witness", filters=filters)
        self.connection.start()
        self.forget()

    def forget(self) -> None:
        """Count for nothing what has come so far."""
        while messages := self.connection.receive(1000, timeout_s=0.5):
            self.connection.acknowledge(messages)
        self.chunks: dict[tuple[str, int], bytes] = {}
        self.desired: Manifest | None = None

    def await_model(self, central: CentralProcess) -> tuple[Manifest, list[bytes]]:
        """The champion that is desired, and its chunks: a broker brings what it has retained in any order."""
        return found(self._model, "a model with its chunks", central.log)

    def _model(self) -> tuple[Manifest, list[bytes]] | None:
        messages = self.connection.receive(100, timeout_s=0.5)
        self.connection.acknowledge(messages)
        for message in messages:
            chunk = parse_artifact_chunk("metercast", message.topic)
            if chunk is not None:
                self.chunks[chunk] = message.payload
            else:
                self.desired = Desired.decode(message.payload, message.topic).champion
        if self.desired is None:
            return None
        wanted = [(self.desired.sha256, number) for number in range(self.desired.chunks)]
        return (self.desired, [self.chunks[key] for key in wanted]) if self.chunks.keys() >= set(wanted) else None


def unsigned(manifest: Manifest) -> Manifest:
    """What stays the same however often it is signed."""
    return manifest.model_copy(update={"signatures": [], "expires": ""})


@pytest.fixture
def witness(broker: Broker) -> Iterator[Witness]:
    made = Witness(broker)
    yield made
    made.connection.stop()


def await_event(central: CentralProcess, event: str) -> dict[str, Any]:
    """The latest of its kind in central's journal, once there is one."""

    def noted() -> dict[str, Any] | None:
        journal = central.folder / "events.jsonl"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return next((line for line in map(json.loads, reversed(lines)) if line["event"] == event), None)

    return found(noted, f"{event!r} in the journal", central.log)


def test_a_month_of_readings_becomes_a_model_on_the_wire(broker: Broker, witness: Witness, tmp_path: Path) -> None:
    key = tmp_path / "private.pem"
    key.touch(mode=0o600)
    key.write_bytes(KEY.pem())
    settings = ("training.trees=15", "training.rows=4000", f"keys.private={key}")  # MLflow: SQLite in the work folder
    central = CentralProcess(tmp_path / "central", broker.port, settings)
    central.spawn()
    try:
        broker.wait_subscribed("metercast-central", "metercast/+/uplink")
        for batch in month():
            witness.connection.publish(TOPICS.uplink, batch.compress())
        manifest, chunks = witness.await_model(central)
        verify(manifest, trusted_by_id([KEY.trusted]))
        assert manifest.sites == ["home"]
        assert len(unpack(manifest, chunks)) == manifest.size
        started, ended, pushed = (await_event(central, e) for e in ("training started", "training ended", "pushed"))
        assert (started["reason"], ended["outcome"], pushed["version"]) == ("first", "accepted", manifest.version)
        assert manifest.record_version == ended["record_version"]
        running = Running(name=manifest.name, version=manifest.version, sha256=manifest.sha256, since=ended["at"])
        witness.connection.publish(TOPICS.reported, Reported(champion=running).encode(), retain=True)
        assert await_event(central, "swapped")["site"] == "home"
        central.kill()
        witness.forget()
        central.spawn()  # and says everything again from its state
        again, _ = witness.await_model(central)
        assert unsigned(again) == unsigned(manifest)
        broker.kill()
        for kept in broker.folder.glob("*.db"):
            kept.unlink()
        witness.forget()
        broker.start()  # with nothing retained any more, as after a power cut
        again, chunks_again = witness.await_model(central)
        assert unsigned(again) == unsigned(manifest)
        assert chunks_again == chunks
        stopped = central.told("models", "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert await_event(central, "stepped back")["reason"] == "a person stopped it"
        assert central.stop() == 0
    finally:
        central.kill()
