"""A Mosquitto of the shipped configuration that can be killed, and forget or not, and says what it dropped."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.conftest import free_port, mosquitto

SHIPPED: Final = Path(__file__).resolve().parents[2] / "mosquitto"
HOST: Final = "127.0.0.1"
_TESTABLE: Final = "\nlog_type subscribe\nsys_interval 1\n"


@dataclass(slots=True)
class Broker:
    """`mosquitto/edge.conf` on a port of 127.0.0.1, saved to disk every second.

    `persistent` False keeps nothing over a restart; `bridge` is appended to the configuration.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    persistent: bool = True
    bridge: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, or start it again, and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "mosquitto.conf"
        file.write_text(self._configuration())
        with (self.folder / "log").open("ab") as log:
            command = [mosquitto(), "-c", str(file)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until_s = time.monotonic() + 10
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError(f"mosquitto did not start: {self.log[-500:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def subscriptions(self, client_id: str) -> int:
        """How often a client has subscribed to something so far."""
        return len(re.findall(rf": {re.escape(client_id)} 1 ", self.log))

    def _configuration(self) -> str:
        text = (SHIPPED / "edge.conf").read_text()
        text = text.replace("listener 1883", f"listener {self.port} {HOST}").replace(
            "/mosquitto/data", str(self.folder)
        )
        text = text.replace("autosave_interval 10", "autosave_interval 1").replace("log_dest stdout", "log_dest stderr")
        if not self.persistent:
            text = text.replace("persistence true", "persistence false")
        return f"user {getpass.getuser()}\n{text}{_TESTABLE}{self.bridge}"

    def _listens(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((HOST, self.port)) == 0
