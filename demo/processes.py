"""The demo's child processes: started with a log file each, watched, and stopped in order."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STOP_WITHIN_S: Final = 20.0
TAIL_LINES: Final = 12


class DemoFailed(Exception):
    """The demo cannot go on; the text is one line for a person, `log_tail` what the process said last."""

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.log_tail = log_tail


def make_key(command: Sequence[str], cwd: Path) -> str:
    """Have central make the key that it signs models with; returns what the edge is to trust. Raises DemoFailed."""
    answer = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    if answer.returncode:
        raise DemoFailed("central keys new: failed", answer.stderr)
    return str(json.loads(answer.stdout)["public"])


@dataclass(slots=True)
class Child:
    """A running process of ours and the log both its streams go to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def failed(self, reason: str) -> DemoFailed:
        """The error that names this process and shows what it said last."""
        return DemoFailed(f"{self.name}: {reason} (log: {self.log})", tail(self.log))

    def require_running(self) -> None:
        """Raise DemoFailed when the process has ended."""
        if not self.running:
            raise self.failed(f"ended unexpectedly with code {self.process.returncode}")

    def wait(self, timeout_s: float) -> None:
        """Wait for a good end; raise DemoFailed on another code or after `timeout_s`."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise self.failed(f"not done after {timeout_s:.0f} s") from None
        if code != 0:
            raise self.failed(f"ended with code {code}")

    def stop(self) -> None:
        """Ask it to end (SIGTERM), insist after a while, and reap it. Does nothing to one that has ended."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)  # one that was paused would not hear the other
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(name: str, argv: Sequence[str], logs: Path, cwd: Path) -> Child:
    """Start `argv` in `cwd`, both streams to `logs/name.log`, in a session of its own: Ctrl-C reaches us alone."""
    log = logs / f"{name}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(  # the caller owns and stops it
            list(argv), cwd=cwd, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
    return Child(name, process, log)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, or nothing when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
