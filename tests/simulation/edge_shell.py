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
from typing import Final, Literal

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
    GapMade,
    HistoryArrived,
    MakeGap,
    NumbersInDoubt,
    Publish,
    ReadingsArrived,
    RenewEpoch,
    Tick,
)
from edge.incumbent import another_lived
from edge.meters import NO_INSTANT
from edge.node import Node
from edge.outbox import is_sound
from edge.salvage import DATABASE
from edge.store import Store
from shared import __version__
from shared.clock import SECOND_US, iso
from shared.errors import MessageRefused, StateDamaged, StateError
from shared.memory import MemoryBroker, MemoryConnection, MemoryDelivery
from shared.messages import Status, Uplink
from shared.mqtt import Incoming, Will
from shared.params import Params
from shared.topics import SiteTopics

STATUS_EVERY_S: Final = 10.0
TELLING_EVERY_US: Final = 5 * 60 * SECOND_US
ROOM_PAGES: Final = 1_073_741_823  # as many as SQLite would take


class Moment(Enum):
    """What an edge has just done."""

    HANDLED = auto()
    COMMITTED = auto()
    RENEWED = auto()
    GAPPED = auto()
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

    def __init__(
        self, params: Params, disk: Disk, broker: MemoryBroker, clock: Clock, *, instance: str = "only"
    ) -> None:
        self.params = params
        self.clock = clock
        self.folder = disk.folder
        self.disk = disk
        self.topics = SiteTopics(params.mqtt.root, params.site)
        self.store = Store(disk.folder, iso(clock.wall_us))
        self.node: Node = build_node(params, self.store, ArtifactFolder(disk.folder / "models"))
        self.connection = MemoryConnection(
            broker,
            client_id=f"metercast-edge-{params.site}",
            filters=[self.topics.readings, self.topics.backfills, self.topics.acked],
            will=Will(self.topics.status, self._status_of("offline", instance, clock)),
            receive_maximum=40,
        )
        self.torn_from: int | None = None
        self.gap: tuple[int, int] | None = None
        self.stuck = False  # in a commit that it tries again: its clock goes on
        self._instance = instance
        self._started_at = iso(clock.wall_us)
        self._connects = 0
        self._connected_at_s = 0.0
        self._status_due_s = 0.0
        self._unconfirmed: deque[tuple[MemoryDelivery, tuple[int, int]]] = deque()

    def _status_of(self, state: Literal["online", "offline"], instance: str, clock: Clock) -> bytes:
        status = self.node.status(instance=instance, started_at=iso(clock.wall_us), version=__version__)
        status.state = state
        return status.encode()

    def begin(self, left: bytes) -> Iterator[Moment]:
        """Look at the status that the last life left behind, and make the disk know of this one."""
        self.hear_clock()
        try:
            status = Status.decode(left, self.topics.status)
        except MessageRefused:
            status = None
        if another_lived(status, last_instance=self.store.facts.get("instance", "")):
            yield from self._handle(NumbersInDoubt())
        yield from self._commit(Changes(facts={"instance": self._instance}))

    # -- what happens to it ----------------------------------------------------------------------------------------

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

    def hear_clock(self) -> None:
        """The wall clock is read: after a jump at once, before time passes on from there."""
        self.node.clock.tell(self.clock.wall_us)

    def let_pass(self, until_us: int) -> None:
        """Time passes while it has nothing to do, and it is told so, as its loop is several times a second."""
        told = self.node.clock
        if told.wall_us != NO_INSTANT:
            for wall_us in range(told.wall_us + TELLING_EVERY_US, until_us, TELLING_EVERY_US):
                told.tell(wall_us)

    # -- what can be seen of it ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """The epoch its ledger is in."""
        return self.node.uplink.epoch

    def now_us(self) -> int:
        """What it holds to be now."""
        return self.node.clock.now_us

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

    # -- what it does ----------------------------------------------------------------------------------------------

    def turn(self, limit: int) -> Iterator[Moment]:
        """One pass of the loop: take up to `limit` messages, commit, acknowledge, forecast, send."""
        messages = self.connection.receive(limit)
        readings = [message for message in messages if self.topics.meter_of(message.topic) is not None]
        if readings:
            yield from self._handle(ReadingsArrived(tuple(map(_raw, readings))))
        history = [message for message in messages if self.topics.backfilled_meter_of(message.topic) is not None]
        if history:
            yield from self._handle(HistoryArrived(tuple(map(_raw, history))))
        for message in messages:
            if message.topic == self.topics.acked:
                yield from self._handle(AckedArrived(message.topic, message.payload, live=not message.retain))
        yield from self._acknowledge(messages)
        yield from self._confirm()
        yield from self._handle(Tick(caught_up=self.connection.connected and not self.connection.waiting))
        yield from self._pump_uplink()
        self._say_status()

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
            case MakeGap():
                yield from self._make_gap(effect)
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
            except StateDamaged:
                raise
            except StateError:
                self.stuck = True
                yield Moment.STUCK
        self.stuck = False
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

    def _make_gap(self, effect: MakeGap) -> Iterator[Moment]:
        try:
            size = self.store.make_gap(
                effect.first, effect.last, site=self.params.site, reason=effect.reason, at_us=effect.at_us
            )
        except StateError:
            yield Moment.STUCK
            return
        self.gap = effect.first, effect.last
        yield Moment.GAPPED
        yield from self._handle(GapMade(effect.first, effect.last, size))

    def _confirm(self) -> Iterator[Moment]:
        confirmed = []
        while self._unconfirmed and self._unconfirmed[0][0].done:
            confirmed.append(self._unconfirmed.popleft()[1])
        if confirmed:
            yield from self._handle(ForecastsConfirmed(tuple(confirmed)))

    def _pump_uplink(self) -> Iterator[Moment]:
        if not self.connection.connected:
            return
        if self.connection.connects != self._connects:
            self._connects, self._connected_at_s = self.connection.connects, self.clock.monotonic_s
        uplink = self.params.uplink
        if self.node.uplink.is_in_doubt(self.clock.monotonic_s - self._connected_at_s):
            yield from self._handle(NumbersInDoubt())
        due = self.node.uplink.due(
            self.clock.monotonic_s, window=uplink.window, resend_after_s=uplink.resend_after.total_seconds()
        )
        for seq in due:
            body = self.store.outbox_body(seq)
            if body is not None:
                require_sound = self.node.uplink.is_of_earlier_process(seq)
                assert not require_sound or is_sound(body), "no disk here spoils what it holds"
                self.connection.publish(self.topics.uplink, body)
                yield Moment.PUBLISHED

    def _say_status(self) -> None:
        if self.connection.connected and self.clock.monotonic_s >= self._status_due_s:
            self._status_due_s = self.clock.monotonic_s + STATUS_EVERY_S
            status = self.node.status(instance=self._instance, started_at=self._started_at, version=__version__)
            self.connection.publish(self.topics.status, status.encode(), retain=True)


def _raw(m: Incoming) -> Incoming:
    return Incoming(m.topic, m.payload, m.size, retain=m.retain, mid=m.mid, dup=m.dup)


def deliver_cleanly(
    process: EdgeProcess, batches: list[tuple[int, list[tuple[str, bytes]]]], read: Callable[[Moment], None]
) -> None:
    """Hand (wall_us, [(meter, payload)]) to an edge one after the other, with nothing going wrong."""
    for wall_us, messages in batches:
        process.let_pass(wall_us)
        process.clock.wall_us = wall_us
        raw = tuple(Incoming(process.topics.reading(meter), payload, len(payload)) for meter, payload in messages)
        for moment in process._handle(ReadingsArrived(raw)):
            read(moment)
