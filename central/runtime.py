"""The running central side: messages in, record, drift, trainings and rollout, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from central.asking import RestoreDesk
from central.delivery import Delivery
from central.intake import Intake
from central.oversight import Oversight
from central.rollout_events import Event, ReportArrived, SiteSeen
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


def filters(root: str) -> list[str]:
    """The topic filters central subscribes to."""
    return [f"{root}/+/uplink", f"{root}/+/status", f"{root}/+/models/reported"]


class Central:
    """One loop that owns everything; nothing here is touched by another thread.

    Invariant: of sites that come and go without end, no more than SITES_AT_MOST are known to any part.
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
    ) -> None:
        self._root = root
        self._connection = connection
        self._intake = intake
        self._oversight = oversight
        self._delivery = delivery
        self._restores = restores
        self._told: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._ticked_s = -TICK_S

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self.step(self._gather(), stop)

    def step(self, messages: Sequence[Incoming], stop: threading.Event) -> None:
        """Take what came together, and do what is due."""
        wall = wall_now()
        uplink: list[Incoming] = []
        others: list[Incoming] = []
        for message in filter(self._admits, messages):
            (uplink if message.topic.endswith("/uplink") else others).append(message)
        for message in others:
            self._hear(message, wall, stop)
        self._connection.acknowledge(others)
        if uplink:
            written = self._intake.take(uplink, wall, stop)
            for site in {batch.site for recorded in written for batch in recorded.batches}:
                self._roll_out(SiteSeen(site), wall)
            for recorded in written:
                self._oversight.take(recorded, wall)
        self._restores.tick(time.monotonic())
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._ticked_s = time.monotonic()
            self._delivery.refresh_when_due(wall=wall, event_us=self._oversight.now_us(wall))
            self._oversight.tick(wall)

    def _hear(self, message: Incoming, wall: datetime, stop: threading.Event) -> None:
        """Take a status or a report; one that cannot be read is logged and forgotten."""
        site = site_of(self._root, message.topic)
        if site is None or not message.payload:
            return
        try:
            if message.topic == SiteTopics(self._root, site).reported:
                self._roll_out(ReportArrived(site, Reported.decode(message.payload, message.topic)), wall)
            else:
                status = Status.decode(message.payload, message.topic)
                self._roll_out(SiteSeen(site), wall)
                self._answer(site, status, wall, stop)
        except MessageRefused as error:
            log.warning("not understood: %s", error)

    def _admits(self, message: Incoming) -> bool:
        """Whether its site is known, or there is room for one more; else the message is answered and done with."""
        site, known = site_of(self._root, message.topic), self._delivery.sites
        if site is None or site in known or len(known) < SITES_AT_MOST:
            return True
        self._intake.refuse(message, f"{message.topic}: central knows {SITES_AT_MOST} sites already")
        return False

    def _answer(self, site: str, status: Status, wall: datetime, stop: threading.Event) -> None:
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
        self._intake.tell_how_far(site, status.epoch, wall, stop)

    def _roll_out(self, event: Event, wall: datetime) -> None:
        self._delivery.handle(event, wall=wall, event_us=self._oversight.now_us(wall))

    def _gather(self) -> list[Incoming]:
        """What comes within LINGER_S of the first message, at most MESSAGES_AT_ONCE."""
        messages = self._connection.receive(MESSAGES_AT_ONCE, timeout_s=0.5)
        until = time.monotonic() + LINGER_S
        while messages and len(messages) < MESSAGES_AT_ONCE and (left := until - time.monotonic()) > 0:
            messages += self._connection.receive(MESSAGES_AT_ONCE - len(messages), timeout_s=left)
        return messages
