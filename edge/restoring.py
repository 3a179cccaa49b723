"""Whether central should give closed intervals back, and how far it has.

Invariants: that it is wanted is known after a restart too; central is asked only after the broker has handed over what
it kept, since only what is closed and missing is given back; what was meant for another epoch is not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge.history import Begin, Filled, restore
from edge.site import SiteState
from shared.messages import Restore

FACT: Final = "restore"  # in the state database: it is known after a restart, when the state is no longer empty
WANTED: Final = "wanted"
DONE: Final = "done"


def is_wanted(facts: Mapping[str, str], *, empty: bool) -> bool:
    """Whether an edge that begins with these facts lacks intervals: it was told so, or has none and was never given."""
    told = facts.get(FACT)
    return told == WANTED or (empty and told != DONE)


class Restoring:
    """Asks, and takes the answer's parts until all have come."""

    def __init__(self, site: SiteState, *, wanted: bool) -> None:
        self.wanted = wanted
        self._site = site
        self._parts: set[int] = set()
        self._may_ask = site.empty  # else the broker's share first

    @property
    def asks(self) -> bool:
        """Whether the status asks central."""
        return self.wanted and self._may_ask

    @property
    def fact(self) -> dict[str, str]:
        """What the next process must know."""
        return {FACT: WANTED if self.wanted else DONE}

    def want(self) -> None:
        """Ask, from the first part on: the state may lack what central knows."""
        self.wanted, self._parts = True, set()

    def caught_up(self) -> None:
        """The broker has handed over what it kept."""
        self._may_ask = True

    def take(self, message: Restore, topic: str, begin: Begin, *, max_meters: int) -> Filled:
        """Fill intervals from a part; returns (row, first, count) of what may have changed. Raises MessageRefused."""
        filled = restore(self._site, message, topic, begin, max_meters=max_meters)
        self._parts.add(message.part)
        self.wanted = len(self._parts) < message.parts
        return filled
