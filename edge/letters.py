"""Dead letters: what could not be taken, and why; so many a minute and meter, beyond that counted in summaries.

Invariants: every refused item is in exactly one letter (`count` of a summary says how many it stands for); a letter's
id follows from what it holds; what is remembered is bounded by the number of meters known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edge.dialects.native import RefusedItem
from shared.clock import SECOND_US, parse_instant_us
from shared.messages import DEAD_LETTER_COLUMNS, DeadLetter, columns_of, dead_letter

STRANGERS: Final = ""  # all meters that are not known share one rate: their number has no bound


@dataclass(slots=True)
class _Allowance:
    """How many letters of one meter may still be written one by one, as of `at_us`."""

    left: float
    at_us: int


@dataclass(slots=True)
class Letters:
    """Writes the letters of one batch after the other."""

    per_minute: int
    counted: int = 0  # items that only a summary tells of
    _allowances: dict[str, _Allowance] = field(default_factory=dict)

    def write(
        self, refused: Sequence[tuple[str, str, RefusedItem]], received_at: str, wall_us: int
    ) -> list[DeadLetter]:
        """The letters for a batch's refused (meter or STRANGERS, topic, item)."""
        letters: list[DeadLetter] = []
        beyond: dict[str, list[tuple[str, RefusedItem]]] = {}
        for meter, topic, one in refused:
            if self._allowed(meter, wall_us):
                letters.append(dead_letter(topic, one.content, one.reason, received_at, item=one.item))
            else:
                beyond.setdefault(meter, []).append((topic, one))
        letters += [self._summary(rest, received_at) for rest in beyond.values()]
        return letters

    def _allowed(self, meter: str, wall_us: int) -> bool:
        allowance = self._allowances.setdefault(meter, _Allowance(self.per_minute, wall_us))
        gained = max(wall_us - allowance.at_us, 0) / (60 * SECOND_US) * self.per_minute
        allowance.left, allowance.at_us = min(allowance.left + gained, self.per_minute), wall_us
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    def _summary(self, rest: list[tuple[str, RefusedItem]], received_at: str) -> DeadLetter:
        topic, first = rest[0]
        self.counted += len(rest)
        letter = dead_letter(topic, first.content, first.reason, received_at, item=first.item)
        if len(rest) == 1:
            return letter
        reason = f"{first.reason} (and {len(rest) - 1} more: over {self.per_minute} a minute are only counted)"
        # Its own id: the first item may have been a letter by itself before.
        named = dead_letter(topic, first.content, reason + received_at, received_at, item=len(rest))
        return letter.model_copy(update={"id": named.id, "count": len(rest), "reason": reason})


def letter_columns(letters: Sequence[DeadLetter]) -> dict[str, list[Any]]:
    """Letters as columns for the uplink."""
    rows = [
        (one.id, one.topic, one.payload, one.payload_b64, one.reason, parse_instant_us(one.received_at), one.count)
        for one in letters
    ]
    return columns_of(DEAD_LETTER_COLUMNS, rows)
