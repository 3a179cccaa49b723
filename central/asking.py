"""Edges that ask for what the record knows of them: told apart by their status, answered aside.

Invariants: an edge is answered once for an epoch, and again only when it still asks after a while that doubles each
time; one answer is under way at once, in a thread that touches nothing but its own reader of the record and the
connection; recording never waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.errors import MetercastError
from shared.messages import RESTORE_WANTED, Restore, Status
from shared.mqtt import Connection
from shared.topics import SiteTopics

log = logging.getLogger(__name__)

AGAIN_AFTER_S: Final = 60.0
DOUBLINGS_AT_MOST: Final = 6
SITES_AT_MOST: Final = 1024  # that ask at once; others are heard when they say so again
DELIVERED_WITHIN_S: Final = 60.0

Answer = Callable[[str, str], Iterator[Restore]]


@dataclass(slots=True)
class _Edge:
    epoch: str
    answers: int = 0
    answered_s: float = 0.0

    def is_due(self, monotonic_s: float) -> bool:
        """Whether it was not answered, or asks long after it was."""
        wait_s = AGAIN_AFTER_S * (1 << min(self.answers - 1, DOUBLINGS_AT_MOST)) if self.answers else 0.0
        return not self.answers or monotonic_s - self.answered_s >= wait_s


@dataclass(slots=True)
class Asking:
    """Which sites' edges ask for closed intervals, and when they were answered."""

    _edges: dict[str, _Edge] = field(default_factory=dict)

    def hear(self, site: str, status: Status) -> None:
        """Take what a site's status says: it asks, or asks no longer."""
        if status.state == "offline" or RESTORE_WANTED not in status.reasons:
            self._edges.pop(site, None)
        elif site in self._edges and self._edges[site].epoch == status.epoch:
            return
        elif site in self._edges or len(self._edges) < SITES_AT_MOST:
            self._edges[site] = _Edge(status.epoch)

    def due(self, monotonic_s: float) -> tuple[str, str] | None:
        """The (site, epoch) to answer now, those answered least often first."""
        due = [(edge.answers, site) for site, edge in self._edges.items() if edge.is_due(monotonic_s)]
        site = min(due)[1] if due else None
        return None if site is None else (site, self._edges[site].epoch)

    def answered(self, site: str, epoch: str, monotonic_s: float) -> None:
        """An answer was given, or could not be."""
        edge = self._edges.get(site)
        if edge is not None and edge.epoch == epoch:
            edge.answers += 1
            edge.answered_s = monotonic_s


class RestoreDesk:
    """Answers on `{site}/restore`, one edge after the other, part by part as the broker takes them."""

    def __init__(self, answer: Answer, connection: Connection, *, root: str) -> None:
        self._answer = answer
        self._connection = connection
        self._root = root
        self._asking = Asking()
        self._stop = threading.Event()
        self._at_work: tuple[threading.Thread, str, str] | None = None

    def hear(self, site: str, status: Status) -> None:
        """Take a site's status."""
        self._asking.hear(site, status)

    def tick(self, monotonic_s: float) -> None:
        """Note an answer that has ended, and begin the next that is due."""
        if self._at_work is not None:
            thread, site, epoch = self._at_work
            if thread.is_alive():
                return
            self._asking.answered(site, epoch, monotonic_s)
            self._at_work = None
        due = self._asking.due(monotonic_s)
        if due is not None:
            thread = threading.Thread(target=self._work, args=due, name="restore", daemon=True)
            self._at_work = (thread, *due)
            thread.start()

    def stop(self) -> None:
        """Leave off what is under way."""
        self._stop.set()
        if self._at_work is not None:
            self._at_work[0].join(DELIVERED_WITHIN_S)

    def _work(self, site: str, epoch: str) -> None:
        topic = SiteTopics(self._root, site).restore
        meters = 0
        try:
            for part in self._answer(site, epoch):
                if not self._delivered(topic, part.compress()):
                    log.warning("restore left off", extra={"site": site, "part": part.part, "parts": part.parts})
                    return
                meters += len(part.meters)
        except MetercastError as error:
            log.error("restore not answered", extra={"site": site, "reason": str(error)})
            return
        log.info("restore answered", extra={"site": site, "epoch": epoch, "meters": meters})

    def _delivered(self, topic: str, payload: bytes) -> bool:
        """Publish, and wait for the broker, so that what it has not taken does not pile up here."""
        delivery = self._connection.publish(topic, payload)
        for _ in range(int(DELIVERED_WITHIN_S / 0.01)):
            if delivery.done:
                return True
            if delivery.refused or self._stop.wait(0.01):
                return False
        return False
