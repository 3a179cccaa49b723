"""The network that can fail: it knows what was acknowledged, and carries, cuts, holds and restores."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from shared.mqtt import Connection
from shared.params import MqttParams
from tests.faults.packets import PUBACK, PUBLISH, PacketReader, acknowledged_mid, message_of
from tests.faults.proxy import Proxy
from tests.mosquitto import Broker
from tests.waiting import wait_for

TOPIC = "metercast/plant/readings/m0"


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    running = Proxy(broker.port)
    yield running
    running.stop()


@pytest.fixture
def ends(broker: Broker, proxy: Proxy) -> Iterator[tuple[Connection, Connection]]:
    """Who publishes, direct, and who receives, through the proxy."""
    with ExitStack() as stack:
        meter = Connection(MqttParams(host=broker.host, port=broker.port), client_id="meter")
        edge = Connection(MqttParams(host=broker.host, port=proxy.port), client_id="edge", filters=[TOPIC])
        for connection in (meter, edge):
            connection.start()
            stack.callback(connection.stop)
        broker.wait_subscribed("edge", TOPIC)
        yield meter, edge


def send(meter: Connection, *payloads: bytes) -> None:
    deliveries = [meter.publish(TOPIC, payload) for payload in payloads]
    wait_for(lambda: all(delivery.done for delivery in deliveries), "the broker")


def test_it_knows_exactly_what_was_acknowledged(ends: tuple[Connection, Connection], proxy: Proxy) -> None:
    meter, edge = ends
    send(meter, b"first", b"second", b"third" * 100_000)
    wait_for(lambda: edge.waiting == 3, "three messages")
    assert (proxy.delivered, proxy.acked) == (3, set())
    messages = edge.receive(3, 1.0)
    edge.acknowledge([messages[0], messages[2]])
    wait_for(lambda: proxy.acks == 2, "two acknowledgements")
    assert proxy.acked == {(TOPIC, b"first"), (TOPIC, b"third" * 100_000)}


def test_what_was_not_acknowledged_before_a_cut_comes_again_after_it(
    ends: tuple[Connection, Connection], proxy: Proxy
) -> None:
    meter, edge = ends
    send(meter, b"first")
    wait_for(lambda: edge.waiting == 1, "the message")
    lost = edge.receive(1, 1.0)
    proxy.cut()
    wait_for(lambda: not edge.connected, "the cut to be noticed")
    edge.acknowledge(lost)
    send(meter, b"second")
    proxy.restore()
    wait_for(lambda: edge.waiting == 2, "both messages")
    edge.acknowledge(edge.receive(2, 1.0))
    wait_for(lambda: proxy.acks == 2, "both acknowledgements")


def test_a_black_hole_closes_nothing_and_gives_everything_back(
    ends: tuple[Connection, Connection], proxy: Proxy
) -> None:
    meter, edge = ends
    proxy.black_hole()
    send(meter, b"first")
    time.sleep(0.2)
    assert (edge.waiting, edge.connected) == (0, True)
    proxy.restore()
    wait_for(lambda: edge.waiting == 1, "the message")


def test_a_throttled_link_is_as_slow_as_it_is_told(ends: tuple[Connection, Connection], proxy: Proxy) -> None:
    meter, edge = ends
    proxy.throttle(bytes_per_s=1_000_000, delay_s=0.05)
    begun_s = time.monotonic()
    send(meter, bytes(300_000))
    wait_for(lambda: edge.waiting == 1, "the message")
    assert time.monotonic() - begun_s > 0.3


def test_packets_are_read_alike_however_the_stream_is_cut() -> None:
    chance = random.Random(1)
    publish = bytes([0x32, 0]) + b"\x00\x01t\x00\x07\x00" + bytes(300)
    length = len(publish) - 2
    publish = bytes([0x32, 0x80 | length % 128, length // 128]) + publish[2:]
    stream = (publish + bytes([0x40, 2, 0, 7]) + bytes([0x40, 3, 0, 8, 0x87]) + bytes([0xC0, 0])) * 5
    for _ in range(50):
        reader, packets, at = PacketReader(), [], 0
        while at < len(stream):
            until = at + chance.randint(1, 40)
            packets += list(reader.feed(stream[at:until]))
            at = until
        assert len(packets) == 20
        message = message_of(packets[0], mqtt_5=True)
        assert (packets[0].kind, message.mid, message.topic, message.payload) == (PUBLISH, 7, "t", bytes(300))
        assert [acknowledged_mid(one) for one in packets[1:3]] == [7, None]
        assert packets[1].kind == PUBACK
