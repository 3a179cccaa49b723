"""`central run` from a bare record to a model at an edge: readings in, a training, chunks and manifest on the wire."""

from __future__ import annotations

import json
import signal
import subprocess
import time
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
from tests.conftest import Broker
from tests.integration.test_central_record import ROOT, START_US, Central, environment
from tests.small_model import KEY

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
        filters = [TOPICS.desired, "metercast/artifacts/+/+"]
        self.connection = Connection(
            MqttParams(host=broker.host, port=broker.port), client_id="witness", filters=filters
        )
        self.connection.start()
        self.chunks: dict[tuple[str, int], bytes] = {}

    def await_desired(self, within_s: float) -> Manifest:
        """The champion that is desired first."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            for message in self.connection.receive(100, timeout_s=0.5):
                self.connection.acknowledge([message])
                chunk = parse_artifact_chunk("metercast", message.topic)
                if chunk is not None:
                    self.chunks[chunk] = message.payload
                    continue
                champion = Desired.decode(message.payload, message.topic).champion
                assert champion is not None
                return champion
        pytest.fail(f"no model desired within {within_s} s")


def unsigned(manifest: Manifest) -> Manifest:
    """What stays the same however often it is signed."""
    return manifest.model_copy(update={"signatures": [], "expires": ""})


@pytest.fixture
def witness(broker: Broker) -> Iterator[Witness]:
    made = Witness(broker)
    yield made
    made.connection.stop()


def journal(central: Central) -> list[dict[str, Any]]:
    lines = (central.folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def await_event(central: Central, event: str, within_s: float = 20) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found = [line for line in journal(central) if line["event"] == event]
        if found:
            return found[-1]
        time.sleep(0.2)
    pytest.fail(f"no {event!r} in the journal within {within_s} s")


@pytest.mark.timeout(240)  # a training on a busy machine
def test_a_month_of_readings_becomes_a_model_on_the_wire(broker: Broker, witness: Witness, tmp_path: Path) -> None:
    folder = tmp_path / "central"
    folder.mkdir()
    central = Central(broker, folder)
    central.settings[-1] = "training.trees=15"  # instead of a tracking server: SQLite in the work folder
    central.settings.append("training.rows=4000")
    key = tmp_path / "private.pem"
    key.touch(mode=0o600)
    key.write_bytes(KEY.pem())
    central.settings.append(f"keys.private={key}")
    central.start()
    try:
        broker.wait_subscribed("metercast-central", "metercast/+/uplink")
        for batch in month():
            witness.connection.publish(TOPICS.uplink, batch.compress())
        manifest = witness.await_desired(within_s=100)
        verify(manifest, trusted_by_id([KEY.trusted]))
        assert manifest.sites == ["home"]
        artifact = [witness.chunks[manifest.sha256, number] for number in range(manifest.chunks)]
        assert len(unpack(manifest, artifact)) == manifest.size
        started, ended, pushed = (await_event(central, e) for e in ("training started", "training ended", "pushed"))
        assert (started["reason"], ended["outcome"], pushed["version"]) == ("first", "accepted", manifest.version)
        assert manifest.record_version == ended["record_version"]
        running = Running(name=manifest.name, version=manifest.version, sha256=manifest.sha256, since=ended["at"])
        witness.connection.publish(TOPICS.reported, Reported(champion=running).encode(), retain=True)
        assert await_event(central, "swapped")["site"] == "home"
        central.end(signal.SIGKILL)
        central.start()  # and says everything again from its state
        again = witness.await_desired(within_s=40)
        assert unsigned(again) == unsigned(manifest)
        broker.kill()
        for kept in broker.folder.glob("*.db"):
            kept.unlink()
        witness.connection.receive(1000, timeout_s=0.5)  # what was still on its way from before
        witness.chunks.clear()
        broker.start()  # with nothing retained any more, as after a power cut
        assert unsigned(witness.await_desired(within_s=40)) == unsigned(manifest)
        assert len(witness.chunks) == manifest.chunks
        subprocess.run(central.command("models", "stop"), cwd=ROOT, check=True, timeout=60, env=environment())
        assert await_event(central, "stepped back")["reason"] == "a person stopped it"
    finally:
        assert central.end() == 0
