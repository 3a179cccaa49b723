"""The only home of paho: one MQTT 5 connection with a persistent session, acknowledged by us after the commit.

Invariants: filters are subscribed on every connect; a message is acknowledged only by `acknowledge`, and only on the
connection it came on (after a reconnect the broker sends it again); what waits in the inbox is bounded: of each message
`keep_bytes`, of all together `inbox_bytes`, beyond which the broker is not read, and QoS 0 is dropped and counted when
more than ReceiveMaximum wait. Receiving and acknowledging go past paho (see `Wire`); all else is paho's, among it the
window of 20 for publishing, which is all that a default Mosquitto allows: a wider one was measured to be no faster.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import BrokerUnreachable
from shared.inbox import Inbox
from shared.packets import Incoming
from shared.params import MqttParams
from shared.wire import Wire

__all__ = ["Connection", "Delivery", "Incoming", "Will"]

log = logging.getLogger(__name__)

RECONNECT_AT_MOST_S: Final = 30
OUTGOING_LIMIT: Final = 20_000  # paho's own default is no limit: memory without bound while the broker is away


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
        inbox_bytes: int = 67_108_864,
        keepalive_s: int = 30,
        lasting: bool = True,
    ) -> None:
        self._params = params
        self._session_expiry_s = int(params.session_expiry.total_seconds()) if lasting else 0
        self._keep_bytes = keep_bytes
        self._keepalive_s = keepalive_s
        self._filters = {name: SubscribeOptions(qos=1) for name in filters}
        self._gone: set[str] = set()  # filters taken away while cut off: the broker's session still has them
        self._inbox = Inbox(at_most=params.receive_maximum, at_most_bytes=inbox_bytes)
        self._connects = 0
        self._up = threading.Event()
        self._refusal = ""
        self._granted: Granted | None = None
        self._client = self._make_client(client_id)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)

    def _make_client(self, client_id: str) -> _Client:
        client = _Client(client_id, self._inbox, self._keep_bytes)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
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
                self._params.host,
                self._params.port,
                keepalive=self._keepalive_s,
                clean_start=False,
                properties=properties,
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
        return self._connects

    @property
    def granted(self) -> Granted | None:
        """What the broker answered to our latest CONNECT, be it yes or no; None before any answer."""
        return self._granted

    def receive(self, limit: int, timeout_s: float) -> list[Incoming]:
        """Up to `limit` messages in order; waits at most `timeout_s` for the first."""
        return self._inbox.take(limit, timeout_s)

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return len(self._inbox)

    @property
    def dropped(self) -> int:
        """QoS 0 messages that came when no more could wait, so far."""
        return self._inbox.dropped

    @property
    def inbox_full(self) -> bool:
        """Whether what waits has reached its bound in bytes, so that nothing more is read from the broker."""
        return self._inbox.full

    def acknowledge(self, messages: Sequence[Incoming]) -> None:
        """Tell the broker that these are safe, in order; those of an earlier connection are left out."""
        wire = self._client.wire
        if wire is None:
            return
        number = wire.number
        wire.acknowledge([message.mid for message in messages if message.qos == 1 and message.connection == number])
        for message in messages:
            if message.qos == 2 and message.connection == number:
                self._client.ack(message.mid, message.qos)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> Delivery:
        """Hand a message to the network thread."""
        properties = None if expiry_s is None else _expiring(expiry_s)
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if qos and info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            # paho has queued it and sends it on the next connect, but would call it failed for ever after.
            info.rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        return Delivery(info)

    def subscribe(self, name: str) -> None:
        """Add a filter, now and on every connect; subscribing again has retained messages sent again."""
        self._filters[name] = SubscribeOptions(qos=1)
        self._gone.discard(name)
        if self.connected:
            self._client.subscribe(name, options=self._filters[name])

    def unsubscribe(self, name: str) -> None:
        """Take a filter away, one of an earlier process too: the session that the broker keeps may still have it."""
        self._filters.pop(name, None)
        if self.connected:
            self._client.unsubscribe(name)
        else:
            self._gone.add(name)

    def _on_connect(
        self, client: Client, _userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._granted = Granted.of(reason, flags, properties, self._session_expiry_s)
        if reason.is_failure:
            self._refusal = f"the broker refused us: {reason}"
            log.warning("connect refused", extra={"reason": str(reason)})
            return
        self._connects += 1
        gone, self._gone = self._gone, set()
        if gone:
            client.unsubscribe(list(gone))
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
        """Take what the wire leaves to paho: QoS 2, which we never ask for."""
        wire = self._client.wire
        if wire is not None:
            payload = bytes(message.payload[: self._keep_bytes])
            size, number = len(message.payload), wire.number
            self._inbox.put(
                [
                    Incoming(
                        _topic(message), payload, size, message.qos, message.retain, message.mid, message.dup, number
                    )
                ]
            )


class _Client(Client):
    """paho on a `Wire` in place of each socket it opens."""

    def __init__(self, client_id: str, inbox: Inbox, keep_bytes: int) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self._inbox = inbox
        self._keep_bytes = keep_bytes
        self._wires = 0

    @property
    def wire(self) -> Wire | None:
        """That of the connection that stands or is being made; None when there is none."""
        current = self.socket()
        return current if isinstance(current, Wire) else None

    def want_write(self) -> bool:
        """Whether paho or the wire has something to send."""
        wire = self.wire
        return super().want_write() or (wire is not None and wire.unsent)

    def loop_write(self) -> MQTTErrorCode:
        """Send paho's packets, as many as there are, in one write."""
        code = super().loop_write()
        wire = self.wire
        if wire is not None:
            wire.flush()
        return code

    def _create_socket(self) -> Wire:
        opened = super()._create_socket()
        assert isinstance(opened, socket.socket)
        self._wires += 1
        return Wire(opened, number=self._wires, inbox=self._inbox, keep_bytes=self._keep_bytes)


@lru_cache(maxsize=16)
def _expiring(expiry_s: int) -> Properties:
    """Made once for all publications that expire alike: paho takes longer for it than for all else of a message."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.MessageExpiryInterval = expiry_s
    return properties


def _topic(message: MQTTMessage) -> str:
    try:
        return message.topic
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}"


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
