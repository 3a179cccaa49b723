"""A connection and a real Mosquitto: nothing lost or doubled on the wire, and a broker that is silent, slow or mad."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.mqtt import Connection, Incoming
from shared.params import MqttParams, TlsParams
from tests.mosquitto import Broker, configured, running
from tests.waiting import PATIENCE_S, all_pass, wait_for

FILTER = "t/#"
CONNACK = b"\x20\x03\x00\x00\x00"
MESSAGE = b"\x30\x06\x00\x01t\x0012"  # PUBLISH at QoS 0, topic t, payload 12


@contextmanager
def connected(params: MqttParams, client_id: str, *filters: str, keepalive_s: int = 30) -> Iterator[Connection]:
    connection = Connection(params, client_id=client_id, filters=filters, keepalive_s=keepalive_s, inbox_bytes=100_000)
    connection.start(PATIENCE_S)
    try:
        yield connection
    finally:
        connection.stop()


def publish_all(connection: Connection, payloads: list[bytes]) -> None:
    deliveries = [connection.publish(f"t/{number % 100}", payload) for number, payload in enumerate(payloads)]
    wait_for(all_pass(deliveries, lambda delivery: delivery.done), "the broker to take all")


def let_acknowledgements_arrive(connection: Connection) -> None:
    """Return when the broker has read what was sent before: it answers in the order in which it reads."""
    delivery = connection.publish("elsewhere", b"")
    wait_for(lambda: delivery.done, "the broker to have read all")


def take(connection: Connection, count: int, *, acknowledge: bool = True) -> list[Incoming]:
    """So many messages, acknowledged batch by batch."""
    taken: list[Incoming] = []
    while len(taken) < count:
        batch = connection.receive(count - len(taken), PATIENCE_S)
        assert batch, f"{len(taken)} of {count} messages came"
        if acknowledge:
            connection.acknowledge(batch)
        taken += batch
    return taken


def passed_on(params: MqttParams, payloads: list[bytes]) -> list[Incoming]:
    """What a taker gets and acknowledges while a giver publishes."""
    with connected(params, "giver") as giver, connected(params, "taker", FILTER) as taker:
        sending = threading.Thread(target=publish_all, args=(giver, payloads))
        sending.start()
        taken = take(taker, len(payloads))
        sending.join()
        let_acknowledgements_arrive(taker)
    return taken


def params_of(broker: Broker) -> MqttParams:
    return MqttParams(host=broker.host, port=broker.port)


def subscribed(broker: Broker, client_id: str = "taker") -> MqttParams:
    """A lasting session of this id, subscribed and away."""
    params = params_of(broker)
    with connected(params, client_id, FILTER):
        broker.wait_subscribed(client_id, FILTER)
    return params


def test_twenty_thousand_messages_come_once_each_in_order_and_are_acknowledged_in_batches(broker: Broker) -> None:
    params = subscribed(broker)
    payloads = [b"%d" % number for number in range(20_000)]
    taken = passed_on(params, payloads)
    assert [message.payload for message in taken] == payloads
    assert not any(message.dup for message in taken)
    with connected(params, "taker", FILTER) as again:
        assert again.receive(1, 0.5) == []


def test_what_was_not_acknowledged_comes_again_and_no_old_acknowledgement_is_sent(broker: Broker) -> None:
    params = subscribed(broker)
    with connected(params, "giver") as giver:
        publish_all(giver, [b"%d" % number for number in range(10)])
    with connected(params, "taker", FILTER) as taker:
        first = take(taker, 10, acknowledge=False)
        taker.acknowledge(first[:4])
        let_acknowledgements_arrive(taker)
        broker.stop()
        wait_for(lambda: not taker.connected, "the broker to be missed")
        broker.start()
        second = take(taker, 6, acknowledge=False)
        assert [message.payload for message in second] == [message.payload for message in first[4:]]
        taker.acknowledge(first[4:])  # of the old connection, though with numbers the new one uses too
        let_acknowledgements_arrive(taker)
    with connected(params, "taker", FILTER) as taker:
        third = take(taker, 6)
        assert [message.payload for message in third] == [message.payload for message in second]
        let_acknowledgements_arrive(taker)
        assert taker.receive(1, 0.3) == []


def test_a_filter_that_is_taken_away_while_cut_off_is_taken_from_the_brokers_session_too(broker: Broker) -> None:
    with connected(params_of(broker), "giver") as giver, connected(params_of(broker), "taker", FILTER, "u/#") as taker:
        let_acknowledgements_arrive(taker)
        taker.stop()
        wait_for(lambda: not taker.connected, "the connection to end")
        taker.unsubscribe(FILTER)
        taker.start(PATIENCE_S)
        let_acknowledgements_arrive(taker)
        for topic in ("t/1", "u/1"):
            giver.publish(topic, b"")
        assert [message.topic for message in take(taker, 1)] == ["u/1"]


def test_messages_that_come_with_the_connack_can_be_acknowledged(broker: Broker) -> None:
    params = subscribed(broker)
    with connected(params, "giver") as giver:
        publish_all(giver, [b"%d" % number for number in range(500)])
    with connected(params, "taker", FILTER) as taker:
        take(taker, 500)
        let_acknowledgements_arrive(taker)
    with connected(params, "taker", FILTER) as taker:
        assert taker.receive(1, 0.3) == []


def test_a_full_inbox_holds_the_broker_back_without_losing_the_connection(broker: Broker) -> None:
    params = subscribed(broker)
    payloads = [bytes([number]) * 20_000 for number in range(200)]
    with connected(params, "giver") as giver:
        publish_all(giver, payloads)
    with connected(params, "taker", FILTER, keepalive_s=3) as taker:  # the broker cuts after half as much again
        wait_for(lambda: taker.inbox_full, "the inbox to fill")
        time.sleep(7)  # more than twice the keepalive
        assert taker.connected
        assert taker.waiting < len(payloads)
        assert [message.payload for message in take(taker, len(payloads))] == payloads
        assert not taker.inbox_full
        assert taker.connects == 1


def test_a_silent_broker_is_given_up_and_found_again(broker: Broker) -> None:
    params = subscribed(broker)
    assert broker.process is not None
    with connected(params, "taker", FILTER, keepalive_s=2) as taker:
        broker.process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: not taker.connected, "the broker to be given up")
        finally:
            broker.process.send_signal(signal.SIGCONT)
        wait_for(lambda: taker.connected, "the broker to be found again")
        with connected(params, "giver") as giver:
            publish_all(giver, [b"1"])
        assert [message.payload for message in take(taker, 1)] == [b"1"]


def test_messages_and_acknowledgements_go_through_tls(tmp_path: Path) -> None:
    authority = self_signed(tmp_path)
    tls = (f"cafile {authority}", f"certfile {authority}", f"keyfile {tmp_path / 'key.pem'}")
    payloads = [b"%d" % number for number in range(3_000)] + [bytes(300_000)] * 3
    with running(tmp_path / "b", configured("allow_anonymous true", "max_inflight_messages 0", *tls)) as broker:
        params = MqttParams(host=broker.host, port=broker.port, tls=TlsParams(ca=str(authority)))
        with connected(params, "taker", FILTER):
            pass
        assert [message.payload for message in passed_on(params, payloads)] == payloads
        with connected(params, "taker", FILTER) as again:
            assert again.receive(1, 0.3) == []


def test_a_broker_that_sends_nonsense_is_left_and_met_again() -> None:
    def nonsense(line: socket.socket) -> None:
        line.sendall(CONNACK + MESSAGE + b"\x32\x00" + bytes(range(256)))
        line.recv(1)

    def sense(line: socket.socket) -> None:
        line.sendall(CONNACK + MESSAGE)
        line.recv(1_000)

    with scripted(nonsense, sense) as params, connected(params, "taker") as taker:
        messages = take(taker, 2, acknowledge=False)
        assert [(message.topic, message.payload) for message in messages] == [("t", b"12")] * 2
        assert messages[0].connection != messages[1].connection


def test_a_message_at_qos_2_goes_the_whole_way_through_paho() -> None:
    completed = threading.Event()

    def exact(line: socket.socket) -> None:
        line.sendall(CONNACK + b"\x34\x08\x00\x01t\x00\x05\x0012")
        assert line.recv(1_000) == b"\x50\x02\x00\x05"  # PUBREC
        line.sendall(b"\x62\x02\x00\x05")  # PUBREL
        assert line.recv(1_000) == b"\x70\x02\x00\x05"  # PUBCOMP
        completed.set()

    with scripted(exact) as params, connected(params, "taker") as taker:
        assert take(taker, 1) == [Incoming("t", b"12", 2, 2, False, 5, False, 1)]
        assert completed.wait(PATIENCE_S)


def test_a_broker_that_sends_but_never_answers_a_ping_is_not_cut() -> None:
    def busy(line: socket.socket) -> None:
        line.sendall(CONNACK)
        for _ in range(50):
            line.sendall(MESSAGE)
            time.sleep(0.1)

    with scripted(busy) as params, connected(params, "taker", keepalive_s=2) as taker:
        take(taker, 50)
        assert taker.connects == 1


def test_what_a_slow_broker_does_not_take_at_once_is_sent_to_the_last_byte() -> None:
    payload, count, header_bytes = bytes(100_000), 150, 8
    owed_bytes = [count * (len(payload) + header_bytes)]  # far more than the buffers of both sides hold

    def slow(line: socket.socket) -> None:
        line.sendall(CONNACK)
        while owed_bytes[0]:
            time.sleep(0.002)
            owed_bytes[0] -= len(line.recv(min(65_536, owed_bytes[0])))

    with scripted(slow) as params, connected(params, "giver") as giver:
        for _ in range(count):
            giver.publish("t", payload, qos=0)
        wait_for(lambda: owed_bytes == [0], "the last byte")


@contextmanager
def scripted(*acts: Callable[[socket.socket], None]) -> Iterator[MqttParams]:
    """A broker that plays one act a connection, after it has read the CONNECT."""

    def play() -> None:
        for act in acts:
            line, _ = server.accept()
            with line:
                line.settimeout(PATIENCE_S)
                line.recv(1_000)
                act(line)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        playing = threading.Thread(target=play)
        playing.start()
        yield MqttParams(host="127.0.0.1", port=server.getsockname()[1])
        playing.join()


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1, its own authority; its key is key.pem beside it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    return folder / "certificate.pem"
