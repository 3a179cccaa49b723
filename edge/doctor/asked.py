"""What a person may ask of the doctor beyond the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

LISTEN: Final = timedelta(seconds=5)
PARKED: Final = 2_000  # twice what Mosquitto queues by default
PARKED_AT_MOST: Final = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """The broker's configuration if it is at hand, how long to listen, and how many messages to park."""

    broker_conf: Path | None = None
    listen: timedelta = LISTEN
    park: int = PARKED
