"""MQTT control packets, read off a stream: as much as the recording proxy needs, for MQTT 3.1.1 and 5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CONNECT: Final = 1
PUBLISH: Final = 3
PUBACK: Final = 4
_MQTT_5: Final = 5
_FAILED: Final = 0x80  # reason codes from here on mean that the receiver did not take the message


@dataclass(frozen=True, slots=True)
class Packet:
    """One control packet: its kind, the flags of its first byte, and what follows the length."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A PUBLISH; `mid` is 0 at QoS 0."""

    mid: int
    topic: str
    payload: bytes


class PacketReader:
    """One direction of a connection, cut into packets wherever the chunks end."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Packet]:
        """The packets that `chunk` completes."""
        self._held += chunk
        start = 0
        while (found := _head(self._held, start)) is not None:
            body, end = found
            if end > len(self._held):
                break
            first = self._held[start]
            yield Packet(first >> 4, first & 15, bytes(self._held[body:end]))
            start = end
        del self._held[:start]


def speaks_5(connect: Packet) -> bool:
    """Whether a CONNECT is of MQTT 5."""
    name_bytes = int.from_bytes(connect.body[:2], "big")
    return connect.body[2 + name_bytes] == _MQTT_5


def message_of(publish: Packet, *, mqtt_5: bool) -> Message:
    """What a PUBLISH carries."""
    body = publish.body
    at = 2 + int.from_bytes(body[:2], "big")
    topic, mid = body[2:at].decode(), 0
    if publish.flags & 0b110:
        mid, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    if mqtt_5:
        length, at = _number(body, at) or (0, at)
        at += length
    return Message(mid, topic, body[at:])


def acknowledged_mid(puback: Packet) -> int | None:
    """The packet id a PUBACK takes, or None where it says that the message was not taken."""
    if len(puback.body) > 2 and puback.body[2] >= _FAILED:
        return None
    return int.from_bytes(puback.body[:2], "big")


def _head(data: bytearray, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at `start` begins and ends, once its length is known."""
    found = _number(data, start + 1)
    return None if found is None else (found[1], found[1] + found[0])


def _number(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer at `at`, and where it ends."""
    value = 0
    for place in range(4):
        if at + place >= len(data):
            return None
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a length of more than four bytes is no MQTT")
