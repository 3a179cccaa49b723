"""What was published and the broker has not confirmed yet, in order: a bound for how far forecasts run ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from edge.effects import Publish

AT_MOST: Final = 1000  # they wait in memory: no forecasts are made beyond it until the broker confirms some


class Delivery(Protocol):
    """What became of a publication: see `shared.mqtt.Delivery`."""

    @property
    def done(self) -> bool:
        """The broker has it."""

    @property
    def refused(self) -> bool:
        """It found no room, and must be published again."""


class Unconfirmed:
    """The publications under way; `send` hands one to the connection."""

    def __init__(self, send: Callable[[Publish], Delivery]) -> None:
        self._send = send
        self._waiting: deque[tuple[Delivery, Publish]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether the broker has to confirm some first."""
        return len(self._waiting) >= AT_MOST

    def publish(self, effect: Publish) -> None:
        """Hand it to the connection, and wait for its confirmation behind the others."""
        self._waiting.append((self._send(effect), effect))

    def confirmed(self) -> list[tuple[int, int]]:
        """The forecasts (row, origin) confirmed since the last call, in order.

        What found the connection's queue full is published again, behind the others.
        """
        found: list[tuple[int, int]] = []
        while self._waiting:
            delivery, effect = self._waiting[0]
            if not delivery.refused and not delivery.done:
                break
            self._waiting.popleft()
            if delivery.refused:
                self.publish(effect)
                break
            if effect.forecast is not None:
                found.append(effect.forecast)
        return found
