"""Which bounds of the edge were reached of late: told in the status, and to Prometheus.

A bound that was reached stays told for TOLD_FOR_US, so that who looks now and then sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shared.clock import SECOND_US

TOLD_FOR_US: Final = 60 * SECOND_US


@dataclass(slots=True)
class Bounds:
    """By name of the bound: what happened, and when last (wall clock)."""

    counts: dict[str, int] = field(default_factory=dict)
    _last: dict[str, tuple[str, int]] = field(default_factory=dict)

    def reached(self, bound: str, reason: str, wall_us: int) -> None:
        """A bound was reached now."""
        self.counts[bound] = self.counts.get(bound, 0) + 1
        self._last[bound] = (reason, wall_us)

    def reasons(self, wall_us: int) -> list[str]:
        """What was reached in the last while, in sentences."""
        return [reason for reason, at_us in self._last.values() if abs(wall_us - at_us) < TOLD_FOR_US]
