"""The running central side: messages in, record, drift, trainings and rollout, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from central.asking import RestoreDesk
from central.delivery import Delivery, Unkept
from central.intake import Intake, Pause
from central.oversight import Oversight
from central.rollout_events import Heard, ReportArrived, SiteSeen
from central.stalls import Stall
from central.telemetry import CentralMetrics
from shared.clock import wall_now
from shared.errors import MessageRefused
from shared.messages import Reported, Status
from shared.mqtt import Connection, Incoming
from shared.topics import SiteTopics, site_of

log = logging.getLogger(__name__)

CLIENT_ID: Final = "metercast-central"
MESSAGES_AT_ONCE: Final = 512
TICK_S: Final = 1.0  # how often trainings, triggers, orders and the rollout are looked at
SITES_AT_MOST: Final = 10_000
TOLD_AT_MOST: Final = 20_000  # edges' processes that are remembered as told how far their epoch is
LONGEST_NAME: Final = 64
LINGER_S: Final = 0.15  # what comes within this goes into one commit
IDLE_S: Final = 0.5  # waited for a first message
BUSY_S: Final = 0.05  # as long, while sites wait to be told something


def filters(root: str) -> list[str]:
    """The topic filters central subscribes to."""
    return [f"{root}/+/uplink", *retained(root)]


def retained(root: str) -> list[str]:
    """Those of them the broker keeps the last word of, and sends again to whoever subscribes again."""
    return [f"{root}/+/status", f"{root}/+/models/reported"]


class Central:
    """One loop that owns everything; nothing here is touched by another thread.

    Invariants: of sites that come and go without end, no more than SITES_AT_MOST are known to any part; a disk that is
    full, or a record that does not answer, ends nothing here: what cannot be done is tried again (ADR 27).
    """

    def __init__(
        self,
        *,
        root: str,
        connection: Connection,
        intake: Intake,
        oversight: Oversight,
        delivery: Delivery,
        restores: RestoreDesk,
        metrics: CentralMetrics,
    ) -> None:
        self._root = root
        self._connection = connection
        self._intake = intake
        self._oversight = oversight
        self._delivery = delivery
        self._restores = restores
        self._told: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._heard: list[SiteSeen | ReportArrived] = []
        self._new: set[str] = set()  # sites that are not in the rollout's state yet
        self._missed = False  # what sites said could not be kept: the broker is to say it again
        self._looking = Stall("work folder", metrics.stalled)
        self._looked_s = -TICK_S

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self.step(self._gather(), stop)

    def step(self, messages: Sequence[Incoming], stop: threading.Event) -> None:
        """Take what came together, and do what is due."""
        wall, pause = wall_now(), partial(self._pause, stop)
        self._new.difference_update(self._delivery.sites)
        uplink: list[Incoming] = []
        others: list[Incoming] = []
        for message in filter(self._admits, messages):
            (uplink if message.topic.endswith("/uplink") else others).append(message)
        for message in others:
            self._hear(message, wall, pause)
        if uplink:
            written = self._intake.take(uplink, wall, pause)
            self._heard += [SiteSeen(site) for site in {b.site for recorded in written for b in recorded.batches}]
            for recorded in written:
                self._oversight.take(recorded, wall)
        self._roll_out(wall)
        self._connection.acknowledge(others)
        self._restores.tick(time.monotonic())
        self._look(wall)

    def _look(self, wall: datetime) -> None:
        """Do what is due, which may be nothing."""
        self._delivery.go_on(wall)
        if time.monotonic() - self._looked_s < TICK_S:
            return
        self._looked_s = time.monotonic()
        try:
            self._oversight.tick(wall)
        except OSError as error:  # of a file that nobody expected it of: no reason to stop recording
            self._looking.failed(str(error), time.monotonic())
        else:
            self._looking.passed()
        if self._missed and self._delivery.is_kept:
            self._missed = False
            for name in retained(self._root):
                self._connection.subscribe(name)

    def _pause(self, stop: threading.Event, seconds: float) -> bool:
        """Wait for the record, and do what is due meanwhile: a person may have to stop a rollout. Whether to stop."""
        until_s = time.monotonic() + seconds
        while not stop.wait(max(0.0, min(TICK_S, until_s - time.monotonic()))):
            if time.monotonic() >= until_s:
                return False
            self._look(wall_now())
        return True

    def _hear(self, message: Incoming, wall: datetime, pause: Pause) -> None:
        """Take a status or a report; one that cannot be read is logged and forgotten."""
        site = site_of(self._root, message.topic)
        if site is None or not message.payload:
            return
        try:
            if message.topic == SiteTopics(self._root, site).reported:
                self._heard.append(ReportArrived(site, Reported.decode(message.payload, message.topic)))
            else:
                status = Status.decode(message.payload, message.topic)
                self._heard.append(SiteSeen(site))
                self._answer(site, status, wall, pause)
        except MessageRefused as error:
            log.warning("not understood: %s", error)

    def _admits(self, message: Incoming) -> bool:
        """Whether its site is known, or there is room for one more; else the message is answered and done with."""
        site, known = site_of(self._root, message.topic), self._delivery.sites
        if site is None or site in known or site in self._new:
            return True
        if len(known) + len(self._new) < SITES_AT_MOST:
            self._new.add(site)
            return True
        self._intake.refuse(message, f"{message.topic}: central knows {SITES_AT_MOST} sites already")
        return False

    def _answer(self, site: str, status: Status, wall: datetime, pause: Pause) -> None:
        """Give an edge what it asks for, and tell each process of one how far its epoch is in the record.

        It may run on an old image of its disk, and sends no new number before it knows. While batches wait there it is
        told again: the answer may have been lost.
        """
        if not all(1 <= len(name) <= LONGEST_NAME for name in (status.instance, status.epoch)):
            return
        self._restores.hear(site, status)
        who = (site, status.instance, status.epoch)
        if status.state == "offline" or (who in self._told and not status.outbox):
            return
        self._told[who] = None
        if len(self._told) > TOLD_AT_MOST:
            self._told.popitem(last=False)
        self._intake.tell_how_far(site, status.epoch, wall, pause)

    def _roll_out(self, wall: datetime) -> None:
        """Tell the rollout what sites said, in one go; what it cannot keep is asked for again once it can."""
        heard, self._heard = tuple(self._heard), []
        if not heard:
            return
        try:
            self._delivery.handle(Heard(heard), wall=wall, event_us=self._oversight.now_us(wall))
        except Unkept:
            self._missed = True

    def _gather(self) -> list[Incoming]:
        """What comes within LINGER_S of the first message, at most MESSAGES_AT_ONCE."""
        messages = self._connection.receive(MESSAGES_AT_ONCE, timeout_s=BUSY_S if self._delivery.waiting else IDLE_S)
        until = time.monotonic() + LINGER_S
        while messages and len(messages) < MESSAGES_AT_ONCE and (left := until - time.monotonic()) > 0:
            messages += self._connection.receive(MESSAGES_AT_ONCE - len(messages), timeout_s=left)
        return messages
