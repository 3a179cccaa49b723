"""The broker as one connection sees it: whether it takes us, what it grants, and what it has retained for us.

Invariant: a session that is not ours is never ended. A broker that makes user names client ids gives the doctor the
edge's own session; the first connection keeps whatever it is given and, when that is not new, stays the only one.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge.doctor.wording import size, span
from shared.errors import BrokerUnreachable
from shared.findings import Finding, note, ok, to_mend
from shared.messages import MAX_UPLINK_BYTES
from shared.mqtt import Connection, Granted
from shared.params import MqttParams, Params
from shared.topics import SiteTopics

PATIENCE_S: Final = 5.0
RETAINED_WITHIN_S: Final = 0.5  # after a subscription, retained messages follow one another closer than this
PACKET_BYTES_WANTED: Final = MAX_UPLINK_BYTES + 1024  # a full uplink batch, its topic and its properties
OURS_UNDER_WAY: Final = 20  # paho's own limit of unacknowledged publications, whatever the broker grants
VERSION: Final = "$SYS/broker/version"
DROPPED: Final = "$SYS/broker/publish/messages/dropped"
_OLDER_ONLY: Final = 0x84
_CREDENTIALS: Final = frozenset({0x86, 0x87, 0x8C})
_CONNECT_3_1_1: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"  # clean session, no client id
_CONNACK: Final = 0x20


@dataclass(frozen=True, slots=True)
class Visit:
    """What the broker granted, and what was retained on the topics asked for."""

    granted: Granted
    retained: Mapping[str, bytes]


def visit(params: Params, token: str) -> Visit | Finding:
    """Connect as the edge does, under an id of our own; a finding tells why that failed."""
    client_id = f"metercast-doctor-{token}"
    try:
        first = Connection(params.mqtt, client_id=client_id)
    except BrokerUnreachable as error:
        return to_mend("broker", str(error), "name a file that can be read, or leave it out")
    try:
        first.start(PATIENCE_S)
    except BrokerUnreachable as error:
        return refusal(params.mqtt, error, first.granted)
    first.stop()
    granted = first.granted
    if granted is None or granted.session_present:
        return _anothers_session(params.mqtt)
    try:
        return Visit(granted, _retained(params, client_id))
    except BrokerUnreachable as error:
        return refusal(params.mqtt, error, None)


def _retained(params: Params, client_id: str) -> dict[str, bytes]:
    """What is retained for us; a passing connection, so that the first one's session ends with it."""
    filters = [SiteTopics(params.mqtt.root, params.site).acked, VERSION, DROPPED]
    connection = Connection(params.mqtt, client_id=client_id, filters=filters, lasting=False)
    connection.start(PATIENCE_S)
    found: dict[str, bytes] = {}
    try:
        while len(found) < len(filters) and (messages := connection.receive(len(filters), RETAINED_WITHIN_S)):
            found |= {message.topic: message.payload for message in messages}
            connection.acknowledge(messages)
    finally:
        connection.stop()
    return found


def refusal(params: MqttParams, error: BrokerUnreachable, answer: Granted | None) -> Finding:
    """Why there is no connection, told apart by what came back."""
    found = str(error)
    if isinstance(error.__cause__, ssl.SSLError):
        return to_mend("broker", found, "set mqtt.tls.ca to the authority that signed this broker's certificate")
    if error.__cause__ is not None:
        return to_mend("broker", found, "start the broker, or set mqtt.host and mqtt.port to where it is")
    if answer is None:
        return _silent(params, found)
    if answer.reason_code == _OLDER_ONLY:
        return _older(params, answer.reason)
    if answer.reason_code in _CREDENTIALS:
        who = f"user {params.username!r}" if params.username else "us without a user name"
        mend = "set mqtt.username and mqtt.password_file to an account of this broker"
        return to_mend("broker", f"{_where(params)} refuses {who}: {answer.reason}", mend)
    return to_mend("broker", found, "let this broker accept us: its log says why it did not")


def _silent(params: MqttParams, found: str) -> Finding:
    if _speaks_3_1_1(params):
        return _older(params, "it leaves a CONNECT of MQTT 5 unanswered")
    mend = "set mqtt.host and mqtt.port to an MQTT broker; one that wants TLS needs mqtt.tls.ca"
    return to_mend("broker", f"{found}, though something listens there", mend)


def _older(params: MqttParams, reason: str) -> Finding:
    mend = "use a broker that speaks MQTT 5, such as Mosquitto 2"
    return to_mend("broker", f"{_where(params)} speaks MQTT 3.1.1 and not 5: {reason}", mend)


def _speaks_3_1_1(params: MqttParams) -> bool:
    """Whether a CONNECT of MQTT 3.1.1 is answered; over TLS nobody has been found who needs to know."""
    if params.tls.ca or params.tls.cert:
        return False
    try:
        with socket.create_connection((params.host, params.port), timeout=PATIENCE_S) as door:
            door.sendall(_CONNECT_3_1_1)
            return door.recv(4)[:1] == bytes([_CONNACK])
    except OSError:
        return False


def _anothers_session(params: MqttParams) -> Finding:
    mend = "take use_username_as_clientid out of the broker's configuration, or give the edge an account of its own"
    return to_mend("broker", f"{_where(params)} gives a new client id another client's session", mend)


def _where(params: MqttParams) -> str:
    return f"{params.host}:{params.port}"


def judge(params: Params, seen: Visit) -> list[Finding]:
    """Whether what the broker grants is what the edge needs."""
    granted = seen.granted
    version = seen.retained.get(VERSION, b"").decode(errors="replace")
    named = f" ({version})" if version else ""
    return [
        ok("broker", f"{_where(params.mqtt)} accepts us over MQTT 5{named}"),
        _session(granted, params.mqtt.session_expiry.total_seconds()),
        _abilities(granted),
        _packets(granted),
        _publications(granted),
        _dropped(seen.retained),
    ]


def _session(granted: Granted, asked_s: float) -> Finding:
    if granted.session_expiry_s >= asked_s:
        return ok("session", f"is kept for the {span(asked_s)} we ask for")
    kept = f"is kept for {span(granted.session_expiry_s)}" if granted.session_expiry_s else "is not kept"
    found = f"{kept} while the edge is away, not for the {span(asked_s)} of mqtt.session_expiry"
    return to_mend("session", found, "raise the broker's limit of session expiry: readings sent after it are lost")


def _abilities(granted: Granted) -> Finding:
    has = {
        "QoS 1": granted.max_qos >= 1,
        "retained messages": granted.retain,
        "wildcard subscriptions": granted.wildcards,
    }
    missing = [name for name, there in has.items() if not there]
    if missing:
        return to_mend("abilities", f"without {' and '.join(missing)}", "allow them in the broker, or use another")
    return ok("abilities", "QoS 1, retained messages and wildcard subscriptions")


def _packets(granted: Granted) -> Finding:
    limit, wanted = granted.max_packet_bytes, f"an uplink batch has up to {size(MAX_UPLINK_BYTES)}"
    if limit is None:
        return ok("packet size", f"the broker names no limit; {wanted}")
    if limit < PACKET_BYTES_WANTED:
        found = f"packets over {size(limit)} end the connection; {wanted}"
        return to_mend("packet size", found, "raise the broker's max_packet_size to 2000000")
    return ok("packet size", f"up to {size(limit)}; {wanted}")


def _publications(granted: Granted) -> Finding:
    found = f"the broker takes {granted.receive_maximum:,} unacknowledged of ours; up to {OURS_UNDER_WAY} are under way"
    if granted.receive_maximum < OURS_UNDER_WAY:  # Mosquitto bears it; other brokers may disconnect who does so
        return note("publications", found, f"raise the broker's max_inflight_messages to {OURS_UNDER_WAY} or more")
    return ok("publications", found)


def _dropped(retained: Mapping[str, bytes]) -> Finding:
    if DROPPED not in retained and VERSION in retained:  # Mosquitto retains a figure for 60 s after it changed
        return ok("dropped", "no message in the last minute; the broker tells of no earlier time")
    try:
        count = int(retained.get(DROPPED, b""))
    except ValueError:
        return note("dropped", f"unknown: the broker does not show us {DROPPED}")
    if not count:
        return ok("dropped", "no message since the broker started")
    found = f"{count:,} messages since the broker started, of all clients and of this doctor's probes"
    return note("dropped", found, "compare with later: a number that rises is a queue that is too short")
