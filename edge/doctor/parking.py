"""The broker's queue by probe: messages parked for a session that is away, and counted when it comes back.

Invariants: the session is of an id made for this probe, subscribed to a topic made for this probe, never retained; it
ends with the probe, and by itself soon after a probe that was killed.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from edge.doctor.asked import PARKED_AT_MOST
from edge.doctor.demand import Demand, lasts
from shared.errors import BrokerUnreachable
from shared.findings import Finding, note, ok, to_mend
from shared.mqtt import Connection, Delivery, Incoming
from shared.params import MqttParams

MESSAGE_BYTES: Final = 80  # as large as a reading, for brokers that limit the queue's bytes
SESSION_EXPIRY: Final = timedelta(minutes=2)
QUIET_S: Final = 3.0  # a broker that sent nothing for so long has stopped
PATIENCE_S: Final = 5.0
CONFIRMED_WITHIN_S: Final = 20.0
_UNCONFIRMED_AT_MOST: Final = 5_000
_AT_ONCE: Final = 5_000
_READY: Final = b"ready"
_LAST: Final = b"last"


@dataclass(frozen=True, slots=True)
class Parking:
    """How many messages were parked, how many came back, and how many of these before the first acknowledgement."""

    parked: int
    returned: int
    unacknowledged: int
    session_kept: bool


def park(params: MqttParams, *, topic: str, client_id: str, count: int) -> Parking | None:
    """Park `count` messages and take them back; None when the broker delivers nothing on `topic` to us.

    Raises BrokerUnreachable when the broker goes away meanwhile.
    """
    brief = params.model_copy(update={"session_expiry": SESSION_EXPIRY})
    try:
        if not _subscribe(brief, topic, client_id):
            return None
        _send(params, topic, f"{client_id}-sender", count)
        return _collect(brief, topic, client_id, count)
    finally:
        with suppress(BrokerUnreachable):
            _end_session(params, client_id)


def _subscribe(params: MqttParams, topic: str, client_id: str) -> bool:
    """Whether what we publish on `topic` comes to us, so that the subscription stands; leaves the session behind."""
    connection = Connection(params, client_id=client_id, filters=[topic])
    connection.start(PATIENCE_S)
    try:
        connection.publish(topic, _READY)
        ready = connection.receive(1, PATIENCE_S)
        connection.acknowledge(ready)
        return bool(ready)
    finally:
        connection.stop()


def _send(params: MqttParams, topic: str, client_id: str, count: int) -> None:
    connection = Connection(params, client_id=client_id, lasting=False)
    connection.start(PATIENCE_S)
    try:
        for first in range(0, count, _UNCONFIRMED_AT_MOST):
            numbers = range(first, min(first + _UNCONFIRMED_AT_MOST, count))
            _wait([connection.publish(topic, b"%*d" % (MESSAGE_BYTES, number)) for number in numbers])
    finally:
        connection.stop()


def _wait(deliveries: list[Delivery]) -> None:
    deadline_s = time.monotonic() + CONFIRMED_WITHIN_S
    while not all(delivery.done for delivery in deliveries):
        if time.monotonic() > deadline_s:
            raise BrokerUnreachable(f"the broker did not confirm our messages within {CONFIRMED_WITHIN_S:g} s")
        time.sleep(0.01)


def _collect(params: MqttParams, topic: str, client_id: str, count: int) -> Parking:
    connection = Connection(params, client_id=client_id)
    connection.start(PATIENCE_S)
    try:
        granted = connection.granted
        connection.publish(topic, _LAST)  # a broker delivers in order: when this comes, nothing else is left
        held = _until_stopped(connection)
        returned = _parked(held)
        unacknowledged = len(returned)
        while held and not _has_last(held):
            connection.acknowledge(held)
            held = connection.receive(_AT_ONCE, QUIET_S)
            returned |= _parked(held)
        return Parking(count, len(returned), unacknowledged, granted is not None and granted.session_present)
    finally:
        connection.stop()


def _until_stopped(connection: Connection) -> list[Incoming]:
    """What the broker sends without any acknowledgement."""
    held: list[Incoming] = []
    while more := connection.receive(_AT_ONCE, QUIET_S):
        held += more
        if _has_last(more):
            break
    return held


def _parked(messages: list[Incoming]) -> set[bytes]:
    return {message.payload for message in messages} - {_READY, _LAST}


def _has_last(messages: list[Incoming]) -> bool:
    return any(message.payload == _LAST for message in messages)


def _end_session(params: MqttParams, client_id: str) -> None:
    connection = Connection(params, client_id=client_id, lasting=False)
    connection.start(PATIENCE_S)
    connection.stop()


def judge(found: Parking | None, demand: Demand, *, topic: str, batch: int) -> list[Finding]:
    """Whether the queue holds an hour's outage, and whether a whole batch may be unacknowledged."""
    if found is None:
        mend = f"let this account publish and subscribe to {topic.rpartition('/')[0]}/+"
        return [note("queue", f"unknown: what we publish on {topic} does not come back to us", mend)]
    if not found.session_kept:
        mend = "allow persistent sessions in the broker: what comes while the edge is away is lost"
        return [to_mend("queue", "the broker forgot a session as soon as its client had left", mend)]
    return [_queue(found, demand), _receive_maximum(found, batch)]


def _queue(found: Parking, demand: Demand) -> Finding:
    limited = found.returned < found.parked
    told = f"{found.returned:,} of {found.parked:,}" if limited else f"all {found.parked:,}"
    told = f"{told} parked messages came back"
    if not demand.meters and limited:
        told = f"{told}; no meter is known yet, and this is good for {lasts(found.returned)}"
        return note("queue", told, "set the broker's max_queued_messages to what your meters send in an outage")
    told = f"{told}; {demand}"
    if found.returned >= demand.messages:
        return ok("queue", told)
    if limited:
        return to_mend("queue", told, f"set the broker's max_queued_messages to {demand.messages} or more")
    if demand.messages > PARKED_AT_MOST:
        return note("queue", told, f"see that the broker's max_queued_messages is {demand.messages} or more")
    return note("queue", told, f"ask again with --park {demand.messages}, or look in --broker-conf FILE")


def _receive_maximum(found: Parking, batch: int) -> Finding:
    told = f"{found.unacknowledged:,} came before the first acknowledgement; a batch has up to {batch:,}"
    if found.unacknowledged >= batch:
        return ok("receive maximum", told)
    if found.unacknowledged == found.returned:
        return note("receive maximum", f"{told}, and there was no more to come")
    mend = f"raise the broker's max_inflight_messages to {batch}, or lower edge.batch to {found.unacknowledged}"
    return to_mend("receive maximum", told, mend)
