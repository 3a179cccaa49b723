"""Gaps: what a full outbox gave up, told by one batch that stands for a range of numbers.

Invariants:
- A gap that `check_gap` lets pass names one range, which ends at its batch's own number, and each meter once.
- A reading that a gap counts and that is in the record all the same (the edge had not heard so) is no dead letter, and
  a gap inside a wider one of its epoch counts nothing: the outbox was full again before the first was acked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.clock import LATEST_US
from shared.errors import MessageRefused
from shared.messages import GAP_COLUMNS, Uplink
from shared.topics import SiteTopics

HIGHEST: Final = 2**62  # so that sums stay within what a table holds


@dataclass(frozen=True, slots=True)
class Gap:
    """`readings` of one meter that the batches `from_seq` … `to_seq` of an epoch held; given up at `received_at`."""

    site: str
    epoch: str
    from_seq: int
    to_seq: int
    meter_id: str
    readings: int
    reason: str
    received_at: Any

    @property
    def id(self) -> str:
        """Follows from epoch, range and meter, so that copies are one dead letter."""
        parts = (self.epoch, str(self.from_seq), str(self.to_seq), self.meter_id)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def inside(self, other: Gap) -> bool:
        """Whether `other` stands for all of this range and more."""
        return other.from_seq <= self.from_seq and self.to_seq <= other.to_seq and self.span < other.span

    @property
    def span(self) -> int:
        """How many numbers it stands for."""
        return self.to_seq - self.from_seq + 1


def first_seq(batch: Uplink) -> int:
    """The first number that a batch stands for: its own, unless it carries a gap."""
    starts = batch.kinds.get("gaps", {}).get("from_seq", [])
    return int(starts[0]) if starts else batch.seq


def check_gap(batch: Uplink, topic: str) -> None:
    """Raise MessageRefused, in a sentence, for a gap that does not say plainly what it stands for."""
    columns = batch.kinds.get("gaps", {})
    if not any(columns.values()):
        return
    flaw = _flaw(columns, batch.seq)
    if flaw:
        raise MessageRefused(f"{topic}: the gap of batch {batch.seq} {flaw}")


def _flaw(columns: Mapping[str, list[Any]], seq: int) -> str:
    lacking = [name for name in GAP_COLUMNS if name not in columns]
    return f"has no column {', '.join(lacking)}" if lacking else _flaw_of_types(columns) or _flaw_of_range(columns, seq)


def _flaw_of_types(columns: Mapping[str, list[Any]]) -> str:
    for name in ("from_seq", "to_seq", "readings", "at_us"):
        limit = LATEST_US if name == "at_us" else HIGHEST
        if not all(type(value) is int and 0 <= value < limit for value in columns[name]):
            return f"has a {name} that is no count or instant"
    texts = all(isinstance(value, str) for name in ("meter_id", "reason") for value in columns[name])
    return "" if texts else "has a meter_id or reason that is no text"


def _flaw_of_range(columns: Mapping[str, list[Any]], seq: int) -> str:
    ranges = set(zip(columns["from_seq"], columns["to_seq"], strict=True))
    if len(ranges) > 1:
        return "names several ranges"
    first, last = ranges.pop()
    if not 1 <= first <= last == seq:
        return f"names the range {first} … {last}"
    return "" if len(set(columns["meter_id"])) == len(columns["meter_id"]) else "names a meter twice"


def widest(gaps: Iterable[Gap]) -> list[Gap]:
    """Each gap once, without those inside a wider one of the same epoch and meter."""
    copies = {(gap.site, gap.id): gap for gap in gaps}
    kept: dict[tuple[str, str, str], list[Gap]] = {}
    for gap in sorted(copies.values(), key=lambda gap: -gap.span):
        wider = kept.setdefault((gap.site, gap.epoch, gap.meter_id), [])
        if not any(gap.inside(other) for other in wider):
            wider.append(gap)
    return [gap for same in kept.values() for gap in same]


def dead_letter_rows(lost: Iterable[tuple[Gap, int]], root: str) -> Iterator[dict[str, Any]]:
    """Rows of dead letters for gaps and how many of their readings are in the record; none where all are."""
    for gap, recorded in lost:
        if gap.readings and recorded >= gap.readings:
            continue
        yield {
            "site": gap.site,
            "id": gap.id,
            "topic": SiteTopics(root, gap.site).reading(gap.meter_id),
            "reason": gap.reason,
            "received_at": gap.received_at,
            "count": gap.readings - recorded,
            "epoch": gap.epoch,
            "seq": gap.to_seq,
        }
