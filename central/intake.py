"""From uplink messages to committed rows: the shell of the ledger's state machine."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from central.columns import Recorded
from central.gaps import check_gap
from central.record import Record
from central.recorder import (
    HELD_IN_ALL,
    BatchArrived,
    EdgeAsked,
    Effect,
    EpochMet,
    Event,
    Recorder,
    Release,
    TellAcked,
    Write,
)
from central.stalls import Stall
from central.telemetry import CentralMetrics
from shared.clock import iso, parse_instant_us, to_us
from shared.errors import MessageRefused, RecordError
from shared.messages import MAX_UPLINK_JSON_BYTES, Acked, Uplink, inflate
from shared.mqtt import Connection, Incoming
from shared.topics import SiteTopics, site_of

log = logging.getLogger(__name__)

HIGHEST_SEQ: Final = 2**63 - 1  # what the record's ledger can count to
BYTES_AT_ONCE: Final = 32 * 1024 * 1024  # of JSON that goes into one commit, as soon as it is reached

T = TypeVar("T")
Pause = Callable[[float], bool]  # waits so many seconds, or until told to stop, which it returns


def read_batch(root: str, message: Incoming) -> Uplink:
    """The batch in an uplink message; raises MessageRefused in a sentence for whatever is none.

    What passes can be recorded: it has a place in the ledger, is JSON through and through, and a gap in it says plainly
    what it stands for.
    """
    return _read(root, message)[0]


def _read(root: str, message: Incoming) -> tuple[Uplink, int]:
    """The batch, and how many bytes of JSON it was."""
    text = inflate(message.payload, MAX_UPLINK_JSON_BYTES, message.topic)
    batch = Uplink.decode(text, message.topic)
    if batch.site != site_of(root, message.topic):
        raise MessageRefused(f"{message.topic}: the batch names site {batch.site!r:.80}")
    if batch.seq > HIGHEST_SEQ:
        raise MessageRefused(f"{message.topic}: seq is beyond any ledger")
    try:
        parse_instant_us(batch.at)
    except ValueError as error:
        raise MessageRefused(f"{message.topic}: at: {error}") from error
    check_gap(batch, message.topic)
    if not all(_is_json(values) for columns in batch.kinds.values() for values in columns.values()):
        raise MessageRefused(f"{message.topic}: a number is NaN or infinite")
    return batch, len(text)


def _is_json(values: list[Any]) -> bool:
    """Whether a column holds no NaN and no infinity, which the parser lets pass, as it does 1e999.

    A sum is finite only if all of it is; only text can be joined: two looks at a column without a Python step a row.
    """
    try:
        if math.isfinite(sum(values)):
            return True
    except (TypeError, OverflowError):
        if _is_text(values) or values.count(None) == len(values):
            return True
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_text(values: list[Any]) -> bool:
    try:
        "".join(values)
    except TypeError:
        return False
    return True


class Intake:
    """Records what the uplinks bring, and answers.

    Invariant: a message is acknowledged to the broker only after its batch is in the record, unless it needs no
    writing: a duplicate, one too far ahead (it is sent again), or no batch at all.
    """

    def __init__(
        self,
        record: Record,
        connection: Connection,
        metrics: CentralMetrics,
        *,
        root: str,
        held_at_most: int = HELD_IN_ALL,
    ) -> None:
        """`held_at_most` batches wait, unacknowledged, for earlier ones."""
        self._record = record
        self._connection = connection
        self._metrics = metrics
        self._root = root
        self._recorder = Recorder(held_in_all=held_at_most)
        self._stall = Stall("record", metrics.stalled)
        self._deliveries: dict[int, Incoming] = {}
        self._delivered = 0

    def take(self, messages: Sequence[Incoming], now: datetime, pause: Pause) -> list[Recorded]:
        """Record the batches among `messages` and return what is newly in the record, a commit after the other.

        A record that cannot be written is tried again until it can, or until `pause` says to stop.
        """
        written: list[Recorded] = []
        waiting = iter(messages)
        while message := next(waiting, None):
            events = self._some_events(message, waiting, pause)
            if events is None:
                break
            repeated = self._recorder.duplicates
            newly = self._carry_out(self._recorder.handle(events), now, pause)
            self._metrics.duplicates.inc(self._recorder.duplicates - repeated)
            if newly is None:
                break
            written += newly
        return written

    def refuse(self, message: Incoming, reason: str) -> None:
        """Say why a message is no batch for the record, and be done with it."""
        log.warning("refused: %s", reason)
        self._metrics.refused.inc()
        self._connection.acknowledge([message])

    def tell_how_far(self, site: str, epoch: str, now: datetime, pause: Pause) -> None:
        """Tell an edge what of its epoch is in the record, without waiting for a batch of it."""
        met = self._meet(site, epoch, pause)
        if met is not None:
            self._carry_out(self._recorder.handle([*met, EdgeAsked(site, epoch)]), now, pause)

    def _some_events(self, first: Incoming, more: Iterator[Incoming], pause: Pause) -> list[Event] | None:
        """What messages tell the recorder, up to BYTES_AT_ONCE; None when `pause` said to stop."""
        events: list[Event] = []
        size_bytes = 0
        message: Incoming | None = first
        while message is not None:
            found = self._events(message, pause)
            if found is None:
                return None
            events += found
            size_bytes += sum(event.size_bytes for event in found if isinstance(event, BatchArrived))
            message = next(more, None) if size_bytes < BYTES_AT_ONCE else None
        return events

    def _events(self, message: Incoming, pause: Pause) -> list[Event] | None:
        """What a message tells the recorder; None when `pause` said to stop while the record could not be read."""
        try:
            batch, size_bytes = _read(self._root, message)
        except MessageRefused as error:
            self.refuse(message, str(error))
            return []
        met = self._meet(batch.site, batch.epoch, pause)
        if met is None:
            return None
        self._delivered += 1
        self._deliveries[self._delivered] = message
        return [*met, BatchArrived(batch, self._delivered, size_bytes)]

    def _meet(self, site: str, epoch: str, pause: Pause) -> list[EpochMet] | None:
        """What the recorder must be told before anything else of an epoch; None when `pause` said to stop first."""
        if self._recorder.knows(site, epoch):
            return []
        seq = self._retried(lambda: self._record.recorded_seq(site, epoch), pause)
        return None if seq is None else [EpochMet(site, epoch, seq)]

    def _carry_out(self, effects: Sequence[Effect], now: datetime, pause: Pause) -> list[Recorded] | None:
        """Returns what was written; None when `pause` said to stop before it could be."""
        written: list[Recorded] = []
        for effect in effects:
            match effect:
                case Write(batches):
                    recorded = Recorded.of(batches)
                    if not self._committed(recorded, pause):
                        return None
                    written.append(recorded)
                case TellAcked():
                    self._tell(effect, now)
                case Release(deliveries):
                    self._connection.acknowledge([self._deliveries.pop(number) for number in deliveries])
        return written

    def _committed(self, recorded: Recorded, pause: Pause) -> bool:
        version = self._retried(lambda: self._timed_append(recorded), pause)
        if version is None:
            return False
        self._metrics.record_version.set(version)
        for batch in recorded.batches:
            self._count(batch)
        return True

    def _timed_append(self, recorded: Recorded) -> int:
        started = time.monotonic()
        version = self._record.append(recorded.batches, recorded.tables)
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        return version

    def _retried(self, attempt: Callable[[], T], pause: Pause) -> T | None:
        """What `attempt` returns once the record lets it, None when `pause` said to stop before."""
        while True:
            try:
                made = attempt()
            except RecordError as error:
                if pause(self._stall.failed(str(error), time.monotonic())):
                    return None
            else:
                self._stall.passed()
                return made

    def _count(self, batch: Uplink) -> None:
        readings = batch.kinds.get("readings", {})
        self._metrics.readings.labels(batch.site).inc(len(next(iter(readings.values()), [])))
        self._metrics.batches.labels(batch.site).inc()
        self._metrics.gap_readings.labels(batch.site).inc(sum(batch.kinds.get("gaps", {}).get("readings", [])))
        self._metrics.uplink_at.labels(batch.site).set(parse_instant_us(batch.at) / 1e6)

    def _tell(self, told: TellAcked, now: datetime) -> None:
        at = iso(to_us(now))  # an edge orders our answers by it, under the event clock too
        answer = Acked(epoch=told.epoch, seq=told.seq, missing=list(told.missing), at=at)
        self._connection.publish(SiteTopics(self._root, told.site).acked, answer.encode(), retain=True)
