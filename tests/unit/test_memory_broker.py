"""The broker in memory behaves as a real one does where metercast relies on it."""

from __future__ import annotations

import pytest

from shared.errors import BrokerUnreachable
from shared.memory import MemoryBroker, MemoryConnection, matches
from shared.mqtt import Will


def connected(broker: MemoryBroker, name: str = "reader", *filters: str, **more: object) -> MemoryConnection:
    connection = MemoryConnection(broker, client_id=name, filters=filters or ("a/#",), **more)  # type: ignore[arg-type]
    connection.start()
    return connection


def payloads(connection: MemoryConnection, limit: int = 100) -> list[bytes]:
    return [message.payload for message in connection.receive(limit)]


def test_what_is_not_acknowledged_comes_again_first_in_order_with_its_packet_id_and_dup() -> None:
    broker = MemoryBroker()
    reader = connected(broker)
    for number in range(3):
        broker.publish("a/b", b"%d" % number)
    first = reader.receive(2)
    reader.acknowledge(first[:1])
    reader.cut()
    reader.start()
    again = reader.receive(10)
    assert [(m.payload, m.dup) for m in again] == [(b"1", True), (b"2", False)]
    assert again[0].mid == first[1].mid


def test_a_message_of_an_earlier_connection_cannot_be_acknowledged() -> None:
    broker = MemoryBroker()
    reader = connected(broker)
    broker.publish("a/b", b"x")
    old = reader.receive(1)
    reader.cut()
    reader.start()
    reader.acknowledge(old)
    reader.cut()
    reader.start()
    assert payloads(reader) == [b"x"]


def test_a_lasting_session_queues_while_its_client_is_away_and_a_passing_one_ends() -> None:
    broker = MemoryBroker()
    lasting, passing = connected(broker), connected(broker, "passing", lasting=False)
    lasting.cut()
    passing.cut()
    broker.publish("a/b", b"x")
    for connection in (lasting, passing):
        connection.start()
    assert (payloads(lasting), payloads(passing)) == ([b"x"], [])


def test_qos_0_does_not_wait_for_who_is_away() -> None:
    broker = MemoryBroker()
    reader = connected(broker)
    broker.publish("a/b", b"heard", qos=0)
    reader.cut()
    broker.publish("a/b", b"missed", qos=0)
    reader.start()
    assert payloads(reader) == [b"heard"]


def test_retained_messages_come_marked_so_after_every_subscribe_and_an_empty_one_clears() -> None:
    broker = MemoryBroker()
    broker.publish("a/b", b"kept", retain=True)
    reader = connected(broker)
    reader.subscribe("a/b")
    assert [(m.payload, m.retain) for m in reader.receive(9)] == [(b"kept", True)] * 2
    broker.publish("a/b", b"new", retain=True)
    assert [(m.payload, m.retain) for m in reader.receive(9)] == [(b"new", False)]
    broker.publish("a/b", b"", retain=True)
    assert payloads(connected(broker, "late")) == []


def test_no_more_than_the_receive_maximum_is_under_way() -> None:
    broker = MemoryBroker()
    reader = connected(broker, receive_maximum=2)
    for number in range(3):
        broker.publish("a/b", b"%d" % number)
    taken = reader.receive(10)
    assert (len(taken), reader.waiting) == (2, 0)
    reader.acknowledge(taken)
    assert payloads(reader) == [b"2"]


def test_packet_ids_come_round_and_pass_over_those_in_use() -> None:
    broker = MemoryBroker(highest_mid=3)
    reader = connected(broker, receive_maximum=2)
    mids = []
    for number in range(5):
        broker.publish("a/b", b"%d" % number)
        (message,) = reader.receive(1)
        mids.append(message.mid)
        if number:
            reader.acknowledge([message])
    assert mids == [1, 2, 3, 2, 3]


def test_a_cut_connection_has_its_will_published_and_a_stopped_one_has_not() -> None:
    broker = MemoryBroker()
    watcher = connected(broker, "watcher", "status")
    for end in (MemoryConnection.stop, MemoryConnection.cut):
        end(connected(broker, "edge", will=Will("status", b"offline")))
    assert payloads(watcher) == [b"offline"]


def test_who_asks_last_gets_the_client_id() -> None:
    broker = MemoryBroker()
    first = connected(broker)
    second = connected(broker)
    broker.publish("a/b", b"x")
    assert not first.connected
    assert payloads(second) == [b"x"]


def test_a_killed_broker_goes_back_to_what_it_saved() -> None:
    broker = MemoryBroker()
    reader = connected(broker)
    broker.publish("a/b", b"saved")
    broker.save()
    reader.acknowledge(reader.receive(1))
    broker.publish("a/b", b"lost")
    broker.kill()
    with pytest.raises(BrokerUnreachable):
        reader.start()
    broker.start()
    reader.start()
    assert payloads(reader) == [b"saved"]


def test_what_is_published_while_cut_off_goes_out_on_the_next_connect() -> None:
    broker = MemoryBroker()
    reader, writer = connected(broker), connected(broker, "writer")
    writer.cut()
    delivery = writer.publish("a/b", b"x")
    before = delivery.done
    writer.start()
    assert (before, delivery.done) == (False, True)
    assert payloads(reader) == [b"x"]


def test_a_full_queue_drops_what_is_beyond_and_counts_it() -> None:
    broker = MemoryBroker(max_queued=1)
    reader = connected(broker)
    broker.publish("a/b", b"kept")
    broker.publish("a/b", b"dropped")
    assert (payloads(reader), broker.dropped) == ([b"kept"], 1)


def test_of_a_large_payload_only_the_beginning_is_kept_and_its_size_told() -> None:
    broker = MemoryBroker()
    reader = connected(broker, keep_bytes=3)
    broker.publish("a/b", b"12345")
    (message,) = reader.receive(1)
    assert (message.payload, message.size) == (b"123", 5)


@pytest.mark.parametrize(
    ("name", "topic", "fits"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("+/b", "a/b", True),
        ("#", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/b", "a/b/c", False),
    ],
)
def test_filters_match_as_mqtt_says(name: str, topic: str, fits: bool) -> None:
    assert matches(name, topic) is fits
