"""The ledger's state machine: which batch of which epoch is next, what to write, what to tell the edge.

Invariants:
- Batches of one epoch are written in the order of `seq`, without a gap, each once; those that come early are held, at
  most HELD_AT_MOST of them.
- A delivery is released to the broker only after its batch is written, or when it needs no writing.
- Whatever arrives about an epoch, its edge is told afterwards how far the record is and what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

from shared.messages import Uplink

HELD_AT_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class EpochMet:
    """The record holds batches 1 … `seq` of an epoch; comes before any batch of it."""

    site: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """A batch came as delivery number `delivery` of this process."""

    batch: Uplink
    delivery: int


Event: TypeAlias = EpochMet | BatchArrived


@dataclass(frozen=True, slots=True)
class Write:
    """Commit these batches, in this order, in one go."""

    batches: tuple[Uplink, ...]


@dataclass(frozen=True, slots=True)
class TellAcked:
    """Tell the edge: all up to `seq` is in the record, `missing` ranges are wanted; `at` is the uplink's own time."""

    site: str
    epoch: str
    seq: int
    missing: tuple[tuple[int, int], ...]
    at: str


@dataclass(frozen=True, slots=True)
class Release:
    """Acknowledge these deliveries to the broker."""

    deliveries: tuple[int, ...]


Effect: TypeAlias = Write | TellAcked | Release


@dataclass(slots=True)
class _Epoch:
    seq: int
    held: dict[int, BatchArrived] = field(default_factory=dict)
    at: str = ""

    def missing(self) -> tuple[tuple[int, int], ...]:
        """Ranges of `seq` between what is recorded and what is held."""
        ranges, wanted = [], self.seq + 1
        for seq in sorted(self.held):
            if seq > wanted:
                ranges.append((wanted, seq - 1))
            wanted = seq + 1
        return tuple(ranges)


@dataclass(slots=True)
class Recorder:
    """All sites' epochs. `handle` takes what came together and returns one write for it, then the answers.

    The caller carries the effects out in order; when a write fails, it makes it again before it goes on.
    """

    duplicates: int = 0
    _epochs: dict[tuple[str, str], _Epoch] = field(default_factory=dict)

    def knows(self, site: str, epoch: str) -> bool:
        """Whether EpochMet has told of this epoch."""
        return (site, epoch) in self._epochs

    def handle(self, events: Iterable[Event]) -> list[Effect]:
        """Apply events and return what the world should do about them."""
        touched: dict[tuple[str, str], _Epoch] = {}
        released: list[int] = []
        for event in events:
            match event:
                case EpochMet(site, epoch, seq):
                    self._epochs.setdefault((site, epoch), _Epoch(seq))
                case BatchArrived(batch, _):
                    key = batch.site, batch.epoch
                    touched[key] = self._epochs[key]
                    released += self._take(self._epochs[key], event)
                case _:
                    assert_never(event)
        ready = [arrived for epoch in touched.values() for arrived in _contiguous(epoch)]
        released += [arrived.delivery for arrived in ready]
        return _effects(ready, touched, released)

    def _take(self, epoch: _Epoch, arrived: BatchArrived) -> list[int]:
        """Hold a batch, and return the deliveries that need no writing."""
        epoch.at = max(epoch.at, arrived.batch.at)
        seq = arrived.batch.seq
        if seq <= epoch.seq:
            self.duplicates += 1
            return [arrived.delivery]
        if seq in epoch.held:
            self.duplicates += 1
            earlier, epoch.held[seq] = epoch.held[seq], arrived
            return [earlier.delivery]
        if seq > epoch.seq + HELD_AT_MOST:
            return [arrived.delivery]  # not held: the edge sends it again, as it is not acked
        epoch.held[seq] = arrived
        return []


def _contiguous(epoch: _Epoch) -> list[BatchArrived]:
    """Take the batches out of `epoch` that continue it."""
    ready = []
    while epoch.seq + 1 in epoch.held:
        epoch.seq += 1
        ready.append(epoch.held.pop(epoch.seq))
    return ready


def _effects(ready: list[BatchArrived], touched: dict[tuple[str, str], _Epoch], released: list[int]) -> list[Effect]:
    effects: list[Effect] = []
    if ready:
        effects.append(Write(tuple(arrived.batch for arrived in ready)))
    for (site, name), epoch in touched.items():
        effects.append(TellAcked(site, name, epoch.seq, epoch.missing(), epoch.at))
    if released:
        effects.append(Release(tuple(released)))
    return effects
