"""When to train: a pure judgement of history, drift, age and cooldown, in event time.

Invariants: two trainings never start within the cooldown of each other, a person's own command left aside; nothing is
trained for what a version that waits, or is on its way, has learned already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from central.trainings import Reason
from shared.clock import duration_us
from shared.params import TrainingParams

METERS_AT_MOST: Final = 1_000_000
ENOUGH_METERS: Final = 0.5  # share of the meters that must have the least history before the first training


@dataclass(slots=True)
class Coverage:
    """First and last reading of each meter of each site."""

    spans: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, site: str, meter: str, first_us: int, last_us: int) -> None:
        """Widen a meter's span; one meter too many is left out."""
        if (site, meter) not in self.spans and len(self.spans) >= METERS_AT_MOST:
            return
        first, last = self.spans.get((site, meter), (first_us, last_us))
        self.spans[site, meter] = min(first, first_us), max(last, last_us)

    def share_with(self, history_us: int) -> float:
        """Share of the meters whose readings span at least so much."""
        long = sum(last - first >= history_us for first, last in self.spans.values())
        return long / len(self.spans) if self.spans else 0.0

    @property
    def newest_us(self) -> int | None:
        """The latest reading of all."""
        return max((last for _, last in self.spans.values()), default=None)


class Seen(Protocol):
    """A drift, seen at an instant."""

    @property
    def at_us(self) -> int:
        """When."""


@dataclass(slots=True)
class Triggers:
    """What was trained when, and what asks for a training now.

    A champion, or the newest version that waits or is on its way, was trained on everything before its `…_until_us`.
    """

    params: TrainingParams
    champion_until_us: int | None = None
    coming_until_us: int | None = None
    last_start_us: int | None = None
    running: bool = False

    def due(self, now_us: int, coverage: Coverage, drifting: Mapping[str, Seen]) -> Reason | None:
        """Why a training should start now, or None."""
        if self.running or self.cools_until(now_us) is not None:
            return None
        newest_us = max((us for us in (self.champion_until_us, self.coming_until_us) if us is not None), default=None)
        if newest_us is None:
            enough = coverage.share_with(duration_us(self.params.min_history)) >= ENOUGH_METERS
            return "first" if enough else None
        if self.champion_until_us is not None and any(self.asks(seen.at_us) for seen in drifting.values()):
            return "drift"
        return "schedule" if now_us - newest_us >= duration_us(self.params.every) else None

    def asks(self, drift_us: int) -> bool:
        """Whether a drift seen then is news to what is coming, if anything is."""
        return self.coming_until_us is None or drift_us > self.coming_until_us

    def cools_until(self, now_us: int) -> int | None:
        """When the cooldown ends, None when it does not hold."""
        if self.last_start_us is None:
            return None
        until_us = self.last_start_us + duration_us(self.params.cooldown)
        return until_us if now_us < until_us else None

    def started(self, now_us: int) -> None:
        """A training was started."""
        self.running, self.last_start_us = True, now_us

    def ended(self) -> None:
        """It ended, however."""
        self.running = False
