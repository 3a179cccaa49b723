"""The shell of a simulated edge: what `edge.runtime` is to the world, with an instant between any two effects.

All that the simulation knows of the edge's inside is in this module. A turn is a generator: it yields a Moment after
each thing it did, and whoever drives it may cut the connection, fill the disk, let time pass or never go on (a crash).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node
from edge.changes import Changes
from edge.effects import (
    AckedArrived,
    Commit,
    Effect,
    EpochRenewed,
    Event,
    ForecastsConfirmed,
    Publish,
    RawMessage,
    ReadingsArrived,
    RenewEpoch,
    Tick,
)
from edge.node import Node
from edge.store import DATABASE, Store
from shared.errors import StateError
from shared.memory import MemoryBroker, MemoryConnection, MemoryDelivery
from shared.messages import Uplink
from shared.mqtt import Incoming, Will
from shared.params import Params
from shared.topics import SiteTopics

ROOM_PAGES: Final = 1_073_741_823  # as many as SQLite would take


class Moment(Enum):
    """What an edge has just done."""

    HANDLED = auto()
    COMMITTED = auto()
    RENEWED = auto()
    STUCK = auto()
    PUBLISHED = auto()
    ACKNOWLEDGED = auto()


@dataclass(slots=True)
class Clock:
    """What an edge reads off its clocks; whoever drives it moves them."""

    wall_us: int
    monotonic_s: float = 0.0


class Disk:
    """The folder of an edge through crashes, loss and images: after each it is another folder."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._number = 0
        self._images = 0
        self.folder.mkdir(parents=True)

    @property
    def folder(self) -> Path:
        """Where the state is now."""
        return self._base / str(self._number)

    def image(self) -> Path:
        """A copy of the folder as a power cut would leave it now."""
        self._images += 1
        image = self._base / f"image{self._images}"
        _copy(self.folder, image)
        return image

    def crash(self, *, torn_to: int | None = None) -> None:
        """Go on with what was on disk, before anything is closed; `torn_to` cuts the last write of the log short."""
        before = self.folder
        self._number += 1
        _copy(before, self.folder)
        if torn_to is not None:
            with _log(self.folder).open("r+b") as log:
                log.truncate(torn_to)

    def wipe(self) -> None:
        """Go on with nothing."""
        self._number += 1
        self.folder.mkdir()

    def restore(self, image: Path) -> None:
        """Go on with a copy of an earlier image."""
        self._number += 1
        _copy(image, self.folder)


def _log(folder: Path) -> Path:
    return folder / f"{DATABASE}-wal"


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(("-shm", "lock")):
            shutil.copyfile(path, target / path.name)


class EdgeProcess:
    """One life of an edge, from start to kill: a real node over a real store."""

    def __init__(self, params: Params, disk: Disk, broker: MemoryBroker, clock: Clock) -> None:
        self.params = params
        self.clock = clock
        self.folder = disk.folder
        self.disk = disk
        self.topics = SiteTopics(params.mqtt.root, params.site)
        self.store = Store(disk.folder)
        self.node: Node = build_node(params, self.store, ArtifactFolder(disk.folder / "models"))
        self.connection = MemoryConnection(
            broker,
            client_id=f"metercast-edge-{params.site}",
            filters=[self.topics.readings, self.topics.acked],
            will=Will(self.topics.status, b"offline"),
            receive_maximum=40,
        )
        self.torn_from: int | None = None
        self._unconfirmed: deque[tuple[MemoryDelivery, tuple[int, int]]] = deque()

    # -- what happens to it --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End without a goodbye; call `Disk.crash` first, as closing tidies the database."""
        self.connection.cut()
        self.store.close()

    def fill_disk(self) -> None:
        """From now on the database cannot grow."""
        database: sqlite3.Connection = self.store._db
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count={pages}")

    def torn_point(self, chance: Random) -> int:
        """Where the log may end when the machine stops amid the commit just made."""
        assert self.torn_from is not None
        return chance.randrange(self.torn_from, _log(self.folder).stat().st_size)

    def make_room(self) -> None:
        """The database can grow again."""
        self.store._db.execute(f"PRAGMA max_page_count={ROOM_PAGES}")

    # -- what can be seen of it ----------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The epoch its ledger is in."""
        return self.node.uplink.epoch

    def now_us(self) -> int:
        """What it holds to be now."""
        return self.node.now_us(self.clock.wall_us)

    def outbox(self) -> list[int]:
        """Numbers of the batches on disk."""
        return [seq for seq, _size in self.store.outbox_index()]

    def batch(self, seq: int) -> Uplink:
        """A batch on disk."""
        return Uplink.decompress(self.store.outbox_body(seq) or b"", f"outbox {seq}")

    def disk_facts(self) -> dict[str, str]:
        """The facts on disk."""
        return self.store.facts

    def meters(self) -> list[str]:
        """Every meter it knows."""
        return list(self.node.site.meters.by_name)

    def closed(self, meter: str) -> int:
        """Number of the meter's first interval that is not closed."""
        return int(self.node.site.window.closed[self.node.site.meters.by_name[meter].row])

    def loads_kw(self, meter: str, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The loads of closed intervals."""
        window = self.node.site.window
        loads: NDArray[np.float32] = window.load_kw[self.node.site.meters.by_name[meter].row, numbers % window.width]
        return loads

    def retired(self, meter: str) -> bool:
        """Whether the meter's forecast was cleared for its silence."""
        return bool(self.node.site.retired[self.node.site.meters.by_name[meter].row])

    # -- what it does --------------------------------------------------------------------------------------------

    def turn(self, limit: int, *, sending: bool = True) -> Iterator[Moment]:
        """One pass of the loop: take up to `limit` messages, commit, acknowledge, forecast, send."""
        messages = self.connection.receive(limit)
        readings = [message for message in messages if self.topics.meter_of(message.topic) is not None]
        if readings:
            yield from self._handle(ReadingsArrived(tuple(map(_raw, readings))))
        for message in messages:
            if message.topic == self.topics.acked:
                yield from self._handle(AckedArrived(message.topic, message.payload))
        yield from self._acknowledge(messages)
        yield from self._confirm()
        yield from self._handle(Tick(caught_up=self.connection.connected and not self.connection.waiting))
        if sending:
            yield from self._pump_uplink()

    def tick(self) -> Iterator[Moment]:
        """Close what is due, and begin to forecast."""
        yield from self._handle(Tick(caught_up=True))

    def tick_until_idle(self, at_most: int = 200) -> Iterator[Moment]:
        """Close and forecast whatever is due."""
        for _ in range(at_most):
            yield from self.tick()
            yield from self._confirm()
            if not self.node.busy:
                return

    def _acknowledge(self, messages: list[Incoming]) -> Iterator[Moment]:
        """In two parts: a connection may break between them."""
        middle = len(messages) // 2
        for part in (messages[:middle], messages[middle:]):
            if part:
                self.connection.acknowledge(part)
                yield Moment.ACKNOWLEDGED

    def _handle(self, event: Event) -> Iterator[Moment]:
        effects = self.node.handle(event, self.clock.wall_us)
        yield Moment.HANDLED
        for effect in effects:
            yield from self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> Iterator[Moment]:
        match effect:
            case Commit(changes):
                yield from self._commit(changes)
            case RenewEpoch(epoch):
                yield from self._renew(epoch)
            case Publish():
                delivery = self.connection.publish(effect.topic, effect.payload, retain=effect.retain)
                if effect.forecast is not None:
                    self._unconfirmed.append((delivery, effect.forecast))
                yield Moment.PUBLISHED
            case _:
                raise AssertionError(f"no model is in the simulation, yet the node asks for {effect}")

    def _commit(self, changes: Changes) -> Iterator[Moment]:
        log = _log(self.folder)
        before = log.stat().st_size if log.exists() else 0
        while True:
            try:
                self.store.commit(changes, self.node.site)
                break
            except StateError:
                yield Moment.STUCK
        self.torn_from = before if log.stat().st_size > before else None
        yield Moment.COMMITTED
        self.torn_from = None

    def _renew(self, epoch: str) -> Iterator[Moment]:
        try:
            waiting = tuple(self.store.renew_epoch(epoch))
        except StateError:
            yield Moment.STUCK
            return
        yield Moment.RENEWED
        yield from self._handle(EpochRenewed(epoch, waiting))

    def _confirm(self) -> Iterator[Moment]:
        confirmed = []
        while self._unconfirmed and self._unconfirmed[0][0].done:
            confirmed.append(self._unconfirmed.popleft()[1])
        if confirmed:
            yield from self._handle(ForecastsConfirmed(tuple(confirmed)))

    def _pump_uplink(self) -> Iterator[Moment]:
        if not self.connection.connected:
            return
        uplink = self.params.uplink
        due = self.node.uplink.due(
            self.clock.monotonic_s, window=uplink.window, resend_after_s=uplink.resend_after.total_seconds()
        )
        for body in [self.store.outbox_body(seq) for seq in due]:
            if body is not None:
                self.connection.publish(self.topics.uplink, body)
                yield Moment.PUBLISHED


def _raw(m: Incoming) -> RawMessage:
    return RawMessage(m.topic, m.payload, m.size, retain=m.retain, mid=m.mid, dup=m.dup)


def deliver_cleanly(
    process: EdgeProcess, batches: list[tuple[int, list[tuple[str, bytes]]]], read: Callable[[Moment], None]
) -> None:
    """Hand (wall_us, [(meter, payload)]) to an edge one after the other, with nothing going wrong."""
    for wall_us, messages in batches:
        process.clock.wall_us = wall_us
        raw = tuple(RawMessage(process.topics.reading(meter), payload, len(payload)) for meter, payload in messages)
        for moment in process._handle(ReadingsArrived(raw)):
            read(moment)
