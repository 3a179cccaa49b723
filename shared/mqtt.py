"""The only home of paho: one MQTT 5 connection with a persistent session, acknowledged by us after the commit.

Invariants: filters are subscribed on every connect; a message is acknowledged only by `acknowledge`, and only on the
connection it came on (after a reconnect the broker sends it again); what waits in the inbox is bounded, because the
broker never sends more than ReceiveMaximum unacknowledged QoS 1 messages, each is kept up to `keep_bytes`, and QoS 0
beyond it is dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import socket
import ssl
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import BrokerUnreachable
from shared.params import MqttParams

log = logging.getLogger(__name__)

RECONNECT_AT_MOST_S: Final = 30
OUTGOING_LIMIT: Final = 20_000  # paho's own default is no limit: memory without bound while the broker is away


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came; `connection` tells on which connect, so that no later one is acknowledged in its stead.

    `size` is what was sent; of more than the connection's `keep_bytes` only the beginning is in `payload`.
    """

    topic: str
    payload: bytes
    size: int
    qos: int
    retain: bool
    mid: int
    dup: bool
    connection: int


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when we vanish."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """A broker's answer to our CONNECT: its reason code (0 accepts us), and its limits.

    Invariant: what the broker left out is what MQTT 5 says it means then.
    """

    reason_code: int
    reason: str
    session_present: bool
    session_expiry_s: int
    receive_maximum: int
    max_packet_bytes: int | None
    max_qos: int
    retain: bool
    wildcards: bool

    @classmethod
    def of(cls, reason: ReasonCode, flags: ConnectFlags, properties: Properties | None, asked_expiry_s: int) -> Granted:
        """As paho hands it over; the expiry is what we asked for unless the broker says another."""
        said = vars(properties) if properties else {}
        return cls(
            reason_code=reason.value,
            reason=str(reason),
            session_present=flags.session_present,
            session_expiry_s=said.get("SessionExpiryInterval", asked_expiry_s),
            receive_maximum=said.get("ReceiveMaximum", 65_535),
            max_packet_bytes=said.get("MaximumPacketSize"),
            max_qos=said.get("MaximumQoS", 2),
            retain=bool(said.get("RetainAvailable", 1)),
            wildcards=bool(said.get("WildcardSubscriptionAvailable", 1)),
        )


class Delivery:
    """One publication under way."""

    __slots__ = ("_info",)

    def __init__(self, info: MQTTMessageInfo) -> None:
        self._info = info

    @property
    def done(self) -> bool:
        """Whether the broker has acknowledged it."""
        return self._info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and self._info.is_published()

    @property
    def refused(self) -> bool:
        """Whether the bounded queue had no room, so that it must be published again."""
        return self._info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE


class Connection:
    """A connection that comes back by itself; thread-safe where documented by paho.

    The broker keeps a lasting connection's session and queue while it is away; of a passing one nothing stays.
    """

    def __init__(
        self,
        params: MqttParams,
        *,
        client_id: str,
        filters: Sequence[str] = (),
        will: Will | None = None,
        keep_bytes: int = 1_048_576,
        lasting: bool = True,
    ) -> None:
        self._params = params
        self._session_expiry_s = int(params.session_expiry.total_seconds()) if lasting else 0
        self._keep_bytes = keep_bytes
        self._filters = {name: SubscribeOptions(qos=1) for name in filters}
        self._inbox: queue.SimpleQueue[Incoming] = queue.SimpleQueue()
        self._connections = 0
        self._up = threading.Event()
        self._refusal = ""
        self._granted: Granted | None = None
        self.dropped = 0
        self._client = self._make_client(client_id)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)

    def _make_client(self, client_id: str) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_open = _without_nagle
        client.reconnect_delay_set(min_delay=1, max_delay=RECONNECT_AT_MOST_S)
        client.max_queued_messages_set(OUTGOING_LIMIT)
        if self._params.username:
            client.username_pw_set(self._params.username, _password(self._params.password_file))
        if self._params.tls.ca or self._params.tls.cert:
            client.tls_set_context(_tls_context(self._params))
        return client

    def start(self, timeout_s: float = 30.0) -> None:
        """Connect and keep connected in a thread of its own; raises BrokerUnreachable when that fails at first."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = self._session_expiry_s
        # Mosquitto counts the window, not us: acking in batches with its default of 20 in flight stops after 20.
        properties.ReceiveMaximum = self._params.receive_maximum
        where = f"{self._params.host}:{self._params.port}"
        try:
            self._client.connect(
                self._params.host, self._params.port, keepalive=30, clean_start=False, properties=properties
            )
        except (OSError, ValueError) as error:
            raise BrokerUnreachable(f"mqtt.host {where}: {error}") from error
        self._client.loop_start()
        if not self._up.wait(timeout_s):
            self.stop()
            raise BrokerUnreachable(f"mqtt.host {where}: {self._refusal or f'no answer in {timeout_s:g} s'}")

    def stop(self) -> None:
        """Disconnect; the broker keeps the session."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        return self._up.is_set()

    @property
    def connects(self) -> int:
        """How often the broker has accepted us: what it kept of ours may be gone after each."""
        return self._connections

    @property
    def granted(self) -> Granted | None:
        """What the broker answered to our latest CONNECT, be it yes or no; None before any answer."""
        return self._granted

    def receive(self, limit: int, timeout_s: float) -> list[Incoming]:
        """Up to `limit` messages in order; waits at most `timeout_s` for the first."""
        batch: list[Incoming] = []
        try:
            batch.append(self._inbox.get(timeout=timeout_s))
            while len(batch) < limit:
                batch.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return batch

    @property
    def inbox_full(self) -> bool:
        """Whether nothing more is read from the broker until some is taken."""
        return False

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return self._inbox.qsize()

    def acknowledge(self, messages: Iterable[Incoming]) -> None:
        """Tell the broker that these are safe, in order; those of an earlier connection are left out."""
        for message in messages:
            if message.qos and message.connection == self._connections:
                self._client.ack(message.mid, message.qos)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> Delivery:
        """Hand a message to the network thread."""
        properties = None
        if expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as above
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if qos and info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            # paho has queued it and sends it on the next connect, but would call it failed for ever after.
            info.rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        return Delivery(info)

    def subscribe(self, name: str) -> None:
        """Add a filter, now and on every connect; subscribing again has retained messages sent again."""
        self._filters[name] = SubscribeOptions(qos=1)
        if self.connected:
            self._client.subscribe(name, options=self._filters[name])

    def unsubscribe(self, name: str) -> None:
        """Take a filter away."""
        if self._filters.pop(name, None) is not None and self.connected:
            self._client.unsubscribe(name)

    def _on_connect(
        self, client: Client, _userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._granted = Granted.of(reason, flags, properties, self._session_expiry_s)
        if reason.is_failure:
            self._refusal = f"the broker refused us: {reason}"
            log.warning("connect refused", extra={"reason": str(reason)})
            return
        self._connections += 1
        if self._filters:
            client.subscribe(list(self._filters.items()))
        self._up.set()
        log.info("connected", extra={"host": self._params.host, "port": self._params.port})

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._up.clear()
        log.info("disconnected", extra={"reason": str(reason)})

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if message.qos == 0 and self._inbox.qsize() >= self._params.receive_maximum:
            self.dropped += 1
            return
        self._inbox.put(
            Incoming(
                topic=message.topic,
                payload=bytes(message.payload[: self._keep_bytes]),
                size=len(message.payload),
                qos=message.qos,
                retain=message.retain,
                mid=message.mid,
                dup=message.dup,
                connection=self._connections,
            )
        )


def _without_nagle(_client: Client, _userdata: Any, opened: Any) -> None:
    # 40 ms a round trip otherwise: Nagle waits for the delayed ACK of the other side.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _password(file: str) -> str | None:
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise BrokerUnreachable(f"mqtt.password_file {file}: {error.strerror}") from error


def _tls_context(params: MqttParams) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=params.tls.ca or None)
        if params.tls.cert:
            context.load_cert_chain(params.tls.cert, params.tls.key or None)
    except (OSError, ssl.SSLError) as error:
        raise BrokerUnreachable(f"mqtt.tls: {error}") from error
    return context
