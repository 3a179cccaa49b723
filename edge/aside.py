"""A command run aside: bytes in, bounded bytes out, ended with all it began when it takes too long.

Invariants: `ask` returns only once the process is gone and was waited for, whatever happened; it leaves no descriptor,
no file and no zombie. A process is signalled only while nobody has waited for it, so its id is its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit code, or the negative of the signal that ended it, and what it said."""

    code: int
    said: bytes
    overdue: bool = False


def ask(
    command: Sequence[str],
    request: Sequence[bytes],
    *,
    environment: Mapping[str, str],
    seconds: float,
    most_bytes: int,
) -> Ended:
    """Run it in a session of its own, give it `request`, and return what it answered within `seconds` of wall time.

    It is ended when it says more than `most_bytes`. Raises OSError when it cannot be started.
    """
    with subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=dict(environment),
        start_new_session=True,
    ) as process:
        with _at_most(seconds, process.pid) as overdue:
            said = _exchange(process, request, most_bytes)
            if len(said) <= most_bytes:
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        code = process.wait()
    return Ended(code, said, overdue.is_set())


@contextmanager
def _at_most(seconds: float, group: int) -> Iterator[threading.Event]:
    """End the process and what it began when time is over, and in any case at the end."""
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        _kill(group)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield overdue
    finally:
        timer.cancel()
        timer.join()
        _kill(group)


def _exchange(process: subprocess.Popen[bytes], request: Sequence[bytes], most_bytes: int) -> bytes:
    """Say all, then hear all; one byte more than `most_bytes` when there was more."""
    with suppress(BrokenPipeError):  # it ended before it had read everything; how it ended tells why
        for part in request:
            _write(process.stdin, part)
    said = b""
    while process.stdout and len(said) <= most_bytes and (part := process.stdout.read(most_bytes + 1 - len(said))):
        said += part
    return said


def _write(pipe: IO[bytes] | None, part: bytes) -> None:
    left = memoryview(part)
    while pipe and left:
        left = left[pipe.write(left) :]


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
