"""The broker configurations we ship, in a real Mosquitto: they start, bridge, keep what waits, refuse what is big."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.mosquitto import SHIPPED, running
from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for


@dataclass(slots=True)
class Received:
    """What one client got: topic and payload, in order."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    subscribed: threading.Event = field(default_factory=threading.Event)

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for at, payload in self.messages if at == topic]


@contextmanager
def client(port: int, client_id: str, *filters: str) -> Iterator[tuple[paho.Client, Received]]:
    """A connected MQTT 5 client with a session that lasts, subscribed at QoS 1."""
    received = Received()
    mqtt = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    mqtt.on_message = lambda _c, _u, message: received.messages.append((message.topic, bytes(message.payload)))
    mqtt.on_connect = lambda c, *_: c.subscribe([(name, 1) for name in filters]) if filters else None
    mqtt.on_subscribe = lambda *_: received.subscribed.set()
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 3600
    mqtt.connect("127.0.0.1", port, clean_start=False, properties=session)
    mqtt.loop_start()
    try:
        assert not filters or received.subscribed.wait(PATIENCE_S)
        yield mqtt, received
    finally:
        mqtt.disconnect()
        mqtt.loop_stop()


def edge_configuration(central_port: int) -> str:
    bridge = (SHIPPED / "bridge.conf").read_text()
    names = {"@SITE@": "home", "@CENTRAL_MQTT_HOST@": "127.0.0.1", "@CENTRAL_MQTT_PORT@": str(central_port)}
    for name, value in names.items():
        bridge = bridge.replace(name, value)
    return (SHIPPED / "edge.conf").read_text() + bridge.replace("restart_timeout 2 60", "restart_timeout 1 1")


def central_configuration() -> str:
    return (SHIPPED / "central.conf").read_text()


@pytest.mark.parametrize("name", ["edge.conf", "central.conf"])
def test_a_shipped_configuration_is_taken_without_a_complaint(name: str, tmp_path: Path) -> None:
    with running(tmp_path / "b", (SHIPPED / name).read_text()) as broker, client(broker.port, "someone", "t"):
        complaints = [line for line in broker.log.splitlines() if "Error" in line or "Warning" in line]
        assert [line for line in complaints if "run as root" not in line] == []


def test_the_bridge_carries_uplink_up_and_models_down(tmp_path: Path) -> None:
    up, down = free_port(), free_port()
    with (
        running(tmp_path / "central", central_configuration(), up),
        client(up, "central", "metercast/#") as (central, at_central),
    ):
        central.publish("metercast/artifacts/abc/0", b"x" * 131_072, qos=1, retain=True).wait_for_publish(PATIENCE_S)
        central.publish("metercast/other/models/desired", b"not ours", qos=1, retain=True).wait_for_publish(PATIENCE_S)
        with (
            running(tmp_path / "edge", edge_configuration(up), down),
            client(down, "edge", "metercast/#") as (edge, at_edge),
        ):
            wait_for(lambda: at_edge.payloads("metercast/artifacts/abc/0") != [], "no artifact came down")
            edge.publish("metercast/home/readings/m1", b"stays here", qos=1).wait_for_publish(PATIENCE_S)
            edge.publish("metercast/home/uplink", b"batch", qos=1).wait_for_publish(PATIENCE_S)
            wait_for(lambda: at_central.payloads("metercast/home/uplink") == [b"batch"], "no batch went up")
            assert at_central.payloads("metercast/home/readings/m1") == []
            assert at_edge.payloads("metercast/other/models/desired") == []


def test_the_bridge_keeps_what_the_edge_sends_while_central_is_away(tmp_path: Path) -> None:
    up, down = free_port(), free_port()
    batches = [b"batch %d" % n for n in range(1500)]  # more than Mosquitto's own limit of 1,000
    with running(tmp_path / "central", central_configuration(), up), client(up, "central", "metercast/#"):
        pass  # known to its broker from now on
    with running(tmp_path / "edge", edge_configuration(up), down), client(down, "edge") as (edge, _):
        for batch in batches:
            edge.publish("metercast/home/uplink", batch, qos=1).wait_for_publish(PATIENCE_S)
        with running(tmp_path / "central", central_configuration(), up), client(up, "central") as (_, received):
            wait_for(lambda: set(received.payloads("metercast/home/uplink")) == set(batches), "batches were lost")


def test_ten_megabytes_reach_the_edge_which_answers_and_twenty_do_not(tmp_path: Path) -> None:
    with running(tmp_path / "b", (SHIPPED / "edge.conf").read_text()) as broker:
        port = broker.port
        with client(port, "edge", "#") as (_, received), client(port, "meter") as (meter, _):
            meter.publish("big", bytes(10_000_000), qos=1).wait_for_publish(PATIENCE_S)
            wait_for(lambda: len(received.messages) == 1, "10 MB did not arrive")
        disconnected = threading.Event()
        with client(port, "meter") as (meter, _):
            meter.on_disconnect = lambda *_: disconnected.set()
            meter.publish("big", bytes(20_000_000), qos=1)
            assert disconnected.wait(PATIENCE_S), "the meter was not told"
