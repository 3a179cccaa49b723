"""The ledger's state machine: which batch of which epoch is next, what to write, what to tell the edge.

Invariants:
- Batches of one epoch are written in the order of `seq`, each once. A number is passed over only when a gap that is
  written with it stands for it; a batch that is held inside a gap is written all the same.
- What is held is bounded for each epoch and in all, and so are the epochs that are remembered: those heard of longest
  ago are let go of. Nothing is lost by that, as the record knows how far an epoch is, and an edge sends again what is
  not acked.
- A delivery is released to the broker only after its batch is written, or when it needs no writing.
- Whatever arrives about an epoch, its edge is told afterwards how far the record is and what is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

from central.gaps import first_seq
from shared.messages import Uplink

HELD_AT_MOST: Final = 64
HELD_IN_ALL: Final = 512
HELD_BYTES_IN_ALL: Final = 64 * 1024 * 1024
EPOCHS_OF_A_SITE: Final = 8
EPOCHS_IN_ALL: Final = 4096


@dataclass(frozen=True, slots=True)
class EpochMet:
    """The record holds batches 1 … `seq` of an epoch; comes before anything else of it."""

    site: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """A batch of `size_bytes` of JSON came as delivery number `delivery` of this process."""

    batch: Uplink
    delivery: int
    size_bytes: int = 0

    @property
    def first(self) -> int:
        """The first number it stands for."""
        return first_seq(self.batch)


@dataclass(frozen=True, slots=True)
class EdgeAsked:
    """An edge wants to be told how far its epoch is."""

    site: str
    epoch: str


Event: TypeAlias = EpochMet | BatchArrived | EdgeAsked


@dataclass(frozen=True, slots=True)
class Write:
    """Commit these batches, in this order, in one go."""

    batches: tuple[Uplink, ...]


@dataclass(frozen=True, slots=True)
class TellAcked:
    """Tell the edge: all up to `seq` is in the record, `missing` ranges are wanted.

    `at` is the uplink's own time, empty before its first batch.
    """

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
    """`too_early` is the nearest beginning of what came too early to be held since the last answer."""

    seq: int
    held: dict[int, BatchArrived] = field(default_factory=dict)
    at: str = ""
    too_early: int | None = None

    def has(self, seq: int) -> bool:
        """Whether a batch of this number is recorded or held."""
        return seq <= self.seq or seq in self.held

    def take(self, arrived: BatchArrived) -> BatchArrived | None:
        """Hold a batch; returns the one that needs no writing, be it this one or what it takes the place of."""
        self.at = max(self.at, arrived.batch.at)
        same = self.held.get(arrived.batch.seq)
        if arrived.batch.seq <= self.seq or (same is not None and same.first < arrived.first):
            return arrived
        if same is None and not self._has_room(arrived.first):
            self.too_early = min(arrived.first, self.too_early or arrived.first)
            return arrived
        self.held[arrived.batch.seq] = arrived
        return same

    def _has_room(self, first: int) -> bool:
        continues = first <= self.seq + 1
        return continues or (first <= self.seq + HELD_AT_MOST and len(self.held) < HELD_AT_MOST)

    def contiguous(self) -> list[BatchArrived]:
        """Take out what continues the epoch, with all that is held inside of gaps."""
        reach = self.seq
        for seq in sorted(self.held):
            if self.held[seq].first <= reach + 1:
                reach = seq
        self.seq = reach
        return [self.held.pop(seq) for seq in sorted(self.held) if seq <= reach]

    def missing(self) -> tuple[tuple[int, int], ...]:
        """Ranges of `seq` that neither the record has nor a held batch stands for."""
        ranges, wanted = [], self.seq + 1
        spans = [(arrived.first, seq) for seq, arrived in self.held.items()]
        spans += [(self.too_early, self.too_early)] if self.too_early is not None else []
        for first, last in sorted(spans):
            if first > wanted:
                ranges.append((wanted, first - 1))
            wanted = max(wanted, last + 1)
        return tuple(ranges)


@dataclass(slots=True)
class Recorder:
    """All sites' epochs. `handle` takes what came together and returns one write for it, then the answers.

    The caller carries the effects out in order; when a write fails, it makes it again before it goes on. What is held
    is never acknowledged to the broker, so `held_in_all` must stay well below the broker's window.
    """

    held_in_all: int = HELD_IN_ALL
    duplicates: int = 0
    _epochs: OrderedDict[tuple[str, str], _Epoch] = field(default_factory=OrderedDict)

    def knows(self, site: str, epoch: str) -> bool:
        """Whether EpochMet has told of this epoch, and it was not let go of since."""
        return (site, epoch) in self._epochs

    @property
    def epochs(self) -> int:
        """How many are remembered."""
        return len(self._epochs)

    @property
    def held(self) -> int:
        """How many batches wait for earlier ones."""
        return sum(len(epoch.held) for epoch in self._epochs.values())

    def handle(self, events: Iterable[Event]) -> list[Effect]:
        """Apply events and return what the world should do about them."""
        touched: dict[tuple[str, str], _Epoch] = {}
        met: set[str] = set()
        ready: list[BatchArrived] = []
        released: list[int] = []
        for event in events:
            match event:
                case EpochMet(site, epoch, seq):
                    met.add(site)
                    self._epochs.setdefault((site, epoch), _Epoch(seq))
                case BatchArrived(batch, _):
                    touched[batch.site, batch.epoch] = self._touch(batch.site, batch.epoch)
                    released += self._take(event)
                    ready += touched[batch.site, batch.epoch].contiguous()
                case EdgeAsked(site, epoch):
                    touched[site, epoch] = self._touch(site, epoch)
                case _:
                    assert_never(event)
        released += [arrived.delivery for arrived in ready]
        released += self._let_go(met)
        return _effects(ready, touched, released)

    def _touch(self, site: str, epoch: str) -> _Epoch:
        self._epochs.move_to_end((site, epoch))
        return self._epochs[site, epoch]

    def _take(self, arrived: BatchArrived) -> list[int]:
        """Hold a batch, and return the deliveries that need no writing."""
        epoch = self._epochs[arrived.batch.site, arrived.batch.epoch]
        self.duplicates += epoch.has(arrived.batch.seq)
        needless = epoch.take(arrived)
        return [] if needless is None else [needless.delivery]

    def _let_go(self, met: set[str]) -> list[int]:
        """Return to within all bounds, the longest unheard of first; returns the deliveries no longer held."""
        released: list[int] = []
        of_sites: dict[str, list[tuple[str, str]]] = {site: [] for site in met}
        for key in self._epochs if met else ():
            of_sites.get(key[0], []).append(key)
        for own in of_sites.values():
            for key in own[: max(0, len(own) - EPOCHS_OF_A_SITE)]:
                released += _deliveries(self._epochs.pop(key))
        while len(self._epochs) > EPOCHS_IN_ALL:
            released += _deliveries(self._epochs.popitem(last=False)[1])
        return released + self._held_beyond()

    def _held_beyond(self) -> list[int]:
        """Let go of what is held beyond the bounds, of each epoch the latest numbers first."""
        held = [(epoch, seq) for epoch in self._epochs.values() for seq in sorted(epoch.held, reverse=True)]
        size_bytes = sum(epoch.held[seq].size_bytes for epoch, seq in held)
        released: list[int] = []
        for count, (epoch, seq) in enumerate(held):
            if len(held) - count <= self.held_in_all and size_bytes <= HELD_BYTES_IN_ALL:
                break
            arrived = epoch.held.pop(seq)
            size_bytes -= arrived.size_bytes
            released.append(arrived.delivery)
        return released


def _deliveries(epoch: _Epoch) -> list[int]:
    return [arrived.delivery for arrived in epoch.held.values()]


def _effects(ready: list[BatchArrived], touched: dict[tuple[str, str], _Epoch], released: list[int]) -> list[Effect]:
    effects: list[Effect] = []
    if ready:
        effects.append(Write(tuple(arrived.batch for arrived in ready)))
    for (site, name), epoch in touched.items():
        effects.append(TellAcked(site, name, epoch.seq, epoch.missing(), epoch.at))
        epoch.too_early = None
    if released:
        effects.append(Release(tuple(released)))
    return effects
