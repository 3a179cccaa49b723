"""`central run` on a disk that takes nothing any more: it stays up, acknowledges nothing new, and goes on by itself.

The disk is full for this one process: the kernel lets none of its files grow (RLIMIT_FSIZE).
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from central.work import WorkFolder
from shared.clock import iso
from shared.messages import Reported, Running
from tests.conftest import Broker, free_port
from tests.integration.test_central_record import ROOT, START_US, Central, Edge, batch, environment

STALLED = re.compile(r'metercast_central_stalled\{errand="(.+)"\} 1')


class Starved(Central):
    """A central whose log is a pipe, so that it can still speak when its disk is full."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        super().__init__(broker, folder)
        self.work, self.port = WorkFolder(folder), free_port()
        self.settings += [f"central.metrics_port={self.port}"]

    def start(self) -> None:
        command = self.command("run")
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
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
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return set(STALLED.findall(answer.read().decode()))

    def site(self) -> dict[str, Any] | None:
        """What its state on disk knows of the site."""
        if not self.work.rollout.exists():
            return None
        kept: dict[str, Any] | None = json.loads(self.work.rollout.read_text())["sites"].get("london")
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


def wait_for(accept: Callable[[], bool], what: str, within_s: float = 40) -> None:
    until = time.monotonic() + within_s
    while not accept():
        if time.monotonic() > until:
            pytest.fail(f"no {what} in {within_s} s")
        time.sleep(0.1)


@pytest.fixture
def central(broker: Broker, tmp_path: Path) -> Iterator[Starved]:
    made = Starved(broker, tmp_path / "central")
    made.folder.mkdir()
    made.start()
    broker.wait_subscribed("metercast-central", "metercast/+/uplink")
    yield made
    assert made.process is not None
    if made.process.poll() is None:
        made.process.kill()


@pytest.mark.timeout(180)
def test_a_full_disk_stops_the_record_and_the_rollout_and_ends_neither(broker: Broker, central: Starved) -> None:
    assert central.process is not None
    edge = Edge(broker)
    edge.send(batch(1).compress())
    edge.wait_acked(lambda acked: acked.seq == 1)
    wait_for(lambda: central.site() is not None, "site")
    running = Running(name="m", version=4, sha256="4" * 64, since=iso(START_US))
    with central.disk_full():
        edge.connection.publish("metercast/london/models/reported", Reported(champion=running).encode(), retain=True)
        wait_for(lambda: "rollout" in central.stalled(), "stalled rollout")
        subprocess.run(central.command("models", "pause"), cwd=ROOT, check=True, timeout=60, env=environment())
        for seq in (2, 3):
            edge.send(batch(seq).compress())
        wait_for(lambda: "record" in central.stalled(), "stalled record")
        time.sleep(3)  # several tries
        edge.hear()
        assert edge.acked is not None
        assert edge.acked.seq == 1
        assert central.process.poll() is None
        assert not central.knows_report()
        assert "order followed" not in central.events()
    edge.wait_acked(lambda acked: acked.seq == 3)
    wait_for(central.knows_report, "report that was missed")
    wait_for(lambda: "order followed" in central.events(), "order that was left")
    assert "swapped" in central.events()
    wait_for(lambda: not central.stalled(), "end of all stalls")
    assert central.end() == 0
    assert central.said().count("errand=record") == 2, "said when it began and when it was over"


@pytest.mark.timeout(180)
def test_a_central_that_is_killed_on_a_full_disk_has_lost_nothing(broker: Broker, central: Starved) -> None:
    assert central.process is not None
    edge = Edge(broker)
    edge.send(batch(1).compress())
    edge.wait_acked(lambda acked: acked.seq == 1)
    running = Running(name="m", version=4, sha256="4" * 64, since=iso(START_US))
    with central.disk_full():
        edge.connection.publish("metercast/london/models/reported", Reported(champion=running).encode(), retain=True)
        edge.send(batch(2).compress())
        wait_for(lambda: "record" in central.stalled(), "stalled record")
        central.process.kill()
        central.process.wait(10)
    central.start()
    edge.wait_acked(lambda acked: acked.seq == 2)
    wait_for(central.knows_report, "report")
    assert central.end() == 0
