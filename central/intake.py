"""From uplink messages to committed rows: the shell of the ledger's state machine."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from central.record import Record
from central.recorder import BatchArrived, EpochMet, Event, Recorder, Release, TellAcked, Write
from central.telemetry import CentralMetrics
from shared.clock import iso, parse_instant_us, to_us
from shared.errors import MessageRefused, RecordError
from shared.messages import Acked, Uplink
from shared.mqtt import Connection, Incoming
from shared.topics import SiteTopics, site_of

log = logging.getLogger(__name__)

RETRY_S: Final = (0.5, 1, 2, 5, 10, 30)
HIGHEST_SEQ: Final = 2**63 - 1  # what the record's ledger can count to

T = TypeVar("T")


def read_batch(root: str, message: Incoming) -> Uplink:
    """The batch in an uplink message; raises MessageRefused in a sentence for whatever is none.

    What passes can be recorded: it has a place in the ledger, and is JSON through and through.
    """
    batch = Uplink.decompress(message.payload, message.topic)
    if batch.site != site_of(root, message.topic):
        raise MessageRefused(f"{message.topic}: the batch names site {batch.site!r:.80}")
    if batch.seq > HIGHEST_SEQ:
        raise MessageRefused(f"{message.topic}: seq is beyond any ledger")
    try:
        parse_instant_us(batch.at)
    except ValueError as error:
        raise MessageRefused(f"{message.topic}: at: {error}") from error
    try:
        json.dumps(batch.kinds, allow_nan=False)  # the parser lets NaN, Infinity and 1e999 pass
    except ValueError as error:
        raise MessageRefused(f"{message.topic}: a number is NaN or infinite") from error
    return batch


class Intake:
    """Records what the uplinks bring, and answers.

    Invariant: a message is acknowledged to the broker only after its batch is in the record, unless it needs no
    writing: a duplicate, one too far ahead (it is sent again), or no batch at all.
    """

    def __init__(
        self, record: Record, connection: Connection, metrics: CentralMetrics, *, root: str, event_clock: bool
    ) -> None:
        self._record = record
        self._connection = connection
        self._metrics = metrics
        self._root = root
        self._event_clock = event_clock
        self._recorder = Recorder()
        self._deliveries: dict[int, Incoming] = {}
        self._delivered = 0

    def take(self, messages: Sequence[Incoming], now: datetime, stop: threading.Event) -> list[Uplink]:
        """Record the batches among `messages` and return those that are newly in the record, in order.

        A record that cannot be written is tried again until it can, or until `stop`.
        """
        events: list[Event] = []
        for message in messages:
            found = self._events(message, stop)
            if found is None:
                return []
            events += found
        repeated = self._recorder.duplicates
        written: list[Uplink] = []
        for effect in self._recorder.handle(events):
            match effect:
                case Write(batches):
                    if not self._committed(batches, stop):
                        return []
                    written += batches
                case TellAcked():
                    self._tell(effect, now)
                case Release(deliveries):
                    self._connection.acknowledge([self._deliveries.pop(number) for number in deliveries])
        self._metrics.duplicates.inc(self._recorder.duplicates - repeated)
        return written

    def _events(self, message: Incoming, stop: threading.Event) -> list[Event] | None:
        """What a message tells the recorder; None when `stop` came while the record could not be read."""
        try:
            batch = read_batch(self._root, message)
        except MessageRefused as error:
            log.warning("uplink refused: %s", error)
            self._metrics.refused.inc()
            self._connection.acknowledge([message])
            return []
        met: list[Event] = []
        if not self._recorder.knows(batch.site, batch.epoch):
            seq = _retried(lambda: self._record.recorded_seq(batch.site, batch.epoch), stop)
            if seq is None:
                return None
            met.append(EpochMet(batch.site, batch.epoch, seq))
        self._delivered += 1
        self._deliveries[self._delivered] = message
        return [*met, BatchArrived(batch, self._delivered)]

    def _committed(self, batches: tuple[Uplink, ...], stop: threading.Event) -> bool:
        version = _retried(lambda: self._timed_append(batches), stop)
        if version is None:
            return False
        self._metrics.record_version.set(version)
        for batch in batches:
            self._count(batch)
        return True

    def _timed_append(self, batches: tuple[Uplink, ...]) -> int:
        started = time.monotonic()
        version = self._record.append(batches)
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        return version

    def _count(self, batch: Uplink) -> None:
        readings = batch.kinds.get("readings", {})
        self._metrics.readings.labels(batch.site).inc(len(next(iter(readings.values()), [])))
        self._metrics.batches.labels(batch.site).inc()
        self._metrics.uplink_at.labels(batch.site).set(parse_instant_us(batch.at) / 1e6)

    def _tell(self, told: TellAcked, now: datetime) -> None:
        at = told.at if self._event_clock else iso(to_us(now))
        answer = Acked(epoch=told.epoch, seq=told.seq, missing=list(told.missing), at=at)
        self._connection.publish(SiteTopics(self._root, told.site).acked, answer.encode(), retain=True)


def _retried(attempt: Callable[[], T], stop: threading.Event) -> T | None:
    """What `attempt` returns once the record lets it, None when `stop` came first."""
    failed = 0
    while True:
        try:
            return attempt()
        except RecordError as error:
            pause = RETRY_S[min(failed, len(RETRY_S) - 1)]
            log.error("the record does not answer, trying again", extra={"reason": str(error), "pause_s": pause})
            if stop.wait(pause):
                return None
        failed += 1
