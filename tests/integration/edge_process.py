"""An edge as a real process against a real broker, and a client that publishes to it and watches it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shared.clock import HOUR_US, iso, parse_instant_us
from shared.mqtt import Connection
from shared.params import MqttParams
from tests.conftest import Broker
from tests.small_model import TRUSTED

ROOT = Path(__file__).parents[2]
START_US = parse_instant_us("2026-01-05T00:00:00Z")
SITE = "plant"


@dataclass
class EdgeProcess:
    """`python -m edge run` with a state folder of its own."""

    folder: Path
    port: int
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        return self.folder / "edge.log"

    def arguments(self, command: str, *more: str) -> list[str]:
        """The command line of one of the edge's commands on this broker and state."""
        chosen = (
            f"site={SITE}",
            "clock=event",
            "mqtt.host=127.0.0.1",
            f"mqtt.port={self.port}",
            f"edge.state_dir={self.folder / 'state'}",
            "edge.metrics_port=0",
            TRUSTED,
            *self.settings,
        )
        pairs = [argument for pair in chosen for argument in ("--set", pair)]
        return [sys.executable, "-m", "edge", command, *pairs, *more]

    def start(self) -> None:
        """Start it and wait until it has its connection."""
        self.folder.mkdir(exist_ok=True)
        told = self.log.read_text().count("edge runs") if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.arguments("run"), cwd=ROOT, stdout=log, stderr=log)
        wait_for(lambda: self.log.read_text().count("edge runs") > told, "the edge to run", self.log)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def resident_mb(self) -> float:
        """Its resident memory."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass
class Watcher:
    """Publishes as meters do and keeps everything the site's topics say."""

    port: int
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        params = MqttParams(host="127.0.0.1", port=self.port)
        self.connection = Connection(
            params, client_id=f"watcher-{time.time_ns()}", filters=[f"metercast/{SITE}/#"], keep_bytes=1_000_000
        )
        self.connection.start()

    def send(self, meter: str, content: Any) -> None:
        """Publish a reading (JSON content or bytes) at QoS 1 and wait for the broker."""
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        delivery = self.connection.publish(f"metercast/{SITE}/readings/{meter}", payload)
        wait_for(lambda: delivery.done, f"the broker to take a reading of {meter}")

    def of_topic(self, topic: str) -> list[dict[str, Any]]:
        """What a topic below the site's said so far."""
        for message in self.connection.receive(100_000, 0.0):
            self.connection.acknowledge([message])
            self.seen.append((message.topic, message.payload))
        return [json.loads(body) for name, body in self.seen if name == f"metercast/{SITE}/{topic}" and body]

    def wait(self, topic: str, enough: Callable[[list[dict[str, Any]]], bool], what: str) -> list[dict[str, Any]]:
        """Wait until a topic has said something, and enough."""

        def said_enough() -> bool:
            seen = self.of_topic(topic)
            return bool(seen) and enough(seen)

        wait_for(said_enough, what)
        return self.of_topic(topic)


def wait_for(condition: Callable[[], bool], what: str, log: Path | None = None, within_s: float = 30) -> None:
    """Wait for something; fails the test with what it was and the end of a log."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            tail = log.read_text()[-2000:] if log else ""
            pytest.fail(f"waited {within_s} s for {what}\n{tail}")
        time.sleep(0.005)


def reading(hour: int, value: float, **more: Any) -> dict[str, Any]:
    """Hourly energy, `hour` hours after the start."""
    ts = iso(START_US + hour * HOUR_US)
    return {"ts": ts, "value": value, "unit": "kWh", "kind": "energy", "period_s": 3600, **more}


def origin(hour: int) -> str:
    """The origin `hour` hours after the start."""
    return iso(START_US + hour * HOUR_US)


__all__ = ["Broker", "EdgeProcess", "Watcher", "origin", "reading", "wait_for"]
