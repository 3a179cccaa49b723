"""An errand that the disk or the record does not let us do for a while: told once, tried again, later each time.

Invariant: that it fails is logged when it begins, when the reason becomes another, and when it is over, however often
it is tried between; the gauge tells all the while.
"""

from __future__ import annotations

import logging
import re
from typing import Final, Literal, get_args

from shared.telemetry import Gauge

log = logging.getLogger(__name__)

PAUSES_S: Final = (0.5, 1, 2, 5, 10, 30)

Errand = Literal["record", "rollout", "orders", "journal", "trainings", "artifacts", "work folder"]
ERRANDS: Final[tuple[Errand, ...]] = get_args(Errand)


class Stall:
    """One kind of errand. Times are monotonic seconds."""

    def __init__(self, errand: Errand, gauge: Gauge | None = None) -> None:
        """`gauge` has the label `errand`."""
        self._errand = errand
        self._gauge = None if gauge is None else gauge.labels(errand)
        self._times = 0
        self._due_s = 0.0
        self.reason = ""  # why it fails; empty while it does not

    def failed(self, reason: str, now_s: float) -> float:
        """It failed, once more perhaps; returns after how many seconds it should be tried again."""
        if _gist(reason) != _gist(self.reason):
            log.error("cannot go on, trying again", extra={"errand": self._errand, "reason": reason})
        self.reason = reason
        pause_s = PAUSES_S[min(self._times, len(PAUSES_S) - 1)]
        self._times += 1
        self._due_s = now_s + pause_s
        if self._gauge is not None:
            self._gauge.set(1)
        return pause_s

    def passed(self) -> bool:
        """It was done; returns whether it had failed before."""
        if not self.reason:
            return False
        log.info("goes on", extra={"errand": self._errand})
        self.reason, self._times, self._due_s = "", 0, 0.0
        if self._gauge is not None:
            self._gauge.set(0)
        return True

    def holds(self, now_s: float) -> bool:
        """Whether it is too early to try again."""
        return bool(self.reason) and now_s < self._due_s


def _gist(reason: str) -> str:
    """A reason without numbers: Delta names another file at each attempt."""
    return re.sub(r"[0-9a-f]{4,}|\d+", "", reason)
