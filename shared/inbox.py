"""What was read from the broker and not yet taken: bounded in bytes and, for QoS 0, in messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from shared.packets import Incoming


class Inbox:
    """Messages in order, handed over with one lock for each read; thread-safe.

    Invariants: no QoS 1 message is dropped (the broker never sends more than it was allowed, and whoever fills the
    inbox asks `full` first, so that bytes exceed their bound by one read at most); QoS 0 that comes while `at_most`
    messages or more wait is dropped and counted.
    """

    def __init__(self, *, at_most: int, at_most_bytes: int) -> None:
        self._at_most = at_most
        self._at_most_bytes = at_most_bytes
        self._messages: deque[Incoming] = deque()
        self._bytes = 0
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._drained = threading.Condition(lock)
        self.dropped = 0

    def put(self, messages: Sequence[Incoming]) -> None:
        """Add what one read brought."""
        with self._filled:
            if len(self._messages) >= self._at_most:
                kept = [message for message in messages if message.qos]
                self.dropped += len(messages) - len(kept)
                messages = kept
            self._messages.extend(messages)
            self._bytes += _payload_bytes(messages)
            self._filled.notify()

    def take(self, limit: int, timeout_s: float) -> list[Incoming]:
        """Up to `limit` messages; waits at most `timeout_s` for the first."""
        with self._filled:
            if not self._messages:
                self._filled.wait_for(lambda: self._messages, timeout_s)
            taken = [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]
            self._bytes -= _payload_bytes(taken)
            self._drained.notify()
        return taken

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room; waits at most `timeout_s` for it."""
        with self._drained:
            return self._drained.wait_for(lambda: not self.full, timeout_s)

    @property
    def full(self) -> bool:
        """Whether the payloads that wait have reached their bound."""
        return self._bytes >= self._at_most_bytes

    def __len__(self) -> int:
        return len(self._messages)


def _payload_bytes(messages: Sequence[Incoming]) -> int:
    return sum([len(message.payload) for message in messages])
