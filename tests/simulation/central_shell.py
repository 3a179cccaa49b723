"""The shell of a simulated central side: the real recorder over a record in memory.

The record keeps what a Delta commit keeps: the rows of one table and its ledger, together or not at all; side tables
first, `readings` last, each skipping what its own ledger already holds (as `central.record.Record.append`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from central.intake import read_batch
from central.recorder import BatchArrived, EdgeAsked, EpochMet, Event, Recorder, Release, TellAcked, Write
from shared.errors import MessageRefused
from shared.memory import MemoryBroker, MemoryConnection
from shared.messages import Acked, Status, Uplink
from shared.mqtt import Incoming
from shared.topics import SiteTopics, site_of

TABLES: Final = ("dead_letters", "scores", "events", "other", "readings")


class Moment(Enum):
    """What central has just done."""

    RECORDED = auto()
    ANSWERED = auto()
    RELEASED = auto()


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one kind in one recorded batch."""

    site: str
    epoch: str
    seq: int
    kind: str
    columns: dict[str, list[Any]]


@dataclass(slots=True)
class ModelRecord:
    """Tables of rows, each with the highest `seq` of every epoch it holds."""

    tables: dict[str, list[Rows]] = field(default_factory=lambda: {name: [] for name in TABLES})
    ledgers: dict[str, dict[tuple[str, str], int]] = field(default_factory=lambda: {name: {} for name in TABLES})

    def recorded_seq(self, site: str, epoch: str) -> int:
        """The highest batch of an epoch in the record, 0 when there is none."""
        return self.ledgers["readings"].get((site, epoch), 0)

    def append(self, batches: Sequence[Uplink]) -> Iterator[str]:
        """Commit one table after the other, yielding the name of each when it is committed."""
        for name in TABLES:
            ledger = self.ledgers[name]
            fresh = [batch for batch in batches if batch.seq > ledger.get((batch.site, batch.epoch), 0)]
            for batch in fresh:
                self.tables[name] += [rows for rows in _rows(batch) if _table_of(rows.kind) == name]
                ledger[batch.site, batch.epoch] = batch.seq
            yield name

    def copy(self) -> ModelRecord:
        """The record as it is now, to go back to."""
        tables = {name: list(rows) for name, rows in self.tables.items()}
        return ModelRecord(tables, {name: dict(ledger) for name, ledger in self.ledgers.items()})


def _rows(batch: Uplink) -> Iterator[Rows]:
    for kind, columns in batch.kinds.items():
        yield Rows(batch.site, batch.epoch, batch.seq, kind, columns)


def _table_of(kind: str) -> str:
    return kind if kind in TABLES else "other"


class CentralProcess:
    """One life of central, from start to kill."""

    def __init__(self, root: str, record: ModelRecord, broker: MemoryBroker, *, now: Callable[[], str]) -> None:
        self.root = root
        self.now = now
        self.record = record
        self.recorder = Recorder()
        self.written: list[Uplink] = []
        self.refused = 0
        self.connection = MemoryConnection(
            broker, client_id="metercast-central", filters=[f"{root}/+/uplink", f"{root}/+/status"], receive_maximum=100
        )
        self._told: set[tuple[str, str, str]] = set()
        self._deliveries: dict[int, Incoming] = {}
        self._delivered = 0

    def kill(self) -> None:
        """End without a goodbye."""
        self.connection.cut()

    def turn(self, limit: int) -> Iterator[Moment]:
        """One pass of the loop: take up to `limit` batches, record, answer, release."""
        events = [event for message in self.connection.receive(limit) for event in self._events(message)]
        for effect in self.recorder.handle(events):
            match effect:
                case Write(batches):
                    yield from self._write(batches)
                case TellAcked(site, epoch, seq, missing, _at):
                    answer = Acked(epoch=epoch, seq=seq, missing=list(missing), at=self.now())
                    self.connection.publish(SiteTopics(self.root, site).acked, answer.encode(), retain=True)
                    yield Moment.ANSWERED
                case Release(deliveries):
                    self.connection.acknowledge([self._deliveries.pop(number) for number in deliveries])
                    yield Moment.RELEASED

    def _write(self, batches: tuple[Uplink, ...]) -> Iterator[Moment]:
        for name in self.record.append(batches):
            if name == "readings":
                self.written += batches
            yield Moment.RECORDED

    def _events(self, message: Incoming) -> Iterator[Event]:
        if message.topic.endswith("/status"):
            yield from self._asked(message)
            self.connection.acknowledge([message])
            return
        try:
            batch = read_batch(self.root, message)
        except MessageRefused:
            self.refused += 1
            self.connection.acknowledge([message])
            return
        yield from self._met(batch.site, batch.epoch)
        self._delivered += 1
        self._deliveries[self._delivered] = message
        yield BatchArrived(batch, self._delivered)

    def _met(self, site: str, epoch: str) -> Iterator[Event]:
        if not self.recorder.knows(site, epoch):
            yield EpochMet(site, epoch, self.record.recorded_seq(site, epoch))

    def _asked(self, message: Incoming) -> Iterator[Event]:
        """Each process of an edge is told, once for an epoch, how far that is."""
        try:
            status = Status.decode(message.payload, message.topic)
        except MessageRefused:
            return
        site = site_of(self.root, message.topic) or ""
        who = site, status.instance, status.epoch
        if status.state != "offline" and who not in self._told:
            self._told.add(who)
            yield from self._met(site, status.epoch)
            yield EdgeAsked(site, status.epoch)
