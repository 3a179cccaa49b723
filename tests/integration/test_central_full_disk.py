"""`central run` on a disk that takes nothing any more: it stays up, acknowledges nothing new, and goes on by itself.

The disk is full for this one process: the kernel lets none of its files grow (RLIMIT_FSIZE).
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from central.work import WorkFolder
from shared.clock import iso
from shared.messages import Reported, Running
from tests.integration.uplinks import START_US, Edge
from tests.mosquitto import Broker
from tests.ports import free_port
from tests.processes import NO_TRACKING_SERVER, ROOT, CentralProcess, environment
from tests.waiting import PATIENCE_S, wait_for

STALLED = re.compile(r'metercast_central_stalled\{errand="(.+)"\} 1')
SITE = "london"


@dataclass
class Starved(CentralProcess):
    """A central whose log is a pipe, so that it can still speak when its disk is full."""

    metrics_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.settings = (NO_TRACKING_SERVER, f"central.metrics_port={self.metrics_port}")
        self.work = WorkFolder(self.folder)

    def spawn(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            self.words("run"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
        )

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        assert self.process is not None
        before = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            if self.process.poll() is None:
                resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, before)

    def stalled(self) -> set[str]:
        """The errands that cannot be done, as its metrics tell."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE_S) as answer:
            return set(STALLED.findall(answer.read().decode()))

    def site(self) -> dict[str, Any] | None:
        """What its state on disk knows of the site."""
        if not self.work.rollout.exists():
            return None
        kept: dict[str, Any] | None = json.loads(self.work.rollout.read_text())["sites"].get(SITE)
        return kept

    def knows_report(self) -> bool:
        return (self.site() or {}).get("reported") is not None

    def events(self) -> list[str]:
        if not self.work.journal.exists():
            return []
        return [json.loads(line)["event"] for line in self.work.journal.read_text().splitlines()]

    def said(self) -> str:
        """All it said, once it has ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()


@pytest.fixture
def central(broker: Broker, tmp_path: Path) -> Iterator[Starved]:
    made = Starved(tmp_path / "central", broker.port)
    made.spawn()
    broker.wait_subscribed("metercast-central", "metercast/+/uplink")
    yield made
    made.kill()


@pytest.fixture
def edge(broker: Broker) -> Iterator[Edge]:
    made = Edge(broker, SITE)
    yield made
    made.connection.stop()


def report(edge: Edge) -> None:
    running = Running(name="m", version=4, sha256="4" * 64, since=iso(START_US))
    edge.connection.publish(f"metercast/{SITE}/models/reported", Reported(champion=running).encode(), retain=True)


def test_a_full_disk_stops_the_record_and_the_rollout_and_ends_neither(central: Starved, edge: Edge) -> None:
    assert central.process is not None
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    wait_for(lambda: central.site() is not None, "the site to be known")
    with central.disk_full():
        report(edge)
        wait_for(lambda: "rollout" in central.stalled(), "the rollout to stall")
        assert central.told("models", "pause").returncode == 0
        edge.send_batches(2, 3)
        wait_for(lambda: "record" in central.stalled(), "the record to stall")
        time.sleep(3)  # several tries
        edge.hear()
        assert edge.acked is not None
        assert edge.acked.seq == 1
        assert central.process.poll() is None
        assert not central.knows_report()
        assert "order followed" not in central.events()
    edge.wait_acked(lambda acked: acked.seq == 3)
    wait_for(central.knows_report, "the report that was missed")
    wait_for(lambda: "order followed" in central.events(), "the order that was left")
    assert "swapped" in central.events()
    wait_for(lambda: not central.stalled(), "the end of all stalls")
    assert central.stop() == 0
    assert central.said().count("errand=record") == 2, "said when it began and when it was over"


def test_a_central_that_is_killed_on_a_full_disk_has_lost_nothing(central: Starved, edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    with central.disk_full():
        report(edge)
        edge.send_batches(2)
        wait_for(lambda: "record" in central.stalled(), "the record to stall")
        central.kill()
    central.spawn()
    edge.wait_acked(lambda acked: acked.seq == 2)
    wait_for(central.knows_report, "the report")
    assert central.stop() == 0
