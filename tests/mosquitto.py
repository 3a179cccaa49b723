"""A real Mosquitto of a test's own, of any configuration. Without one, tests that need it fail; they never skip."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

HOST: Final = "127.0.0.1"
SHIPPED: Final = Path(__file__).resolve().parents[1] / "mosquitto"
WITHOUT_LIMITS: Final = """\
listener 1883
allow_anonymous true
persistence true
persistence_location /mosquitto/data/
max_queued_messages 1000000
max_inflight_messages 0
max_packet_size 2000000
log_dest stderr
log_type error
log_type warning
log_type notice
log_type subscribe
"""  # the packet size as Mosquitto 2.1 has it by default


@dataclass(slots=True)
class Broker:
    """A Mosquitto on a port of 127.0.0.1 that can be stopped, killed and started again.

    The configuration is written as those we ship: its `listener 1883` becomes this port, `/mosquitto/data` the folder.
    """

    folder: Path
    configuration: str = WITHOUT_LIMITS
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = field(default=None)
    host: str = HOST

    def start(self) -> None:
        """Start it, or start it again, and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "mosquitto.conf"
        file.write_text(self._configured())
        with self._log_file.open("ab") as log:
            command = [mosquitto(), "-c", str(file)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._has_begun, "mosquitto to listen", self._log_file)

    def stop(self) -> None:
        """Stop it cleanly: sessions, queues and retained messages stay in its folder, where it may write them."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log_file.read_text(errors="replace")

    def subscriptions(self, client_id: str, filter_: str = "") -> int:
        """How often a client has subscribed so far to a filter, or to anything."""
        return len(re.findall(f": {re.escape(client_id)} 1 {re.escape(filter_)}", self.log))

    def wait_subscribed(self, client_id: str, filter_: str) -> None:
        """Wait until a client has subscribed to a filter; before that, what is published does not reach it."""
        what = f"{client_id} to subscribe to {filter_}"
        wait_for(lambda: self.subscriptions(client_id, filter_), what, self._log_file, every_s=0.05)

    @property
    def _log_file(self) -> Path:
        return self.folder / "log"

    def _configured(self) -> str:
        text = self.configuration.replace("listener 1883", f"listener {self.port} {self.host}")
        text = text.replace("/mosquitto/data", str(self.folder))
        return f"user {getpass.getuser()}\n{text}"  # else one started by root becomes a user who cannot save here

    def _has_begun(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"mosquitto did not start: {self.log[-500:]}"
        return listens(self.port)


@contextmanager
def running(folder: Path, configuration: str = WITHOUT_LIMITS, port: int | None = None) -> Iterator[Broker]:
    """A broker that has begun, and is stopped at the end, unless it has ended by itself, which fails the test."""
    broker = Broker(folder, configuration, port or free_port())
    try:
        broker.start()
        yield broker
        assert broker.process is not None
        assert broker.process.poll() is None, broker.log
    finally:
        broker.stop()


def configured(*options: str) -> str:
    """A configuration of these options and else of Mosquitto's own defaults."""
    return "\n".join(["listener 1883", *options, ""])


def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((HOST, port)) == 0


def mosquitto() -> str:
    """Where Mosquitto is; fails the test when it is nowhere."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"])
    found = shutil.which("mosquitto", path=path)
    if found is None:
        pytest.fail("no mosquitto: install it with the system's package manager (`make mosquitto` says how)")
    return found
