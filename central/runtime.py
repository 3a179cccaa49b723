"""The running central side: messages in, record, drift, trainings and rollout, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from central.delivery import Delivery
from central.intake import Intake
from central.oversight import Oversight
from central.rollout import Event, ReportArrived, SiteSeen
from shared.clock import wall_now
from shared.errors import MessageRefused
from shared.messages import Reported, Status
from shared.mqtt import Connection, Incoming
from shared.topics import SiteTopics, site_of

log = logging.getLogger(__name__)

CLIENT_ID: Final = "metercast-central"
MESSAGES_AT_ONCE: Final = 512
TICK_S: Final = 1.0  # how often trainings, triggers and approvals are looked at
LINGER_S: Final = 0.15  # what comes within this goes into one commit


def filters(root: str) -> list[str]:
    """The topic filters central subscribes to."""
    return [f"{root}/+/uplink", f"{root}/+/status", f"{root}/+/models/reported"]


class Central:
    """One loop that owns everything; nothing here is touched by another thread."""

    def __init__(
        self, *, root: str, connection: Connection, intake: Intake, oversight: Oversight, delivery: Delivery
    ) -> None:
        self._root = root
        self._connection = connection
        self._intake = intake
        self._oversight = oversight
        self._delivery = delivery
        self._ticked_s = -TICK_S

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self.step(self._gather(), stop)

    def step(self, messages: Sequence[Incoming], stop: threading.Event) -> None:
        """Take what came together, and do what is due."""
        uplink = [message for message in messages if message.topic.endswith("/uplink")]
        others = [message for message in messages if not message.topic.endswith("/uplink")]
        wall = wall_now()
        for message in others:
            self._hear(message, wall)
        self._connection.acknowledge(others)
        if uplink:
            batches = self._intake.take(uplink, wall, stop)
            for site in {batch.site for batch in batches}:
                self._roll_out(SiteSeen(site), wall)
            self._oversight.take(batches, wall)
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._ticked_s = time.monotonic()
            self._delivery.refresh_when_due(wall=wall, event_us=self._oversight.now_us(wall))
            self._oversight.tick(wall)

    def _hear(self, message: Incoming, wall: datetime) -> None:
        """Take a status or a report; one that cannot be read is logged and forgotten."""
        site = site_of(self._root, message.topic)
        if site is None or not message.payload:
            return
        try:
            if message.topic == SiteTopics(self._root, site).reported:
                self._roll_out(ReportArrived(site, Reported.decode(message.payload, message.topic)), wall)
            else:
                Status.decode(message.payload, message.topic)
                self._roll_out(SiteSeen(site), wall)
        except MessageRefused as error:
            log.warning("not understood: %s", error)

    def _roll_out(self, event: Event, wall: datetime) -> None:
        self._delivery.handle(event, wall=wall, event_us=self._oversight.now_us(wall))

    def _gather(self) -> list[Incoming]:
        """What comes within LINGER_S of the first message, at most MESSAGES_AT_ONCE."""
        messages = self._connection.receive(MESSAGES_AT_ONCE, timeout_s=0.5)
        until = time.monotonic() + LINGER_S
        while messages and len(messages) < MESSAGES_AT_ONCE and (left := until - time.monotonic()) > 0:
            messages += self._connection.receive(MESSAGES_AT_ONCE - len(messages), timeout_s=left)
        return messages
