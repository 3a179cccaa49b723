"""Edge and central as processes of their own that can be killed, stopped, starved of disk and told the wrong time.

The edge is forked from a server that has imported it already: what runs is `edge.cli.main` in a fresh process, but a
hundred kills do not cost a hundred imports.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.conftest import free_port

T = TypeVar("T")
ROOT: Final = Path(__file__).resolve().parents[2]
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["edge.cli", "edge.bootstrap", "edge.runtime", "tests.faults.processes"])


def wait_for(
    condition: Callable[[], bool], what: str, log: Path | None = None, within_s: float = 30, every_s: float = 0.01
) -> None:
    """Wait for something; raises AssertionError with what it was and the end of a log."""
    until_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until_s:
            tail = log.read_text(errors="replace")[-1500:] if log and log.exists() else ""
            raise AssertionError(f"waited {within_s:g} s for {what}\n{tail}")
        time.sleep(every_s)


def all_pass(items: Iterable[T], passes: Callable[[T], bool]) -> Callable[[], bool]:
    """A condition that asks each of many items until it has passed once, and then no more."""
    left = list(items)[::-1]

    def condition() -> bool:
        while left and passes(left[-1]):
            left.pop()
        return not left

    return condition


@dataclass
class EdgeProcess:
    """`edge run`, again and again on one state folder.

    `skew` names a file with seconds: where it is given, the edge's wall clock is wrong by what the file says.
    """

    folder: Path
    settings: Sequence[str]
    skew: Path | None = None
    starts: int = 0
    _process: BaseProcess | None = field(default=None)
    _metrics_port: int = 0

    @property
    def log(self) -> Path:
        """What it said, over all starts."""
        return self.folder / "edge.log"

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "state"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._metrics_port = free_port()
        chosen = [*self.settings, f"edge.state_dir={self.state}", f"edge.metrics_port={self._metrics_port}"]
        arguments = ["run", *(word for pair in chosen for word in ("--set", pair))]
        self._process = _FORKS.Process(target=_run_edge, args=(arguments, self.log, self.skew), daemon=True)
        self._process.start()
        self.starts += 1

    def start(self) -> None:
        """Start it and wait until it runs."""
        told = self._says_it_runs()
        self.spawn()
        wait_for(lambda: self._says_it_runs() > told, "the edge to run", self.log)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)

    def stop(self) -> int | None:
        """Ask it to end; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        assert self._process is not None
        self._process.join(20)
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.is_alive()

    def resident_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def metric(self, name: str) -> float | None:
        """One metric without labels, or None while it cannot be had."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return None
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not scheduled at all meanwhile, as when the disk or the machine hangs."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """No file of this process grows beyond what its database has now: the kernel refuses such writes."""
        limit = max(file.stat().st_size for file in self.state.iterdir() if file.is_file() and "-wal" in file.name)
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            if self.alive:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)

    def _says_it_runs(self) -> int:
        return self.log.read_text(errors="replace").count("edge runs") if self.log.exists() else 0


def _run_edge(arguments: list[str], log: Path, skew: Path | None) -> None:
    """The forked process: `python -m edge`, its output in a file."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if skew is not None:
        _tell_wrong_time(skew)
    from edge.cli import main

    sys.exit(main(arguments))


def _tell_wrong_time(skew: Path) -> None:
    """Have the process's wall clock, `shared.clock.wall_now` and `time.time`, be off by what a file says."""
    from shared import clock

    true_s = time.time

    def off_s() -> float:
        return float(skew.read_text() or 0)

    class WrongClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(true_s(), tz or UTC) + timedelta(seconds=off_s())

    vars(clock)["datetime"] = WrongClock  # wall_now, the one place that asks for the time, looks here
    time.time = lambda: true_s() + off_s()


@dataclass
class CentralProcess:
    """`python -m central run` in a folder of its own."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "central.log"

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command("run"), cwd=ROOT, stdout=log, stderr=log, env=_environment())

    def kill(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def _command(self, *words: str) -> list[str]:
        chosen = (
            "mqtt.host=127.0.0.1",
            f"mqtt.port={self.port}",
            f"central.work_dir={self.folder}",
            "central.metrics_port=0",
            "clock=event",
            "central.mlflow_uri=http://127.0.0.1:9",  # nothing here is trained
        )
        return [sys.executable, "-m", "central", *words, *(word for pair in chosen for word in ("--set", pair))]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
