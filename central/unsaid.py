"""What is still to be published to the sites, some at a time: recording must not wait for ten thousand signatures.

Invariants: of a site waits only what it should run now, the newest in the place of the older; what has changed goes
before what is only said again, each in the order it came; an artifact is cleared when no site waits any more, as one of
them may be told by the broker to run it until then, and not at all when it is wanted again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import chain, islice

from shared.messages import Desired


@dataclass(slots=True)
class Unsaid:
    """What waits. It is a shadow of the rollout's state: after a restart everything is said again."""

    _changed: dict[str, Desired] = field(default_factory=dict)
    _again: dict[str, Desired] = field(default_factory=dict)
    _cleared: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many sites wait."""
        return len(self._changed) + len(self._again)

    def add(self, site: str, desired: Desired, *, again: bool) -> None:
        """Say this to a site; `again` when it was said before, and is only to be refreshed."""
        if again and site not in self._changed:
            self._again[site] = desired
        else:
            self._again.pop(site, None)
            self._changed[site] = desired

    def next(self, count: int) -> list[tuple[str, Desired]]:
        """The first so many."""
        return list(islice(chain(self._changed.items(), self._again.items()), count))

    def said(self, site: str) -> None:
        """It was said."""
        self._changed.pop(site, None)
        self._again.pop(site, None)

    def clear(self, artifact: str, chunks: int) -> None:
        """Take an artifact off the broker once nobody waits."""
        self._cleared[artifact] = chunks

    def keep(self, artifact: str) -> None:
        """It is wanted again."""
        self._cleared.pop(artifact, None)

    def clearances(self) -> dict[str, int]:
        """Take out the artifacts to clear now, each with the number of its chunks."""
        if self:
            return {}
        cleared, self._cleared = self._cleared, {}
        return cleared

    def forget(self) -> None:
        """Let nothing wait."""
        for waiting in (self._changed, self._again, self._cleared):
            waiting.clear()


def due_between(names: Iterable[str], since: datetime, until: datetime, every: timedelta) -> list[str]:
    """Those whose moment of each period lies after `since` and not after `until`; all, once that is a whole period.

    A name's moment is drawn by its hash: the same after a restart, spread evenly over the period.
    """
    return [name for name in names if _rounds(name, until, every) > _rounds(name, since, every)]


def _rounds(name: str, instant: datetime, every: timedelta) -> int:
    """How often a name's moment has come, since ever."""
    drawn = int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64
    return int((instant.timestamp() / every.total_seconds()) - drawn)
