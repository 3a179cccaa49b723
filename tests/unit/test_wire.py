"""paho's socket: what it reads, keeps, leaves and sends, over a real TCP connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from shared.inbox import Inbox
from shared.packets import PINGRESP, Incoming, ProtocolViolation, pubacks
from shared.wire import GATHER_S, Wire
from tests.waiting import PATIENCE_S

CONNACK = b"\x20\x03\x00\x00\x00"
SUBACK = b"\x90\x04\x00\x01\x00\x01"
KEEP_BYTES = 1_000
INBOX_BYTES = 6_000
MUCH = Incoming("t", b"x" * INBOX_BYTES, INBOX_BYTES, 1, False, 1, False, 6)


def publish(payload: bytes, *, mid: int = 1, qos: int = 1) -> bytes:
    """A PUBLISH packet on topic `t`, of less than 16 KiB."""
    body = b"\x00\x01t" + (mid.to_bytes(2, "big") if qos else b"") + b"\x00" + payload
    return bytes([0x30 | qos << 1, len(body) & 127 | 128, len(body) >> 7]) + body


@dataclass(slots=True)
class Line:
    """A wire and the broker's end of it."""

    wire: Wire
    broker: socket.socket
    inbox: Inbox

    def read(self, until: Callable[[bytes], bool]) -> bytes:
        """What paho would read, our own PINGRESPs left out, until it is as wanted."""
        read, until_s = b"", time.monotonic() + PATIENCE_S
        while not until(read) or read.endswith(PINGRESP[:1]):
            assert time.monotonic() < until_s, read
            try:
                read += self.wire.recv(1)
            except BlockingIOError:
                time.sleep(0.001)
            read = read.replace(PINGRESP, b"")
        return read


@pytest.fixture
def line() -> Iterator[Line]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened = socket.create_connection(server.getsockname())
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        broker, _ = server.accept()
    broker.settimeout(PATIENCE_S)
    inbox = Inbox(at_most=100, at_most_bytes=INBOX_BYTES)
    wire = Wire(opened, number=7, inbox=inbox, keep_bytes=KEEP_BYTES)
    wire.setblocking(False)
    yield Line(wire, broker, inbox)
    broker.close()
    wire.close()


def test_paho_gets_what_is_not_ours_and_we_get_the_messages(line: Line) -> None:
    line.broker.sendall(CONNACK + publish(b"1", mid=1) + publish(b"2", qos=2) + publish(b"3", mid=3, qos=0) + SUBACK)
    theirs = CONNACK + publish(b"2", qos=2) + SUBACK
    assert line.read(lambda read: len(read) >= len(theirs)) == theirs
    assert [(message.payload, message.connection) for message in line.inbox.take(9, 0)] == [(b"1", 7), (b"3", 7)]


def test_paho_is_told_to_come_back_when_all_that_came_is_ours(line: Line) -> None:
    line.broker.sendall(publish(b"1"))
    line.read(lambda _: len(line.inbox) == 1)
    with pytest.raises(BlockingIOError):
        line.wire.recv(1)


def test_bytes_held_for_paho_are_told_as_pending(line: Line) -> None:
    line.broker.sendall(SUBACK)
    line.read(lambda read: len(read) >= 3)
    assert line.wire.pending() >= 3


def test_a_broker_that_hangs_up_ends_the_stream_after_what_it_sent(line: Line) -> None:
    line.broker.sendall(publish(b"1"))
    line.broker.close()
    line.read(lambda _: len(line.inbox) == 1)
    assert line.wire.recv(1) == b""


def test_what_mqtt_does_not_allow_breaks_the_connection_after_the_messages_before_it(line: Line) -> None:
    line.broker.sendall(publish(b"1") + b"\x32\x00" + b"\x00" * 9)
    with pytest.raises(ProtocolViolation):
        line.read(lambda _: False)
    assert len(line.inbox) == 1
    assert line.wire.pending() > 0  # paho must come and see, though the network brings nothing


def test_in_a_flood_a_read_waits_for_more_to_come(line: Line) -> None:
    line.broker.sendall(publish(b"1") + publish(b"2"))
    line.read(lambda _: len(line.inbox) == 2)
    began_s = time.monotonic()
    with pytest.raises(BlockingIOError):
        line.wire.recv(1)
    assert time.monotonic() - began_s >= GATHER_S


def test_a_full_inbox_stops_the_reading_and_the_silence_is_vouched_for(line: Line) -> None:
    line.broker.sendall(CONNACK + b"".join(publish(b"x" * 1_000, mid=mid) for mid in range(1, 6)))
    assert line.read(lambda read: len(read) == len(CONNACK) and len(line.inbox) == 5) == CONNACK
    line.broker.sendall(publish(b"late", mid=6) + SUBACK)
    until_s, vouched = time.monotonic() + PATIENCE_S, b""
    while vouched != PINGRESP:
        assert time.monotonic() < until_s
        try:
            vouched = line.wire.recv(2)
        except BlockingIOError:
            continue
    assert (len(line.inbox), line.inbox.full) == (5, True)
    line.inbox.take(1, 0)
    assert line.read(lambda read: len(read) >= len(SUBACK)) == SUBACK
    assert line.inbox.take(9, 0)[-1].payload == b"late"


def test_a_packet_that_paho_has_begun_is_read_on_though_the_inbox_is_full(line: Line) -> None:
    line.broker.sendall(SUBACK[:3])
    line.read(lambda read: len(read) >= 3)
    line.inbox.put([MUCH])
    line.broker.sendall(SUBACK[3:] + publish(b"1"))
    assert line.read(lambda read: len(read) >= 3) == SUBACK[3:]
    assert all(message.payload != b"1" for message in line.inbox.take(99, 0))


def test_the_greeting_of_a_broker_is_read_though_the_inbox_is_full(line: Line) -> None:
    line.inbox.put([MUCH])
    line.broker.sendall(CONNACK + publish(b"1"))
    assert line.read(lambda read: len(read) >= len(CONNACK)) == CONNACK
    for _ in range(5):
        with suppress(BlockingIOError):
            assert PINGRESP.startswith(line.wire.recv(2))
    assert line.inbox.take(9, 0) == [MUCH]


def test_acknowledgements_are_one_run_of_packets(line: Line) -> None:
    line.wire.acknowledge(range(1, 500))
    assert received(line.broker, 4 * 499) == pubacks(range(1, 500))


def test_what_the_network_does_not_take_waits_and_packets_never_mix(line: Line) -> None:
    sent = b""
    for mid in range(1, 2_000):  # far more than the buffers of both sides hold
        packet = publish(b"p" * 4_000, mid=mid)
        try:
            line.wire.send(packet)
        except BlockingIOError:
            break
        line.wire.acknowledge([mid])
        sent += packet + pubacks([mid])
    else:
        pytest.fail("what waits to be sent has no bound")
    assert line.wire.unsent
    line.broker.setblocking(False)
    arrived, until_s = b"", time.monotonic() + PATIENCE_S
    while len(arrived) < len(sent) and time.monotonic() < until_s:
        line.wire.flush()
        try:
            arrived += line.broker.recv(1_048_576)
        except BlockingIOError:
            time.sleep(0.001)
    assert arrived == sent
    assert not line.wire.unsent


def test_acknowledging_on_a_closed_wire_does_nothing(line: Line) -> None:
    line.wire.close()
    line.wire.acknowledge([1])
    assert not line.wire.unsent


def test_closing_sends_what_still_waits(line: Line) -> None:
    line.wire.send(b"\xe0\x00")
    line.wire.close()
    assert received(line.broker, 2) == b"\xe0\x00"


def test_closing_waits_until_the_broker_has_read_it_all_but_not_long(line: Line) -> None:
    began_s = time.monotonic()
    line.wire.close()
    assert 0.4 < time.monotonic() - began_s < PATIENCE_S


def received(broker: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = broker.recv(size - len(data))
        assert more, data
        data += more
    return data
