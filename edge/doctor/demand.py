"""How many messages a site's broker has to keep while the edge is away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OUTAGE_MIN: Final = 60
READINGS_PER_MIN: Final = 1


@dataclass(frozen=True, slots=True)
class Demand:
    """An hour's outage at a reading a minute from each known meter; `meters` is 0 while none is known."""

    meters: int

    @property
    def messages(self) -> int:
        """What the queue must hold."""
        return self.meters * OUTAGE_MIN * READINGS_PER_MIN

    def __str__(self) -> str:
        """The arithmetic."""
        if not self.meters:
            return "no meter is known yet"
        meters = "1 meter" if self.meters == 1 else f"{self.meters:,} meters"
        return f"{meters} at a reading a minute send {self.messages:,} in an hour's outage"


def lasts(messages: int) -> str:
    """What a queue of so many messages is good for, when no meter is known yet."""
    return f"{messages // (OUTAGE_MIN * READINGS_PER_MIN):,} meters at a reading a minute for an hour"
