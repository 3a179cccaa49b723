"""The socket paho gets in place of its own: it reads much at once, keeps our messages, and leaves paho the rest.

paho reads a packet in three calls and spends tens of microseconds on each; a flood of readings deserves better, while
connecting, subscribing, publishing, keepalive and coming back stay paho's. Invariants: paho sees every packet but
PUBLISH at QoS 0 and 1, byte for byte; what is sent, by paho or as acknowledgements, is whole packets in a row; while
the inbox is full nothing is read, so that TCP holds the broker back.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Final

from shared.inbox import Inbox
from shared.packets import PINGRESP, Splitter, pubacks

READ_BYTES: Final = 262_144
UNSENT_BYTES: Final = 1_048_576  # when so much waits for the broker, paho keeps its packets to itself
VOUCH_EVERY_S: Final = 0.25  # well within the shortest keepalive, a second
STAND_STILL_S: Final = 0.02  # paho's thread waits so long for room in the inbox before it looks after its other work
PART_WITHIN_S: Final = 0.5  # how long a broker that was told DISCONNECT may take to hang up
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """One connection's socket; `number` tells it from those before. Non-blocking, as paho sets it.

    paho's thread reads and closes, any thread sends and acknowledges: one lock, because TLS is not thread-safe.
    """

    def __init__(self, opened: socket.socket, *, number: int, inbox: Inbox, keep_bytes: int) -> None:
        # 40 ms a round trip otherwise: Nagle waits for the delayed ACK of the other side.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = number
        self._socket = opened
        self._inbox = inbox
        self._splitter = Splitter(connection=number, keep_bytes=keep_bytes)
        self._for_paho = b""
        self._given = 0  # so many of them paho has
        self._unsent = bytearray()
        self._broken: OSError | None = None
        self._vouch_due_s = 0.0
        self._lock = threading.Lock()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes for paho; BlockingIOError when there are none now, b"" when the broker has hung up."""
        if self._given == len(self._for_paho) and not self._refill():
            return b""
        given = self._for_paho[self._given : self._given + size]
        self._given += len(given)
        if not given:
            raise BlockingIOError
        return given

    def send(self, data: bytes | bytearray) -> int:
        """Take a packet of paho's to send at the next `flush`; all of it, or BlockingIOError."""
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if len(self._unsent) >= UNSENT_BYTES:
                self._flush()
            if len(self._unsent) >= UNSENT_BYTES:
                raise BlockingIOError
            self._unsent += data
        return len(data)

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Acknowledge QoS 1 messages in one write; what the network does not take now goes with the next `flush`."""
        packets = pubacks(mids)
        with self._lock:
            self._unsent += packets
            self._flush()

    def flush(self) -> None:
        """Send what waits, as far as the network takes it; that it is broken shows in the next `recv`."""
        with self._lock:
            self._flush()

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def pending(self) -> int:
        """How many bytes `recv` has without the network; paho does not wait for more while there are any."""
        held = len(self._for_paho) - self._given
        if held or self._broken is not None:
            return max(held, 1)
        if not isinstance(self._socket, ssl.SSLSocket) or self._inbox.full:
            return 0
        with self._lock:
            return self._socket.pending()

    def fileno(self) -> int:
        """The socket's, for `select`."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """As of a socket; paho's threaded loop wants False."""
        self._socket.setblocking(flag)

    def close(self) -> None:
        """Send what waits, such as a DISCONNECT, if it goes at once; close when the broker has read it, or soon.

        Who comes again under our client id takes over, and acknowledgements that the broker has not read are lost.
        """
        try:
            with self._lock:
                self._flush()
                self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(PART_WITHIN_S)
            until_s = time.monotonic() + PART_WITHIN_S
            while self._socket.recv(READ_BYTES) and time.monotonic() < until_s:
                pass
        except OSError:
            pass
        self._socket.close()

    def _refill(self) -> bool:
        """Read once and keep what is ours; False when the broker has hung up."""
        # When the inbox is full only the rest of a packet that paho has begun is read.
        at_most = READ_BYTES if self._inbox.wait_for_room(STAND_STILL_S) else self._splitter.passing
        left = b""
        if at_most:
            data = self._read(at_most)
            if not data:
                return False
            messages, left = self._splitter.feed(data)
            if messages:
                self._inbox.put(messages)
            if self._splitter.violation is not None:
                self._broken = self._splitter.violation
        self._for_paho, self._given = left + self._vouch(), 0
        return True

    def _read(self, at_most: int) -> bytes:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            return self._socket.recv(at_most)

    def _vouch(self) -> bytes:
        """Now and then a PINGRESP of our own making: the broker sends, or it is we who do not read.

        Without it paho, which does not see our messages, would cut a busy connection on a slow line.
        """
        now_s = time.monotonic()
        if now_s < self._vouch_due_s or self._splitter.passing:
            return b""
        self._vouch_due_s = now_s + VOUCH_EVERY_S
        return PINGRESP

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except _NOT_NOW:
            pass
        except OSError as error:
            self._broken = error
            self._unsent.clear()
