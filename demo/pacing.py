"""How fast live days go by: at the wished pace, slower while a model is being trained, and never far ahead of the edge.

A replay at a fixed factor would run away from an edge on a busy machine, and what it publishes would wait in the
broker in front of everything else that is meant for the edge, models included. So the replaying process is stopped and
continued (SIGSTOP, SIGCONT) around a moving target.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from demo.observer import Observer
from demo.processes import Child
from shared.clock import DAY_US, HOUR_US

AHEAD_US: Final = 18 * HOUR_US  # how far readings may be ahead of the newest forecast
SLOWER: Final = 4.0  # a day takes so many times longer while a model is being trained


@dataclass(slots=True)
class Pace:
    """Keeps the newest reading published near a target that moves with the wall clock.

    Invariant: the target never passes the edge's newest forecast by more than AHEAD_US, and never goes back.
    """

    replay: Child
    observer: Observer
    day_s: float
    begins_us: int
    training: Callable[[], bool]
    paused: bool = False
    target_us: float = field(init=False)
    _at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Start where the live weeks start."""
        self.target_us = float(self.begins_us)

    def keep(self) -> None:
        """Move the target by the time gone by since the last call, and let the replay run or wait."""
        now = time.monotonic()
        self.target_us = next_target(
            self.target_us,
            elapsed_s=now - self._at,
            day_s=self.day_s * (SLOWER if self.training() else 1.0),
            edge_us=max(self.observer.event_us, self.begins_us),
        )
        self._at = now
        self._pause(self.observer.published_until_us > self.target_us)

    def _pause(self, wanted: bool) -> None:
        if wanted != self.paused and self.replay.running:
            self.replay.process.send_signal(signal.SIGSTOP if wanted else signal.SIGCONT)
            self.paused = wanted


def next_target(target_us: float, *, elapsed_s: float, day_s: float, edge_us: int) -> float:
    """Return the target after `elapsed_s` at `day_s` seconds a day, held back by what the edge has forecast."""
    moved = target_us + elapsed_s / day_s * DAY_US
    return max(target_us, min(moved, float(edge_us + AHEAD_US)))
