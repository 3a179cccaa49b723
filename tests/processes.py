"""Edge and central as processes of their own that can be killed, stopped, starved of disk and told the wrong time.

The edge is forked from a server that has imported it already: what runs is `edge.cli.main` in a fresh process, but a
hundred kills do not cost a hundred imports.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

ROOT: Final = Path(__file__).resolve().parents[1]
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["edge.cli", "edge.bootstrap", "edge.runtime", "tests.processes"])


@dataclass
class EdgeProcess:
    """`edge run`, again and again on one state folder.

    `skew` names a file with seconds: where it is given, the edge's wall clock is wrong by what the file says.
    """

    folder: Path
    settings: Sequence[str]
    skew: Path | None = None
    starts: int = 0
    metrics_port: int = field(default_factory=free_port)
    _process: BaseProcess | None = field(default=None)

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

    def words(self, command: str, *more: str) -> list[str]:
        """The arguments of one of the edge's commands on this broker and state."""
        chosen = (f"edge.state_dir={self.state}", f"edge.metrics_port={self.metrics_port}", *self.settings)
        return [command, *(word for pair in chosen for word in ("--set", pair)), *more]

    def told(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        """A command of the edge, `run` too, as a person types it; waits for its end."""
        line = [sys.executable, "-m", "edge", *self.words(command, *more)]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = _FORKS.Process(target=_run_edge, args=(self.words("run"), self.log, self.skew), daemon=True)
        self._process.start()
        self.starts += 1

    def start(self) -> None:
        """Start it and wait until it runs."""
        told = self.times_said("edge runs")
        self.spawn()
        wait_for(lambda: self.times_said("edge runs") > told, "the edge to run", self.log)

    def kill(self) -> None:
        """End it as a power cut would, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.join(PATIENCE_S)

    def stop(self) -> int | None:
        """Ask it to end; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        assert self._process is not None
        self._process.join(PATIENCE_S)
        return self._process.exitcode

    def signal(self, what: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, what)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.is_alive()

    def times_said(self, what: str) -> int:
        """How often its log says something."""
        return self.log.read_text(errors="replace").count(what) if self.log.exists() else 0

    def resident_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def metrics(self) -> str:
        """Its metrics as they are scraped; raises OSError while they cannot be had."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str) -> float | None:
        """One metric without labels, or None while it cannot be had."""
        try:
            lines = self.metrics().splitlines()
        except OSError:
            return None
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not scheduled at all meanwhile, as when the disk or the machine hangs."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextmanager
    def disk_full(self, limit: int | None = None) -> Iterator[None]:
        """No file of this process grows beyond `limit` bytes, or what its database has now: the kernel refuses it."""
        if limit is None:
            limit = max(file.stat().st_size for file in self.state.iterdir() if file.is_file() and "-wal" in file.name)
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            if self.alive:
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)


def _run_edge(arguments: list[str], log: Path, skew: Path | None) -> None:
    """The forked process: `python -m edge`, its output in a file."""
    os.chdir(ROOT)
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


NO_TRACKING_SERVER: Final = "central.mlflow_uri=http://127.0.0.1:9"  # where nothing is trained


@dataclass
class CentralProcess:
    """`python -m central run` in a folder of its own, and its other commands there."""

    folder: Path
    port: int
    settings: Sequence[str] = (NO_TRACKING_SERVER,)
    starts: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "central.log"

    def words(self, *words: str) -> list[str]:
        """The command line of one of central's commands on this broker and folder."""
        chosen = (
            "mqtt.host=127.0.0.1",
            f"mqtt.port={self.port}",
            f"central.work_dir={self.folder}",
            "central.metrics_port=0",
            "clock=event",
            *self.settings,
        )
        return [sys.executable, "-m", "central", *words, *(word for pair in chosen for word in ("--set", pair))]

    def told(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of central as a person types it; waits for its end."""
        return subprocess.run(
            self.words(*words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(),
            check=False,
        )  # fmt: skip

    def export(self, *words: str) -> None:
        """`central export`, in this process, which has imported what that needs; fails the test when that fails."""
        from central.cli import main

        done = told_here(main, self.words("export", *words)[3:])
        assert done.returncode == 0, done.stderr

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words("run"), cwd=ROOT, stdout=log, stderr=log, env=environment())
        self.starts += 1

    def kill(self) -> None:
        """End it as a power cut would, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def told_here(main: Callable[[list[str]], int], words: list[str]) -> subprocess.CompletedProcess[str]:
    """A command in this process, as if it had one of its own: what it says is caught, logging is as it was."""
    out, err, root = StringIO(), StringIO(), logging.getLogger()
    handlers, level, tracking = root.handlers[:], root.level, os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if tracking is not None:
            os.environ["MLFLOW_TRACKING_URI"] = tracking
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """This process's environment, but for a tracking server of somebody's own."""
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
