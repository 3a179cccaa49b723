"""The running central side: messages in, record, drift, trainings and rollout, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from central.intake import Intake
from shared.clock import wall_now
from shared.mqtt import Connection, Incoming
from shared.topics import site_of

log = logging.getLogger(__name__)

CLIENT_ID: Final = "metercast-central"
MESSAGES_AT_ONCE: Final = 512
LINGER_S: Final = 0.15  # what comes within this goes into one commit


def filters(root: str) -> list[str]:
    """The topic filters central subscribes to."""
    return [f"{root}/+/uplink", f"{root}/+/status", f"{root}/+/models/reported"]


class Central:
    """One loop that owns everything; nothing here is touched by another thread."""

    def __init__(self, *, root: str, connection: Connection, intake: Intake) -> None:
        self._root = root
        self._connection = connection
        self._intake = intake

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self.step(self._gather(), stop)

    def step(self, messages: Sequence[Incoming], stop: threading.Event) -> None:
        """Take what came together, and do what is due."""
        uplink = [message for message in messages if message.topic.endswith("/uplink")]
        others = [message for message in messages if not message.topic.endswith("/uplink")]
        if uplink:
            self._intake.take(uplink, wall_now(), stop)
        for message in others:
            log.debug("heard", extra={"site": site_of(self._root, message.topic), "topic": message.topic})
        self._connection.acknowledge(others)

    def _gather(self) -> list[Incoming]:
        """What comes within LINGER_S of the first message, at most MESSAGES_AT_ONCE."""
        messages = self._connection.receive(MESSAGES_AT_ONCE, timeout_s=0.5)
        until = time.monotonic() + LINGER_S
        while messages and len(messages) < MESSAGES_AT_ONCE and (left := until - time.monotonic()) > 0:
            messages += self._connection.receive(MESSAGES_AT_ONCE - len(messages), timeout_s=left)
        return messages
