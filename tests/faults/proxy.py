"""A network that can fail: a TCP proxy between a client and the broker that remembers which messages were acknowledged.

Invariants: a message is known before the client can have seen it; an acknowledgement counts only once it was handed on
to the broker, for the oldest message of its packet id; a cut closes every connection and turns new ones away until
`restore`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from tests.faults.packets import CONNECT, PUBACK, PUBLISH, PacketReader, acknowledged_mid, message_of, speaks_5
from tests.waiting import PATIENCE_S

_CHUNK_BYTES: Final = 65_536
_HOST: Final = "127.0.0.1"


class Proxy:
    """Listens on a port of 127.0.0.1 and carries everything to and from another."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._links: set[_Link] = set()
        self._open = threading.Event()
        self._open.set()
        self._cut = False
        self._lock = threading.Lock()
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.acked: set[tuple[str, bytes]] = set()
        self.acks = 0
        self.delivered = 0
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, name=f"proxy-{self.port}", daemon=True).start()

    def cut(self) -> None:
        """Close every connection and refuse new ones, as when the cable is pulled and the other side notices."""
        with self._lock:
            self._cut = True
            links = list(self._links)
        for link in links:
            link.close()

    def black_hole(self) -> None:
        """Carry nothing more, and close nothing: as when the cable is pulled and nobody notices."""
        self._open.clear()

    def throttle(self, *, bytes_per_s: float | None = None, delay_s: float = 0.0) -> None:
        """Carry each chunk this much later, and in total no faster than this."""
        self.bytes_per_s, self.delay_s = bytes_per_s, delay_s

    def restore(self) -> None:
        """Carry everything again, at once."""
        with self._lock:
            self._cut = False
        self.throttle()
        self._open.set()

    def stop(self) -> None:
        """Close all for good."""
        self._listener.close()
        self.cut()
        self._open.set()

    def wait_turn(self, size: int) -> None:
        """Hold a chunk for as long as the network does."""
        self._open.wait()
        pause_s = self.delay_s + (size / self.bytes_per_s if self.bytes_per_s else 0.0)
        if pause_s:
            time.sleep(pause_s)

    def forget(self, link: _Link) -> None:
        """A link has closed."""
        with self._lock:
            self._links.discard(link)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                client, _address = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection((_HOST, self._to_port), timeout=PATIENCE_S)
            for end in (client, broker):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the broker is away, or the client has gone again
            client.close()
            return
        link = _Link(self, client, broker)
        with self._lock:
            self._links.add(link)
            refused = self._cut
        if refused:
            link.close()
        else:
            link.start()


class _Link:
    """One connection of the client, carried by two threads; knows the messages under way by their packet id.

    An id may have several: Mosquitto 2.0 lets more of a long queue out with each acknowledgement than came in by it,
    past the client's ReceiveMaximum and past 65,535, from where ids come around. It settles the oldest first.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._broker = client, broker
        self._under_way: defaultdict[int, deque[tuple[str, bytes]]] = defaultdict(deque)
        self._mqtt_5 = True

    def start(self) -> None:
        """Begin to carry."""
        for carry in (self._up, self._down):
            threading.Thread(target=self._until_closed, args=(carry,), daemon=True).start()

    def close(self) -> None:
        """Close both ends; the threads end by that."""
        for end in (self._client, self._broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy.forget(self)

    def _until_closed(self, carry: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            carry()
        self.close()

    def _up(self) -> None:
        """Client to broker: hand on, then note what that acknowledged."""
        reader = PacketReader()
        while chunk := self._client.recv(_CHUNK_BYTES):
            self._proxy.wait_turn(len(chunk))
            self._broker.sendall(chunk)
            for packet in reader.feed(chunk):
                if packet.kind == CONNECT:
                    self._mqtt_5 = speaks_5(packet)
                elif packet.kind == PUBACK and (mid := acknowledged_mid(packet)) is not None:
                    self._note_acked(mid)

    def _note_acked(self, mid: int) -> None:
        if self._under_way[mid]:
            self._proxy.acked.add(self._under_way[mid].popleft())
            self._proxy.acks += 1

    def _down(self) -> None:
        """Broker to client: note what comes, then hand it on."""
        reader = PacketReader()
        while chunk := self._broker.recv(_CHUNK_BYTES):
            self._proxy.wait_turn(len(chunk))
            for packet in reader.feed(chunk):
                if packet.kind == PUBLISH:
                    message = message_of(packet, mqtt_5=self._mqtt_5)
                    self._under_way[message.mid].append((message.topic, message.payload))
                    self._proxy.delivered += 1
            self._client.sendall(chunk)
