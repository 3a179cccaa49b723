"""Publishing much without flooding: what the broker has not confirmed is bounded, and so is the rate."""

from __future__ import annotations

import math
import time
from typing import Final

from shared.errors import BrokerUnreachable
from shared.mqtt import Connection, Delivery

PATIENCE_S: Final = 60.0
_REPORT_EVERY_S: Final = 1.0


class PacedPublisher:
    """Publishes at QoS 1 with at most `unconfirmed` messages under way and at most `rate` of whatever is counted."""

    def __init__(self, connection: Connection, *, unconfirmed: int, rate: float = math.inf) -> None:
        self._connection = connection
        self._unconfirmed_at_most = unconfirmed
        self._rate = rate
        self._under_way: list[Delivery] = []
        self._began_s = time.monotonic()
        self._told_s = -math.inf
        self._published = 0

    def publish(self, topic: str, payload: bytes, *, count: int = 1) -> None:
        """Hand over one message that counts for `count`, when its time has come; raises BrokerUnreachable."""
        self.wait_until(self._published / self._rate)
        self._published += count
        self._under_way.append(self._connection.publish(topic, payload))
        if len(self._under_way) >= self._unconfirmed_at_most:
            self._wait(at_most=self._unconfirmed_at_most // 2)

    def wait_until(self, since_begin_s: float) -> None:
        """Sleep until so long after the begin."""
        ahead_s = since_begin_s - (time.monotonic() - self._began_s)
        if ahead_s > 0:
            time.sleep(ahead_s)

    def finish(self) -> None:
        """Wait until all is confirmed; raises BrokerUnreachable."""
        self._wait(at_most=0)

    def due_to_report(self) -> bool:
        """Whether it is time to say how far it is: at first, and then every second."""
        now_s = time.monotonic()
        due = now_s - self._told_s > _REPORT_EVERY_S
        self._told_s = now_s if due else self._told_s
        return due

    def _wait(self, *, at_most: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._under_way = [delivery for delivery in self._under_way if not delivery.done]
            if len(self._under_way) <= at_most:
                return
            if time.monotonic() > deadline_s:
                raise BrokerUnreachable(f"{len(self._under_way)} messages were not confirmed within {PATIENCE_S:g} s")
            time.sleep(0.005)
