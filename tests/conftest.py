"""Fixtures for all tests: a real Mosquitto. Without one, tests that need it fail; they never skip."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CONFIGURATION = """\
user {user}
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
max_queued_messages 1000000
max_inflight_messages 0
max_packet_size {max_packet_size}
log_dest stderr
log_type error
log_type warning
log_type notice
log_type subscribe
"""


@dataclass(slots=True)
class Broker:
    """A Mosquitto of this test's own, with persistence, on a port of 127.0.0.1."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)
    host: str = "127.0.0.1"
    max_packet_size: int = 2_000_000  # as Mosquitto 2.1 has it by default

    def start(self) -> None:
        """Start it, or start it again, and wait until it listens."""
        configuration = self.folder / "mosquitto.conf"
        user = getpass.getuser()  # else one started by root becomes a user who cannot save here
        configuration.write_text(
            CONFIGURATION.format(user=user, port=self.port, folder=self.folder, max_packet_size=self.max_packet_size)
        )
        with (self.folder / "log").open("ab") as log:
            command = [mosquitto(), "-c", str(configuration)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"mosquitto did not start: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it cleanly: sessions, queues and retained messages stay in its folder."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def wait_subscribed(self, client_id: str, filter_: str, within_s: float = 30) -> None:
        """Wait until a client has subscribed to a filter; before that, what is published does not reach it."""
        until = time.monotonic() + within_s
        while f"{client_id} 1 {filter_}" not in (self.folder / "log").read_text(errors="replace"):
            if time.monotonic() > until:
                pytest.fail(f"{client_id} has not subscribed to {filter_} within {within_s} s")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((self.host, self.port)) == 0


def mosquitto() -> str:
    """Where Mosquitto is; fails the test when it is nowhere."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"])
    found = shutil.which("mosquitto", path=path)
    if found is None:
        pytest.fail("no mosquitto: install it with the system's package manager (`make mosquitto` says how)")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker with nothing in it."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    running = Broker(folder, free_port())
    try:
        running.start()
        yield running
    finally:
        running.stop()
