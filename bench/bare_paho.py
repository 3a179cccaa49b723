"""The peer of `ingest_committed`: paho and nothing else. It takes messages, acknowledges every batch, and leaves."""

from __future__ import annotations

import socket
import sys
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def consume(port: int, client_id: str, version: int, count: int, batch: int, receive_maximum: int) -> None:
    """Resume the session of `client_id`, take `count` messages, acknowledge each `batch` of them, disconnect."""
    five = version == 5
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        manual_ack=True,
        clean_session=None if five else False,
    )
    waiting: list[int] = []
    left = count

    def on_message(client: Client, _userdata: Any, message: MQTTMessage) -> None:
        nonlocal left
        left -= 1
        waiting.append(message.mid)
        if len(waiting) >= batch or not left:
            for mid in waiting:
                client.ack(mid, 1)
            waiting.clear()
        if not left:
            client.disconnect()

    client.on_message = on_message
    client.on_socket_open = _without_nagle
    properties = None
    if five:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = 3600
        properties.ReceiveMaximum = receive_maximum
    client.connect("127.0.0.1", port, clean_start=False if five else 3, properties=properties)
    client.loop_forever()


def _without_nagle(_client: Client, _userdata: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    port, client_id, *numbers = sys.argv[1:]
    consume(int(port), client_id, *map(int, numbers))
