"""What happened, one JSON object a line: drift, trainings, rollouts, swaps, with wall and event time."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path

from shared.clock import iso, to_us

log = logging.getLogger(__name__)


class Journal:
    """An append-only file of events, each also a log line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, *, wall: datetime, event_us: int | None, **detail: object) -> None:
        """Append one event; what cannot be written is only logged."""
        at = None if event_us is None else iso(event_us)
        line = json.dumps({"wall": iso(to_us(wall)), "at": at, "event": event, **detail}, default=str)
        log.info("%s", event, extra={"at": at, **detail})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            log.error("journal not written", extra={"path": str(self._path), "reason": str(error)})
