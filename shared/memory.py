"""A broker in memory: the part of MQTT 5 that metercast relies on, without sockets, threads or time.

For tests and simulations of whatever speaks through `shared.mqtt.Connection`: `MemoryConnection` has the same methods.
Nothing happens by itself: a message waits in its session until `receive` takes it, and faults come from outside, by
`MemoryConnection.cut` and `MemoryBroker.kill`.

Invariants: what matches a lasting session waits there, in order, until it is acknowledged on the connection it was
received on; what was received and not acknowledged comes again after the next connect, first, in order, under the same
packet id and marked `dup`; retained messages come, marked so, after every subscribe. Messages never expire here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from shared.errors import BrokerUnreachable
from shared.mqtt import OUTGOING_LIMIT, Incoming, Will

HIGHEST_PACKET_ID: Final = 65_535


@dataclass(frozen=True, slots=True)
class Message:
    """A publication as the broker holds it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(slots=True)
class Session:
    """What the broker keeps for one client id: filters, what waits, and what was sent and is not acknowledged."""

    lasting: bool
    filters: dict[str, None] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)
    unacknowledged: dict[int, Message] = field(default_factory=dict)
    last_mid: int = 0

    def copy(self) -> Session:
        """One that changes by itself; messages are shared, as they never change."""
        return Session(self.lasting, dict(self.filters), deque(self.queue), dict(self.unacknowledged), self.last_mid)

    def held(self) -> Iterator[Message]:
        """Every message that its client has not acknowledged, in the order it will come."""
        yield from self.unacknowledged.values()
        yield from self.queue

    def wants(self, topic: str) -> bool:
        """Whether one of its filters matches `topic`."""
        return any(matches(name, topic) for name in self.filters)

    def sent(self, message: Message, highest_mid: int) -> int:
        """Note that `message` is under way and return its packet id, one that is free."""
        while True:
            self.last_mid = self.last_mid % highest_mid + 1
            if self.last_mid not in self.unacknowledged:
                self.unacknowledged[self.last_mid] = message
                return self.last_mid


class MemoryBroker:
    """Sessions and retained messages; what survives `kill` is what the last `save` held.

    `highest_mid` bounds packet ids, and so what may be under way, so that a short test can see ids used again. A
    session that holds `max_queued` waiting messages drops what is beyond and counts it.
    """

    def __init__(self, *, max_queued: int = 100_000, highest_mid: int = HIGHEST_PACKET_ID) -> None:
        self.max_queued = max_queued
        self.highest_mid = highest_mid
        self.up = True
        self.dropped = 0
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Message] = {}
        self._connected: dict[str, MemoryConnection] = {}
        self._saved: tuple[dict[str, Session], dict[str, Message]] = ({}, {})

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Take a message in: retain it where asked (an empty one clears), and give it to every session that wants it.

        Raises BrokerUnreachable while the broker is down.
        """
        if not self.up:
            raise BrokerUnreachable("the broker in memory is down")
        message = Message(topic, payload, qos)
        if retain:
            self.retained.pop(topic, None)
            if payload:
                self.retained[topic] = Message(topic, payload, qos, retain=True)
        for client_id, session in self.sessions.items():
            if session.wants(topic) and (qos or client_id in self._connected):
                self._put(session, message)

    def _put(self, session: Session, message: Message) -> None:
        if len(session.queue) < self.max_queued:
            session.queue.append(message)
        else:
            self.dropped += 1

    def subscribe(self, session: Session, name: str) -> None:
        """Add a filter to a session; what is retained under it comes (again)."""
        session.filters[name] = None
        for topic, message in self.retained.items():
            if matches(name, topic):
                self._put(session, message)

    def attach(self, connection: MemoryConnection) -> Session:
        """Give a connection its session, from whoever holds the client id. Raises BrokerUnreachable while down."""
        if not self.up:
            raise BrokerUnreachable("the broker in memory is down")
        if (holder := self._connected.get(connection.client_id)) is not None:
            holder.cut()
        if not connection.lasting:
            self.sessions.pop(connection.client_id, None)
        self._connected[connection.client_id] = connection
        return self.sessions.setdefault(connection.client_id, Session(connection.lasting))

    def detach(self, connection: MemoryConnection, *, politely: bool) -> None:
        """A connection ends; without a goodbye its will is published."""
        if self._connected.get(connection.client_id) is not connection:
            return
        del self._connected[connection.client_id]
        if not connection.lasting:
            self.sessions.pop(connection.client_id, None)
        if not politely and connection.will is not None and self.up:
            self.publish(connection.will.topic, connection.will.payload, retain=True)

    def save(self) -> None:
        """Keep what there is now for `kill`."""
        lasting = {name: session.copy() for name, session in self.sessions.items() if session.lasting}
        self._saved = (lasting, dict(self.retained))

    def stop(self) -> None:
        """End in good order: everything is saved."""
        self.save()
        self.kill()

    def kill(self) -> None:
        """End at once: every connection breaks, and what came or was acknowledged since the last `save` is undone."""
        self.up = False
        for connection in list(self._connected.values()):
            connection.cut()
        sessions, retained = self._saved
        self.sessions = {name: session.copy() for name, session in sessions.items()}
        self.retained = dict(retained)

    def start(self) -> None:
        """Serve again; clients come back when they `start`."""
        self.up = True


class MemoryDelivery:
    """One publication under way."""

    __slots__ = ("done", "refused")

    def __init__(self) -> None:
        self.done = False  # the broker has it
        self.refused = False  # the bounded queue had no room


class MemoryConnection:
    """A client of a MemoryBroker, in the place of `shared.mqtt.Connection`.

    What is published while it is cut off waits in it, as in paho, and is lost with it.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        client_id: str,
        filters: Sequence[str] = (),
        will: Will | None = None,
        keep_bytes: int = 1_048_576,
        lasting: bool = True,
        receive_maximum: int = 2000,
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.will = will
        self.lasting = lasting
        self.connects = 0
        self.dropped = 0
        self.inbox_full = False
        self._filters = dict.fromkeys(filters)
        self._keep_bytes = keep_bytes
        self._receive_maximum = min(receive_maximum, broker.highest_mid)
        self._session: Session | None = None
        self._again: deque[int] = deque()
        self._outgoing: deque[tuple[Message, MemoryDelivery]] = deque()

    def start(self, timeout_s: float = 0.0) -> None:  # noqa: ARG002 -- as Connection has it; nothing waits here
        """Connect, or connect again; raises BrokerUnreachable while the broker is down."""
        session = self.broker.attach(self)
        self._session = session
        self.connects += 1
        self._again = deque(session.unacknowledged)
        for name in self._filters:
            self.broker.subscribe(session, name)
        while self._outgoing:
            self._hand_over(*self._outgoing.popleft())

    def stop(self) -> None:
        """Say goodbye; a lasting session stays."""
        self._end(politely=True)

    def cut(self) -> None:
        """Lose the connection, as when a cable is pulled: the broker publishes the will."""
        self._end(politely=False)

    def _end(self, *, politely: bool) -> None:
        if self._session is not None:
            self._session = None
            self.broker.detach(self, politely=politely)

    @property
    def connected(self) -> bool:
        """Whether the broker has us."""
        return self._session is not None

    @property
    def waiting(self) -> int:
        """Messages that `receive` could take at once."""
        if self._session is None:
            return 0
        room = self._receive_maximum - len(self._session.unacknowledged)
        return len(self._again) + max(min(len(self._session.queue), room), 0)

    def receive(self, limit: int, timeout_s: float = 0.0) -> list[Incoming]:  # noqa: ARG002 -- as above
        """Up to `limit` messages in order, none where none wait."""
        return [self._next() for _ in range(min(limit, self.waiting))]

    def _next(self) -> Incoming:
        session = self._session
        assert session is not None, "nothing waits without a session"
        if self._again:
            mid = self._again.popleft()
            return self._incoming(session.unacknowledged[mid], mid, dup=True)
        message = session.queue.popleft()
        mid = session.sent(message, self.broker.highest_mid) if message.qos else 0
        return self._incoming(message, mid, dup=False)

    def _incoming(self, message: Message, mid: int, *, dup: bool) -> Incoming:
        return Incoming(
            topic=message.topic,
            payload=message.payload[: self._keep_bytes],
            size=len(message.payload),
            qos=message.qos,
            retain=message.retain,
            mid=mid,
            dup=dup,
            connection=self.connects,
        )

    def acknowledge(self, messages: Iterable[Incoming]) -> None:
        """Tell the broker that these are safe; those of an earlier connection are left out."""
        for message in messages:
            if self._session is not None and message.qos and message.connection == self.connects:
                self._session.unacknowledged.pop(message.mid, None)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,  # noqa: ARG002 -- as Connection has it; nothing expires here
    ) -> MemoryDelivery:
        """Hand a message to the broker, or keep it until there is one."""
        delivery = MemoryDelivery()
        message = Message(topic, payload, qos, retain)
        if self.connected:
            self._hand_over(message, delivery)
        elif len(self._outgoing) < OUTGOING_LIMIT:
            self._outgoing.append((message, delivery))
        else:
            delivery.refused = True
        return delivery

    def _hand_over(self, message: Message, delivery: MemoryDelivery) -> None:
        self.broker.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
        delivery.done = True

    def subscribe(self, name: str) -> None:
        """Add a filter, now and on every connect; subscribing again has retained messages sent again."""
        self._filters[name] = None
        if self._session is not None:
            self.broker.subscribe(self._session, name)

    def unsubscribe(self, name: str) -> None:
        """Take a filter away."""
        self._filters.pop(name, None)
        if self._session is not None:
            self._session.filters.pop(name, None)


@lru_cache(maxsize=4096)
def matches(name: str, topic: str) -> bool:
    """Whether a topic filter with `+` and `#` matches a topic; wildcards do not reach into `$` topics."""
    if name == topic:
        return True
    wanted, given = name.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for level, part in enumerate(wanted):
        if part == "#":
            return True
        if level == len(given) or part not in ("+", given[level]):
            return False
    return len(wanted) == len(given)
