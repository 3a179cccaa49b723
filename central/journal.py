"""What happened, one JSON object a line: drift, trainings, rollouts, swaps, with wall and event time.

Invariant: a line stands there whole or not at all. What a full disk does not take waits, in order and bounded; when the
disk takes it again, so does the journal, with a line that says how many were lost meanwhile, if any.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Final

from central.stalls import Stall
from shared.clock import iso, to_us

log = logging.getLogger(__name__)

WAITING_AT_MOST: Final = 1000  # lines


class Journal:
    """An append-only file of events, each also a log line."""

    def __init__(self, path: Path, stall: Stall | None = None) -> None:
        self._path = path
        self._stall = stall or Stall("journal")
        self._waiting: deque[bytes] = deque()
        self._lost = 0

    def write(self, event: str, *, wall: datetime, event_us: int | None, **detail: object) -> None:
        """Append one event, or let it wait."""
        at = None if event_us is None else iso(event_us)
        log.info("%s", event, extra={"at": at, **detail})
        self._waiting.append(_line(event, wall, at, detail))
        if len(self._waiting) > WAITING_AT_MOST:
            self._waiting.popleft()
            self._lost += 1
        self.catch_up(wall)

    def catch_up(self, wall: datetime) -> None:
        """Write what waits, if the disk takes it."""
        if not self._waiting or self._stall.holds(time.monotonic()):
            return
        lost = [_line("lines lost", wall, None, {"lines": self._lost})] if self._lost else []
        try:
            _append(self._path, b"".join([*lost, *self._waiting]))
        except OSError as error:
            self._stall.failed(f"{self._path}: {error.strerror}", time.monotonic())
            return
        self._waiting.clear()
        self._lost = 0
        self._stall.passed()


def _line(event: str, wall: datetime, at: str | None, detail: dict[str, object]) -> bytes:
    return f"{json.dumps({'wall': iso(to_us(wall)), 'at': at, 'event': event, **detail}, default=str)}\n".encode()


def _append(path: Path, lines: bytes) -> None:
    """Append all of it, or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(lines)
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise
