"""From uplink messages to committed rows: the shell of the ledger's state machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

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


def read_batch(root: str, message: Incoming) -> Uplink:
    """The batch in an uplink message; raises MessageRefused in a sentence for whatever is none."""
    batch = Uplink.decompress(message.payload, message.topic)
    if batch.site != site_of(root, message.topic):
        raise MessageRefused(f"{message.topic}: the batch names site {batch.site!r:.80}")
    try:
        parse_instant_us(batch.at)
    except ValueError as error:
        raise MessageRefused(f"{message.topic}: at: {error}") from error
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
        events = [event for message in messages for event in self._events(message)]
        repeated = self._recorder.duplicates
        written: list[Uplink] = []
        for effect in self._recorder.handle(events):
            match effect:
                case Write(batches):
                    if not self._commit(batches, stop):
                        return []
                    written += batches
                case TellAcked():
                    self._tell(effect, now)
                case Release(deliveries):
                    self._connection.acknowledge([self._deliveries.pop(number) for number in deliveries])
        self._metrics.duplicates.inc(self._recorder.duplicates - repeated)
        return written

    def _events(self, message: Incoming) -> list[Event]:
        try:
            batch = read_batch(self._root, message)
            known = self._recorder.knows(batch.site, batch.epoch)
            met = [] if known else [EpochMet(batch.site, batch.epoch, self._recorded(batch))]
        except MessageRefused as error:
            log.warning("uplink refused: %s", error)
            self._metrics.refused.inc()
            self._connection.acknowledge([message])
            return []
        self._delivered += 1
        self._deliveries[self._delivered] = message
        return [*met, BatchArrived(batch, self._delivered)]

    def _recorded(self, batch: Uplink) -> int:
        return self._record.recorded_seq(batch.site, batch.epoch)

    def _commit(self, batches: tuple[Uplink, ...], stop: threading.Event) -> bool:
        attempt = 0
        while True:
            started = time.monotonic()
            try:
                version = self._record.append(batches)
                break
            except RecordError as error:
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.error("not recorded, trying again", extra={"reason": str(error), "pause_s": pause})
                if stop.wait(pause):
                    return False
            attempt += 1
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        self._metrics.record_version.set(version)
        for batch in batches:
            self._count(batch)
        return True

    def _count(self, batch: Uplink) -> None:
        readings = batch.kinds.get("readings", {})
        self._metrics.readings.labels(batch.site).inc(len(next(iter(readings.values()), [])))
        self._metrics.batches.labels(batch.site).inc()
        self._metrics.uplink_at.labels(batch.site).set(parse_instant_us(batch.at) / 1e6)

    def _tell(self, told: TellAcked, now: datetime) -> None:
        at = told.at if self._event_clock else iso(to_us(now))
        answer = Acked(epoch=told.epoch, seq=told.seq, missing=list(told.missing), at=at)
        self._connection.publish(SiteTopics(self._root, told.site).acked, answer.encode(), retain=True)
