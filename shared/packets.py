"""MQTT 5 PUBLISH packets at QoS 0 and 1, taken out of what a broker sends; all other packets are left as they came.

Invariants: messages and what is left over are the same however the stream is cut into reads; of a payload no more than
`keep_bytes` is ever held, however long the packet; whatever bytes come, the answer is messages, bytes left over, or a
violation, and what came before a violation is given out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

PINGRESP: Final = b"\xd0\x00"
_PUBACK: Final = 0x4002_0000  # with the message id in its lower half: a whole packet, "success" left unsaid
# First byte of a PUBLISH at QoS 0 or 1 → qos, retain, dup.
_OURS: Final = {0x30 | dup << 3 | qos << 1 | retain: (qos, retain == 1, dup == 1)
                for dup in (0, 1) for qos in (0, 1) for retain in (0, 1)}  # fmt: skip


class ProtocolViolation(ConnectionError):
    """The broker sent what MQTT does not allow; the connection cannot go on."""


class Incoming(NamedTuple):
    """A message as it came; `connection` tells on which, so that no later one is acknowledged in its stead.

    `size` is what was sent; of more than the connection's `keep_bytes` only the beginning is in `payload`.
    """

    topic: str
    payload: bytes
    size: int
    qos: int
    retain: bool
    mid: int
    dup: bool
    connection: int


def pubacks(mids: Iterable[int]) -> bytes:
    """One PUBACK after the other, for one write."""
    words = [_PUBACK | mid for mid in mids]
    return struct.pack(f">{len(words)}I", *words)


class Splitter:
    """Splits the bytes of one connection into our messages and what is left over."""

    def __init__(self, *, connection: int, keep_bytes: int) -> None:
        self._connection = connection
        self._keep_bytes = keep_bytes
        self._head = b""  # of a packet that does not yet tell its length or layout
        self._long: _Long | None = None
        self.passing = 0  # bytes still to come of a packet that is being left over
        self.violation: ProtocolViolation | None = None

    def feed(self, data: bytes) -> tuple[list[Incoming], bytes]:
        """The messages that became whole with these bytes, and what is left over; nothing after a violation."""
        messages: list[Incoming] = []
        left: list[bytes] = []
        if self.violation is None:
            data = self._head + data if self._head else data
            try:
                self._head = data[self._split(data, self._resume(data, messages, left), messages, left) :]
            except ProtocolViolation as violation:
                self.violation = violation
        return messages, left[0] if len(left) == 1 else b"".join(left)

    def _resume(self, data: bytes, messages: list[Incoming], left: list[bytes]) -> int:
        """Go on with the packet of which the last read had only a part; returns where it ends."""
        if self.passing:
            left.append(data[: self.passing])
            self.passing -= len(left[0])
            return len(left[0])
        if self._long is None:
            return 0
        end = self._long.take(data, 0)
        if self._long.missing == 0:
            messages.append(self._long.message())
            self._long = None
        return end

    def _split(self, data: bytes, at: int, messages: list[Incoming], left: list[bytes]) -> int:
        """Go on from where a packet begins; returns where the one begins of which too little is there."""
        end, keep, connection = len(data), self._keep_bytes, self._connection
        while end - at > 1:
            length, body = data[at + 1], at + 2
            if length > 127:
                length, body = _length(data, at + 1)
                if not body:
                    break
            stop = body + length
            flags = _OURS.get(data[at])
            if flags is None:
                left.append(data[at:stop])
                self.passing = max(stop - end, 0)
            elif stop <= end:
                messages.append(_message(data, body, stop, flags, keep, connection))
            elif not self._begin_long(data, body, stop, flags):
                break
            at = stop
        return min(at, end)

    def _begin_long(self, data: bytes, body: int, stop: int, flags: tuple[int, bool, bool]) -> bool:
        """Begin a message that ends in a later read; False when not even its layout is there."""
        try:
            topic_end, mid, payload_at = _layout(data, body, stop, flags[0])
        except IndexError:
            return False
        topic, size = str(data[body + 2 : topic_end], "utf-8", "replace"), stop - payload_at
        shell = Incoming(topic, b"", size, flags[0], flags[1], mid, flags[2], self._connection)
        self._long = _Long(shell, before=payload_at - body, keep_bytes=self._keep_bytes)
        self._long.take(data, body)
        return True


class _Long:
    """A message of which a part is there; what lies before its payload and beyond `keep_bytes` of it is passed over."""

    def __init__(self, shell: Incoming, *, before: int, keep_bytes: int) -> None:
        self._shell = shell
        self._before = before
        self._keep_bytes = min(keep_bytes, shell.size)
        self._kept = bytearray()
        self.missing = before + shell.size

    def take(self, data: bytes, at: int) -> int:
        """Take what is ours from `at` on; returns where it ends."""
        end = min(at + self.missing, len(data))
        self.missing -= end - at
        start = min(at + self._before, end)
        self._before -= start - at
        self._kept += data[start : min(end, start + self._keep_bytes - len(self._kept))]
        return end

    def message(self) -> Incoming:
        """The message, now that all of it has come."""
        return self._shell._replace(payload=bytes(self._kept))


def _message(
    data: bytes, body: int, stop: int, flags: tuple[int, bool, bool], keep_bytes: int, connection: int
) -> Incoming:
    qos, retain, dup = flags
    try:
        topic_end, mid, payload_at = _layout(data, body, stop, qos)
    except IndexError:
        raise ProtocolViolation("a PUBLISH packet that ends within its header") from None
    payload = data[payload_at : min(stop, payload_at + keep_bytes)]
    topic = str(data[body + 2 : topic_end], "utf-8", "replace")
    return Incoming(topic, payload, stop - payload_at, qos, retain, mid, dup, connection)


def _layout(data: bytes, body: int, stop: int, qos: int) -> tuple[int, int, int]:
    """Where the topic ends, the message id, where the payload begins; IndexError when `data` ends before it is told."""
    topic_end = at = body + 2 + (data[body] << 8 | data[body + 1])
    mid = 0
    if qos:
        mid = data[at] << 8 | data[at + 1]
        at += 2
    properties, payload_at = data[at], at + 1
    if properties > 127:
        properties, payload_at = _length(data, at)
        if not payload_at:
            raise IndexError
    payload_at += properties
    if payload_at > stop:
        raise ProtocolViolation("a PUBLISH packet that ends within its header")
    if topic_end == body + 2:
        raise ProtocolViolation("a PUBLISH packet without a topic: we allowed no topic alias")
    if qos and not mid:
        raise ProtocolViolation("a PUBLISH packet at QoS 1 without a message id")
    return topic_end, mid, payload_at


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer and where it ends; (0, 0) when not all of it is there."""
    value = 0
    for place, byte in enumerate(data[at : at + 4]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    if len(data) - at >= 4:
        raise ProtocolViolation("a length of more than four bytes")
    return 0, 0
