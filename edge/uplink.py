"""The edge's half of the ledger: numbered batches that wait on disk until central has them in the record.

Invariants: within an epoch numbers rise by one and are never used twice; a batch leaves the outbox only when central's
ack covers it, or when a gap entry takes its place; at most `window` batches are under way at once, and those unanswered
are sent again; a number is sent only once central has vouched for it: by a word of this epoch since it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from shared.messages import MAX_UPLINK_BYTES, Acked, Uplink

Kinds = Mapping[str, dict[str, list[Any]]]
DOUBLINGS_AT_MOST: Final = 5
UNHEARD_AT_MOST_S: Final = 60.0  # connected for so long and no word of central's: a new epoch needs none
EMPTIED_TO: Final = 0.9  # of a full outbox: so that gaps are few
_ROWS_AT_MOST: Final = 10_000


class UplinkLedger:
    """Which batches wait, which are under way, which number comes next."""

    def __init__(
        self,
        site: str,
        epoch: str,
        *,
        next_seq: int,
        waiting: list[tuple[int, int]],
        recorded: tuple[int, int] = (0, 0),
        vouched: int | None = None,
        is_new: bool = False,
    ) -> None:
        """`recorded` is what the newest ack said that let batches leave: its seq and `at` in microseconds.

        `vouched`: the last number that is ours to use, by default all that were given; `is_new`: nobody has ever sent
        a number of this epoch.
        """
        self.site = site
        self.epoch = epoch
        self.next_seq = next_seq
        self._waiting = dict(waiting)
        self._sent_s: dict[int, float] = {}
        self._sendings: dict[int, int] = {}
        self._size_bytes = sum(self._waiting.values())
        self._begun_at = next_seq  # numbers from here on were given by this process
        self._vouched = next_seq - 1 if vouched is None else vouched
        self._sent_up_to = self._vouched
        self._last_sent = 0  # by this process
        self._heard = is_new
        self._in_doubt = False
        self.recorded = recorded

    @property
    def vouched(self) -> int:
        """The last number that may be sent: what comes after it another life of this disk may have used."""
        return self.next_seq - 1 if self._heard else self._vouched

    @property
    def batches(self) -> int:
        """Batches that wait for central."""
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """Their size."""
        return self._size_bytes

    def enqueue(self, kinds: Kinds, at: str) -> list[tuple[int, bytes]]:
        """Number and compress rows into as many batches as their size needs; returns (seq, body) to commit."""
        filled = {kind: columns for kind, columns in kinds.items() if any(columns.values())}
        if not filled:
            return []
        body = Uplink(site=self.site, epoch=self.epoch, seq=self.next_seq, at=at, kinds=filled).compress()
        rows = {kind: len(next(iter(columns.values()))) for kind, columns in filled.items()}
        if (len(body) > MAX_UPLINK_BYTES or max(rows.values()) > _ROWS_AT_MOST) and sum(rows.values()) > 1:
            first, second = _halves(filled, rows)
            return self.enqueue(first, at) + self.enqueue(second, at)
        self._waiting[self.next_seq] = len(body)
        self._size_bytes += len(body)
        self.next_seq += 1
        return [(self.next_seq - 1, body)]

    def on_acked(self, acked: Acked, *, fresh: bool = True) -> list[int]:
        """The batches that are now in the record and leave the outbox; acks of another epoch are ignored."""
        if acked.epoch != self.epoch:
            return []
        self._heard = (self._heard or fresh) and not self._in_doubt
        self._sendings.clear()  # central is there: no reason to hold back
        recorded = list(takewhile(lambda seq: seq <= acked.seq, self._waiting))
        if recorded:
            self.recorded = max(self.recorded, (acked.seq, acked.at_us))
        for seq in recorded:
            self._drop(seq)
        for first, last in acked.missing:
            for seq in [seq for seq in self._sent_s if first <= seq <= last]:
                del self._sent_s[seq]
        return recorded

    def _drop(self, seq: int) -> None:
        self._size_bytes -= self._waiting.pop(seq)
        self._sent_s.pop(seq, None)
        self._sendings.pop(seq, None)

    def overflow(self, max_bytes: int) -> tuple[int, int] | None:
        """The oldest batches (first, last) that must give way to a gap entry, None while there is room.

        Those under way stay, with what is wanted again among them: they may be in the record already.
        """
        if self._size_bytes <= max_bytes:
            return None
        waiting = [seq for seq in self._waiting if seq > self._last_sent]
        left, chosen = self._size_bytes, 0
        while chosen < len(waiting) - 1 and left > EMPTIED_TO * max_bytes:
            left -= self._waiting[waiting[chosen]]
            chosen += 1
        return (waiting[0], waiting[chosen - 1]) if chosen else None

    def gap_made(self, first: int, last: int, size: int) -> None:
        """A gap entry of `size` bytes under number `last` has taken the place of `first` … `last`."""
        for seq in [seq for seq in self._waiting if first <= seq <= last]:
            if seq != last:
                self._drop(seq)
        self._size_bytes += size - self._waiting[last]
        self._waiting[last] = size

    def disowned_by(self, acked: Acked) -> bool:
        """Whether central and we no longer mean the same batches by this epoch's numbers.

        Central has more than we ever sent (our disk is an old image), or wants what it told us is recorded (its record
        is an old one). Only a new epoch helps. An ack no later than the one that let our last batch leave is an old
        one that comes again, and says nothing.
        """
        seq, at_us = self.recorded
        wants_dropped = acked.at_us > at_us and any(first <= seq for first, _last in acked.missing)
        return acked.epoch == self.epoch and (acked.seq > self._sent_up_to or wants_dropped)

    def renew(self, epoch: str, waiting: Sequence[tuple[int, int]]) -> None:
        """Go on under a new epoch, in which the waiting batches are numbered from 1."""
        self.epoch, self._waiting, self._sent_s, self._sendings = epoch, dict(waiting), {}, {}
        self._size_bytes = sum(self._waiting.values())
        self.next_seq = self._begun_at = len(waiting) + 1
        self.recorded = (0, 0)
        self._in_doubt, self._vouched = False, len(waiting)
        self._sent_up_to, self._last_sent, self._heard = 0, 0, True  # nobody has used a number of this epoch before

    def is_of_earlier_process(self, seq: int) -> bool:
        """Whether a batch was written before this process began, so that its disk may have spoilt it since."""
        return seq < self._begun_at

    def is_in_doubt(self, connected_for_s: float) -> bool:
        """Whether numbers wait that nobody has vouched for, and for long."""
        return self._in_doubt or (connected_for_s >= UNHEARD_AT_MOST_S and self.vouched < self.next_seq - 1)

    def doubt(self) -> None:
        """Send nothing that was not vouched for before this process until a new epoch has begun."""
        self._in_doubt, self._heard = True, False

    def due(self, monotonic_s: float, *, window: int, resend_after_s: float) -> list[int]:
        """The numbers to send now: of the oldest `window`, those not under way or unanswered for too long.

        Each sending without an answer doubles the wait: what central is not there to take would fill the broker.
        """
        oldest = [seq for seq in islice(self._waiting, window) if seq <= self.vouched]
        due = [seq for seq in oldest if self._is_due(seq, monotonic_s, resend_after_s)]
        self._sent_up_to = max([self._sent_up_to, *due])
        self._last_sent = max([self._last_sent, *due])
        for seq in due:
            self._sent_s[seq] = monotonic_s
            self._sendings[seq] = self._sendings.get(seq, 0) + 1
        return due

    def _is_due(self, seq: int, monotonic_s: float, resend_after_s: float) -> bool:
        doublings = min(max(self._sendings.get(seq, 0) - 1, 0), DOUBLINGS_AT_MOST)
        waited_s = monotonic_s - self._sent_s.get(seq, float("-inf"))
        return waited_s >= resend_after_s * (1 << doublings)


def _halves(kinds: Kinds, rows: Mapping[str, int]) -> tuple[Kinds, Kinds]:
    """Split the largest kind in two; the others stay in the first half."""
    largest = max(rows, key=lambda kind: rows[kind])
    if rows[largest] == 1:
        return {largest: kinds[largest]}, {kind: kinds[kind] for kind in kinds if kind != largest}
    middle = rows[largest] // 2
    first = {name: column[:middle] for name, column in kinds[largest].items()}
    second = {name: column[middle:] for name, column in kinds[largest].items()}
    return {**kinds, largest: first}, {largest: second}
