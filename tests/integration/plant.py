"""The site `plant`: its edge as a real process at a real broker, and a client that publishes to it and watches it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from shared.clock import HOUR_US, iso, parse_instant_us
from shared.manifest import Manifest
from shared.messages import Desired
from shared.mqtt import Connection
from shared.params import MqttParams
from tests.processes import EdgeProcess
from tests.small_model import TRUSTED
from tests.waiting import PATIENCE_S, all_pass, wait_for

START_US = parse_instant_us("2026-01-05T00:00:00Z")
SITE = "plant"
_NUMBERS = count()


def edge_at(port: int, folder: Path, *settings: str) -> EdgeProcess:
    """An edge of the site at the broker of a port, with a state folder of its own; it does not run yet."""
    ours = (f"site={SITE}", "clock=event", "mqtt.host=127.0.0.1", f"mqtt.port={port}", TRUSTED)
    return EdgeProcess(folder, (*ours, *settings))


@contextmanager
def running_edge(port: int, folder: Path, *settings: str) -> Iterator[EdgeProcess]:
    """The same, running; at the end it is killed."""
    edge = edge_at(port, folder, *settings)
    try:
        edge.start()
        yield edge
    finally:
        edge.kill()


@dataclass
class Watcher:
    """Publishes as meters and central do and keeps everything the site's topics say."""

    port: int
    client_id: str = field(default_factory=lambda: f"watcher-{next(_NUMBERS)}")
    _raw: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    _said: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        params = MqttParams(host="127.0.0.1", port=self.port)
        filters = [f"metercast/{SITE}/#"]
        self.connection = Connection(params, client_id=self.client_id, filters=filters, keep_bytes=1_000_000)
        self.connection.start(PATIENCE_S)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 below `metercast/` and wait until the broker has it."""
        delivery = self.connection.publish(f"metercast/{topic}", payload, retain=retain)
        wait_for(lambda: delivery.done, f"the broker to take a message on {topic}", every_s=0.001)

    def send(self, meter: str, content: Any) -> None:
        """Publish a reading (JSON content or bytes)."""
        self.publish(
            f"{SITE}/readings/{meter}", content if isinstance(content, bytes) else json.dumps(content).encode()
        )

    def send_all(self, readings: Iterable[tuple[str, Any]]) -> None:
        """Publish (meter, reading) pairs in their order, then wait until the broker has them all."""
        deliveries = [
            self.connection.publish(f"metercast/{SITE}/readings/{meter}", json.dumps(content).encode())
            for meter, content in readings
        ]
        wait_for(all_pass(deliveries, lambda delivery: delivery.done), "the broker to take readings")

    def publish_chunks(self, sha256: str, chunks: list[bytes]) -> None:
        """Retain an artifact's chunks."""
        for number, chunk in enumerate(chunks):
            self.connection.publish(f"metercast/artifacts/{sha256}/{number}", chunk, retain=True)

    def desire(self, champion: Manifest, challenger: Manifest | None = None) -> None:
        """Retain what the site should run."""
        desired = Desired(champion=champion, challenger=challenger).encode()
        self.connection.publish(f"metercast/{SITE}/models/desired", desired, retain=True)

    def offer(self, champion: Manifest, chunks: list[bytes], challenger: Manifest | None = None) -> None:
        """Retain a champion's chunks, and that the site should run it."""
        self.publish_chunks(champion.sha256, chunks)
        self.desire(champion, challenger)

    def of_topic(self, topic: str) -> list[dict[str, Any]]:
        """What a topic below the site's said so far."""
        for message in self.connection.receive(100_000, 0.0):
            self.connection.acknowledge([message])
            self._raw[message.topic].append(message.payload)
        said = self._said[topic]
        said += [json.loads(body) for body in self._raw.pop(f"metercast/{SITE}/{topic}", []) if body]
        return said

    def wait(self, topic: str, enough: Callable[[list[dict[str, Any]]], bool], what: str) -> list[dict[str, Any]]:
        """Wait until a topic has said something, and enough."""

        def said_enough() -> bool:
            seen = self.of_topic(topic)
            return bool(seen) and enough(seen)

        wait_for(said_enough, what, every_s=0.005)
        return self.of_topic(topic)

    def stop(self) -> None:
        """Disconnect; the broker keeps the session."""
        self.connection.stop()

    def leave(self) -> None:
        """Disconnect, and take the session along."""
        self.stop()
        params = MqttParams(host="127.0.0.1", port=self.port)
        passing = Connection(params, client_id=self.client_id, lasting=False)
        passing.start(PATIENCE_S)
        passing.stop()


def reading(hour: int, value: float, **more: Any) -> dict[str, Any]:
    """Hourly energy, `hour` hours after the start."""
    ts = iso(START_US + hour * HOUR_US)
    return {"ts": ts, "value": value, "unit": "kWh", "kind": "energy", "period_s": 3600, **more}


def origin(hour: int) -> str:
    """The origin `hour` hours after the start."""
    return iso(START_US + hour * HOUR_US)
