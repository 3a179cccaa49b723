"""Which binding of the parameters is a meter's.

Invariant: both sides ask here, with the same parameters, so that a meter has one binding in streaming and in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from shared.params import MeterBinding

UNBOUND: Final = MeterBinding(meter="*")
MOST_REMEMBERED: Final = 200_000  # meters whose binding is kept at hand; ids come from outside, so not without end


class Bindings:
    """The bindings in their order: of those that match a site and a meter, the first counts."""

    def __init__(self, bindings: Sequence[MeterBinding] = ()) -> None:
        self._bindings = tuple(bindings)
        self._remembered = lru_cache(MOST_REMEMBERED)(self._first)

    def of(self, site: str, meter: str) -> MeterBinding:
        """The binding of a meter; UNBOUND, which knows nothing, when none matches."""
        return self._remembered(site, meter) if self._bindings else UNBOUND

    def _first(self, site: str, meter: str) -> MeterBinding:
        return next((b for b in self._bindings if fnmatchcase(meter, b.meter) and fnmatchcase(site, b.site)), UNBOUND)
