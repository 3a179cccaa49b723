"""As much of MQTT 3.1.1 as a flood and an observer need, on a plain socket: cheaper than any client library.

A benchmark's own client must not be what is measured: packets are made beforehand and written in one piece, and what
comes is read in large pieces and told apart by its first bytes.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

PUBLISH: Final = 3
PUBACK: Final = 4
_CONNACK: Final = 2
_SUBACK: Final = 9
_READ_BYTES: Final = 262_144
_SEND_WITHIN_S: Final = 30.0
_DISCONNECT: Final = b"\xe0\x00"


def publish_packet(topic: str, payload: bytes, *, mid: int, retain: bool = False) -> bytes:
    """A PUBLISH at QoS 1; `mid` within 1 … 65535."""
    body = _text(topic) + mid.to_bytes(2, "big") + payload
    return bytes([0x32 | retain]) + _length(len(body)) + body


def topic_and_payload(body: bytes) -> tuple[str, bytes]:
    """The topic and payload of a PUBLISH that came at QoS 0."""
    end = 2 + int.from_bytes(body[:2], "big")
    return body[2:end].decode(), body[end:]


def split(stream: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """(kind, body) of each packet that is wholly in `stream`, and how many bytes they were."""
    packets, used = [], 0
    while (packet := _packet_at(stream, used)) is not None:
        kind, body_start, end = packet
        packets.append((kind, stream[body_start:end]))
        used = end
    return packets, used


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(number: int) -> bytes:
    encoded = bytearray()
    while True:
        number, low = divmod(number, 128)
        encoded.append(low | (128 if number else 0))
        if not number:
            return bytes(encoded)


class Wire:
    """A connection to a broker on this machine. Subscriptions are at QoS 0, unless it is to leave a session behind."""

    def __init__(self, port: int, client_id: str, *, clean: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._ready: deque[tuple[int, bytes]] = deque()
        body = _text("MQTT") + bytes([4, 2 if clean else 0, 0, 0]) + _text(client_id)
        self.send(b"\x10" + _length(len(body)) + body)
        self._expect(_CONNACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye; a session that was not clean stays."""
        with self._socket:
            self.send(_DISCONNECT)

    def send(self, packets: bytes) -> None:
        """Write packets, all of them."""
        self._socket.settimeout(_SEND_WITHIN_S)
        self._socket.sendall(packets)

    def subscribe(self, topic_filter: str, *, qos: int = 0) -> None:
        """Subscribe and wait until the broker has said so."""
        body = b"\x00\x01" + _text(topic_filter) + bytes([qos])
        self.send(b"\x82" + _length(len(body)) + body)
        self._expect(_SUBACK)

    def packets(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        """(kind, body) of each packet as it comes; raises TimeoutError after `timeout_s` of silence."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            self._socket.settimeout(timeout_s)
            piece = self._socket.recv(_READ_BYTES)
            if not piece:
                raise ConnectionError("the broker closed the connection")
            self._buffer += piece
            found, used = split(bytes(self._buffer))
            self._ready.extend(found)
            del self._buffer[:used]

    def _expect(self, kind: int) -> None:
        """The next packet of this kind; what comes before it is not wanted yet."""
        next(body for seen, body in self.packets(30) if seen == kind)


def _packet_at(buffer: bytes, start: int) -> tuple[int, int, int] | None:
    """(kind, start of the body, end) of the packet that begins at `start`, None when it is not all there."""
    length, shift = 0, 0
    for at in range(start + 1, min(start + 5, len(buffer))):
        length |= (buffer[at] & 127) << shift
        shift += 7
        if buffer[at] < 128:
            end = at + 1 + length
            return (buffer[start] >> 4, at + 1, end) if end <= len(buffer) else None
    return None
