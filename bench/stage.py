"""Where a bench plays: a Mosquitto of its own that tells when clients come and go, and processes that are watched.

Clocks start when the broker accepts the contestant's CONNECT (it begins to deliver in the same breath) and, where
the contestant leaves after its last acknowledgement, end when the broker sees it go. So starting up counts for nobody.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from demo.broker import find_mosquitto, free_port
from demo.processes import Child, start

ROOT: Final = Path(__file__).parents[1]
# No limits but the clients' own: MQTT 5 clients say theirs, an MQTT 3.1.1 client takes what it gets.
SETTINGS: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 65535
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""
_CAME: Final = re.compile(r"New client connected from \S+ as (\S+) \(")
_WENT: Final = re.compile(r"Client (\S+)(?: \[[^\]]*\])? (?:disconnected|closed its connection)")


class BenchFailed(Exception):
    """A bench cannot go on; the text is one line."""


class Broker:
    """A running Mosquitto with empty queues; `came_s` and `went_s` are when clients did, on the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.came_s: dict[str, float] = {}
        self.went_s: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "mosquitto.conf"
        configuration.write_text(SETTINGS.format(port=self.port))
        self._process = subprocess.Popen(
            [find_mosquitto(), "-c", str(configuration)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        self._log = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._log.start()
        wait_for(self._listens, "the broker to listen", 120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def forget(self, client_id: str) -> None:
        """Forget when a client came and went, before it comes again."""
        self.came_s.pop(client_id, None)
        self.went_s.pop(client_id, None)

    def _listen(self, log: IO[str]) -> None:
        for line in log:
            now_s = time.monotonic()
            if came := _CAME.search(line):
                self.came_s[came[1]] = now_s
            elif went := _WENT.search(line):
                self.went_s[went[1]] = now_s

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise BenchFailed(f"mosquitto ended with code {self._process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def wait_for(condition: Callable[[], bool], what: str, within_s: float, *, of: Child | None = None) -> None:
    """Wait for something; raises BenchFailed with what it was, or DemoFailed when the process it is of has ended."""
    until_s = time.monotonic() + within_s
    while not condition():
        if of is not None:
            of.require_running()
        if time.monotonic() > until_s:
            raise BenchFailed(f"waited {within_s:g} s for {what}")
        time.sleep(0.005)


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module of this tree under this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def launch(name: str, command: Sequence[str], folder: Path) -> Child:
    """Start a process at the root of the tree, its log in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return start(name, command, folder, ROOT)


def settings(pairs: dict[str, object]) -> list[str]:
    """`--set key=value` for each."""
    return [argument for key, value in pairs.items() for argument in ("--set", f"{key}={value}")]


def cpu_s(pid: int) -> float:
    """Processor time a process has used, of all its threads; 0 where there is no /proc."""
    return _ticks(pid, 11, 12) / os.sysconf("SC_CLK_TCK")


def ended_children_cpu_s(pid: int) -> float:
    """Processor time of the processes it started that have ended; 0 where there is no /proc."""
    return _ticks(pid, 13, 14) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int, *fields: int) -> int:
    """The sum of fields of /proc/PID/stat, counted from the one after the name."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(after_name[field]) for field in fields)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process as the system's `ps` tells it."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(told.stdout) * 1024


def peak_resident_bytes(pid: int) -> int:
    """The most it ever had resident; 0 where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    told = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
    return int(told) * 1024


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
