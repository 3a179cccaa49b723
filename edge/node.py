"""The edge node: events in, effects out. All decisions of the edge are made behind `Node.handle`.

Invariants: readings are committed before they are acknowledged (the Commit comes first among the effects); what is
refused is committed as a dead letter with them; every origin a meter reaches is forecast once under the event clock,
the newest one under the wall clock; the core never asks for the time.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

import numpy as np

from edge.changes import Changes
from edge.dialects.native import MAX_PERIOD_US, QUALITY_ARRIVAL_TIME, Reading, RefusedItem, decode
from edge.effects import (
    AckedArrived,
    ChunkArrived,
    Commit,
    DesiredArrived,
    Effect,
    EpochRenewed,
    Event,
    ForecastsConfirmed,
    KeepArtifacts,
    Publish,
    RawMessage,
    ReadingsArrived,
    RenewEpoch,
    Tick,
)
from edge.forecaster import Plan
from edge.meters import NO_INSTANT, Meter
from edge.models import Models
from edge.rounds import Counters, RoundMaker
from edge.site import SiteState
from edge.uplink import UplinkLedger
from edge.window import NEVER
from shared.clock import DAY_US, SECOND_US, iso, parse_instant_us, to_datetime
from shared.errors import MessageRefused
from shared.messages import (
    DEAD_LETTER_COLUMNS,
    EVENT_COLUMNS,
    READING_COLUMNS,
    Acked,
    DeadLetter,
    Desired,
    Status,
    columns_of,
    dead_letter,
)
from shared.params import Params
from shared.topics import SiteTopics, is_id

ROUNDS_PER_TICK: Final = 24
LETTERS_PER_MESSAGE: Final = 20
FIRST_AHEAD_US: Final = 3650 * DAY_US  # a replay's first reading has nothing before it to be judged by


class Node:
    """One site's edge: its meters, its ledger, its models, behind one door."""

    def __init__(
        self,
        params: Params,
        *,
        site: SiteState,
        uplink: UplinkLedger,
        models: Models,
        plan: Plan,
        clock_us: int,
        arrivals: dict[int, bytes],
        new_id: Callable[[], str],
    ) -> None:
        self.params = params
        self.site = site
        self.uplink = uplink
        self.models = models
        self.topics = SiteTopics(params.mqtt.root, params.site)
        self.counters: Counters = defaultdict(float)
        self.rounds = RoundMaker(params, site, plan, models, self.topics, self.counters)
        self.clock_us = clock_us  # the event clock: the latest accepted ts of the site
        self._new_id = new_id
        self._arrivals = arrivals
        self._confirmed: set[int] = set()

    def handle(self, event: Event, wall_us: int) -> list[Effect]:  # noqa: PLR0911 -- one return an event
        """Apply one event and return what the world should do about it, in order."""
        match event:
            case ReadingsArrived(messages):
                return self._on_readings(messages, wall_us)
            case Tick(caught_up):
                return self._on_tick(wall_us, caught_up=caught_up)
            case ForecastsConfirmed(delivered):
                return self._on_confirmed(delivered)
            case EpochRenewed(epoch, waiting):
                self.uplink.renew(epoch, waiting)
                return []
            case AckedArrived(topic, payload):
                return self._on_acked(topic, payload, wall_us)
            case DesiredArrived(topic, payload):
                return self._on_desired(topic, payload, wall_us)
            case ChunkArrived(sha256, number, payload):
                return self._models_changed(self.models.on_chunk(sha256, number, payload, to_datetime(wall_us)))
            case _:
                assert_never(event)

    def now_us(self, wall_us: int) -> int:
        """The clock that drives grid, forecasts and scores: wall, or the latest accepted reading."""
        return wall_us if self.params.clock == "wall" else self.clock_us

    @property
    def busy(self) -> bool:
        """Whether a tick would close intervals or make forecasts at once."""
        return self.rounds.due()

    # -- readings ------------------------------------------------------------------------------------------------

    def _on_readings(self, messages: Sequence[RawMessage], wall_us: int) -> list[Effect]:
        changes = Changes()
        rows: list[tuple[Any, ...]] = []
        letters: list[DeadLetter] = []
        touched: dict[int, list[Reading]] = {}
        for message in messages:
            readings, refused = self._decode(message, wall_us)
            if self._is_redelivery(message, readings, changes):
                self.counters["readings", "duplicate"] += len(readings)
                continue
            for reading in map(self._timed, readings):
                reason = self._reason_against(reading, wall_us)
                if reason:
                    refused.append(_refused_reading(reading, reason))
                else:
                    self._take(reading, wall_us, changes, rows, touched)
            letters += _letters(message.topic, refused, self._at(wall_us))
        for row, taken in touched.items():
            self._settle(self.site.meters.by_row[row], taken, wall_us, changes)
        self.counters["dead_letters", ""] += len(letters)
        changes.facts["clock_us"] = str(self.clock_us)
        kinds = {"readings": columns_of(READING_COLUMNS, rows), "dead_letters": _letter_columns(letters)}
        changes.outbox += self.uplink.enqueue(kinds, self._at(wall_us))
        published = [Publish(self.topics.dead_letter, letter.encode()) for letter in letters]
        return [self._commit(changes), *published]

    def _decode(self, message: RawMessage, wall_us: int) -> tuple[list[Reading], list[RefusedItem]]:
        if message.retain:  # a retained replay is state, not a new reading
            self.counters["readings", "retained"] += 1
            return [], []
        meter = self.topics.meter_of(message.topic) or ""
        limit = self.params.edge.max_payload_bytes
        if message.size > limit:
            reason = f"payload of {message.size} bytes, edge.max_payload_bytes is {limit}"
            return [], [RefusedItem(None, message.payload, reason)]
        if not is_id(meter):
            reason = f"meter id {meter!r:.80} is not 1 to 64 of letters, digits, _ . : -"
            return [], [RefusedItem(None, message.payload, reason)]
        arrived_us = wall_us if self.clock_us == NO_INSTANT else self.now_us(wall_us)
        return decode(meter, message.payload, arrived_us=arrived_us, default_period_us=self.params.step_s * SECOND_US)

    def _is_redelivery(self, message: RawMessage, readings: list[Reading], changes: Changes) -> bool:
        """Whether readings that took their arrival time were committed before and only the acknowledgement was lost.

        They have no identity of their own, so the packet's id and the payload's digest stand for it.
        """
        if not any(reading.quality == QUALITY_ARRIVAL_TIME for reading in readings):
            return False
        digest = hashlib.sha256(message.topic.encode() + b"\0" + message.payload).digest()
        if message.dup and self._arrivals.get(message.mid) == digest:
            return True
        self._arrivals[message.mid] = changes.arrivals[message.mid] = digest
        return False

    def _timed(self, reading: Reading) -> Reading:
        """Readings of a meter that take their arrival time never take the same one."""
        meter = self.site.meters.by_name.get(reading.meter)
        if reading.quality != QUALITY_ARRIVAL_TIME or meter is None:
            return reading
        return replace(reading, ts_us=max(reading.ts_us, meter.latest_us + 1))

    def _reason_against(self, reading: Reading, wall_us: int) -> str:
        """Why a well-formed reading cannot be taken now, or nothing."""
        now_us = self.now_us(wall_us)
        limits = self.site.limits
        if now_us == NO_INSTANT and reading.ts_us > wall_us + FIRST_AHEAD_US:
            return f"ts {iso(reading.ts_us)} would begin the event clock ten years ahead of {iso(wall_us)}"
        if now_us != NO_INSTANT and reading.ts_us > now_us + limits.max_ahead_us:
            return f"ts {iso(reading.ts_us)} is further ahead of {iso(now_us)} than grid.max_ahead"
        if now_us != NO_INSTANT and reading.ts_us < now_us - limits.max_age_us:
            return f"ts {iso(reading.ts_us)} is older than grid.max_age before {iso(now_us)}"
        known = reading.meter in self.site.meters.by_name
        if not known and self.site.rows >= self.params.edge.max_meters:
            return f"meter {reading.meter} would be beyond edge.max_meters {self.params.edge.max_meters}"
        return ""

    def _take(
        self,
        reading: Reading,
        wall_us: int,
        changes: Changes,
        rows: list[tuple[Any, ...]],
        touched: dict[int, list[Reading]],
    ) -> None:
        """Put one good reading into state, record row and counters; an exact duplicate changes nothing."""
        meter = self.site.meters.by_name.get(reading.meter) or self.site.add_meter(reading.meter)
        known = meter.known(reading)
        if known is not None and known.value == reading.value and known.unit == reading.unit:
            self.counters["readings", "duplicate"] += 1
            return
        if self.clock_us == NO_INSTANT or reading.ts_us > self.clock_us:
            self.clock_us = reading.ts_us
        now_us = self.now_us(wall_us)
        rows.append(_record_row(reading, now_us))
        if self._beyond_revision(meter, reading, now_us):
            self.counters["readings", "late"] += 1
            return
        self.counters["readings", "accepted" if known is None else "corrected"] += 1
        meter.keep(reading)
        changes.readings.append((meter.row, reading))
        touched.setdefault(meter.row, []).append(reading)

    def _beyond_revision(self, meter: Meter, reading: Reading, now_us: int) -> bool:
        """Whether its interval is closed and it comes too late to change that."""
        closed_us = int(self.site.window.closed[meter.row]) * self.site.step_us
        is_closed = self.site.meters.is_open(meter) and reading.ts_us < closed_us
        return is_closed and reading.ts_us < now_us - self.site.limits.lateness_us

    def _settle(self, meter: Meter, taken: list[Reading], wall_us: int, changes: Changes) -> None:
        """Close and revise what the readings just taken settle and touch."""
        meters, window = self.site.meters, self.site.window
        if not meters.is_open(meter):
            meters.open_at(meter, min(reading.ts_us for reading in taken))
            opened = int(window.closed[meter.row])
            self.rounds.begin(meter.row, opened)
        if self.site.retired[meter.row]:
            self.site.retired[meter.row] = False
        before = int(window.closed[meter.row])
        for reading in taken:
            # Also one inside an open interval may reshape closed ones: a register's gap is filled backwards.
            if meters.revise(meter, reading.ts_us):
                self.counters["intervals", "revised"] += 1
                first = (reading.ts_us - MAX_PERIOD_US - meters.rules.max_gap_us) // self.site.step_us
                first = min(max(first, before - window.width), before - 1)
                changes.closed.append((meter.row, first, before - first))
        self._close(meter, meters.settle(meter, self.rounds.limit(meter.row)), before, changes)
        if len(meter.instants_us) > 64:
            changes.forgotten_before_us[meter.row] = meters.prune(meter, self.now_us(wall_us))
        changes.meters.add(meter.row)

    def _close(self, meter: Meter, count: int, before: int, changes: Changes) -> None:
        if count:
            self.counters["intervals", "closed"] += count
            changes.closed.append((meter.row, before, count))
            changes.meters.add(meter.row)

    # -- time ----------------------------------------------------------------------------------------------------

    def _on_tick(self, wall_us: int, *, caught_up: bool) -> list[Effect]:
        now_us = self.now_us(wall_us)
        if now_us == NO_INSTANT:
            return []
        changes = Changes()
        cleared = self._close_waiting(now_us, changes, silent_too=caught_up or self.params.clock == "event")
        # Under the wall clock a backlog is taken in first: only the newest origin is worth a forecast then.
        ready = caught_up or self.params.clock == "event"
        made = self.rounds.make(changes, at_most=ROUNDS_PER_TICK if ready else 0, now_us=now_us)
        events = columns_of(EVENT_COLUMNS, [(now_us, "retired", publish.topic) for publish in cleared])
        changes.outbox += self.uplink.enqueue({"scores": made.scores, "events": events}, self._at(wall_us))
        self._note_confirmed(changes)
        return [*([self._commit(changes)] if changes else []), *cleared, *made.publications]

    def _close_waiting(self, now_us: int, changes: Changes, *, silent_too: bool) -> list[Publish]:
        """Close what readings settled earlier but the window had no slack for, and what silence closes."""
        cleared: list[Publish] = []
        window, limits = self.site.window, self.site.limits
        silent_until = (now_us - limits.grace_us) // self.site.step_us if silent_too else NEVER
        rows = self.site.active_rows
        settled = np.array([self.site.meters.by_row[row].settled_us for row in rows], dtype=np.int64)
        target = np.maximum(settled // self.site.step_us, silent_until)
        for index in np.flatnonzero((target > window.closed[rows]) & (window.closed[rows] != NEVER)):
            meter = self.site.meters.by_row[rows[index]]
            if silent_too and meter.latest_us < now_us - limits.retire_after_us:
                cleared.append(self._retire(meter, changes))
                continue
            before = int(window.closed[meter.row])
            until = min(int(target[index]), self.rounds.limit(meter.row))
            self._close(meter, self.site.meters.close_until(meter, until), before, changes)
        return cleared

    def _retire(self, meter: Meter, changes: Changes) -> Publish:
        """A meter silent for too long: its retained forecast is cleared."""
        self.site.retired[meter.row] = True
        changes.meters.add(meter.row)
        self.counters["meters", "retired"] += 1
        return Publish(self.topics.forecast(meter.name), b"", retain=True)

    # -- central -------------------------------------------------------------------------------------------------

    def _on_confirmed(self, delivered: Iterable[tuple[int, int]]) -> list[Effect]:
        for row, origin in delivered:
            self.site.delivered[row] = max(int(self.site.delivered[row]), origin)
            self._confirmed.add(row)
        return []

    def _note_confirmed(self, changes: Changes) -> None:
        """Confirmations ride along with the next commit that is made anyway, or make one when enough wait."""
        if changes or len(self._confirmed) >= self.site.rows:
            changes.meters |= self._confirmed
            self._confirmed = set()

    def _on_acked(self, topic: str, payload: bytes, wall_us: int) -> list[Effect]:
        try:
            acked = Acked.decode(payload, topic)
        except MessageRefused as reason:
            return self._refuse_control(topic, payload, reason, wall_us)
        if self.uplink.disowned_by(acked):
            self.counters["epochs_renewed", ""] += 1
            return [RenewEpoch(self._new_id())]
        recorded = self.uplink.on_acked(acked)
        return [self._commit(Changes(acked=recorded))] if recorded else []

    def _on_desired(self, topic: str, payload: bytes, wall_us: int) -> list[Effect]:
        try:
            desired = Desired.decode(payload, topic)
        except MessageRefused as reason:
            return self._refuse_control(topic, payload, reason, wall_us)
        return self._models_changed(self.models.on_desired(desired, to_datetime(wall_us)))

    def _refuse_control(self, topic: str, payload: bytes, reason: MessageRefused, wall_us: int) -> list[Effect]:
        """A control message that cannot be read is a dead letter like any other input."""
        self.counters["control", "refused"] += 1
        self.counters["dead_letters", ""] += 1
        letter = dead_letter(topic, payload, str(reason), self._at(wall_us))
        outbox = self.uplink.enqueue({"dead_letters": _letter_columns([letter])}, self._at(wall_us))
        return [self._commit(Changes(outbox=outbox)), Publish(self.topics.dead_letter, letter.encode())]

    def _models_changed(self, effects: list[Effect]) -> list[Effect]:
        """Artifacts are saved first, then the choice is committed; only then old ones go and the world is told."""
        if not effects:
            return []
        after = [effect for effect in effects if isinstance(effect, (Publish, KeepArtifacts))]
        before = [effect for effect in effects if not isinstance(effect, (Publish, KeepArtifacts))]
        return [*before, self._commit(Changes(facts={"models": self.models.fact()})), *after]

    # -- status --------------------------------------------------------------------------------------------------

    def status(self, *, instance: str, started_at: str, version: str) -> Status:
        """How the edge is; degraded from 80 % of the outbox on."""
        full = self.uplink.size_bytes / self.params.outbox.max_bytes
        reasons = [f"outbox is {full:.0%} full"] if full >= 0.8 else []
        champion = self.models.champion
        return Status(
            state="degraded" if reasons else "online",
            instance=instance,
            epoch=self.uplink.epoch,
            version=version,
            started_at=started_at,
            meters=self.site.rows,
            champion=champion.manifest.version if champion else None,
            watermark=iso(self.clock_us) if self.clock_us != NO_INSTANT else None,
            outbox=self.uplink.batches,
            reasons=reasons,
        )

    def _commit(self, changes: Changes) -> Commit:
        changes.facts["next_seq"] = str(self.uplink.next_seq)
        return Commit(changes)

    def _at(self, wall_us: int) -> str:
        now_us = self.now_us(wall_us)
        return iso(now_us if now_us != NO_INSTANT else wall_us)


def _record_row(reading: Reading, received_us: int) -> tuple[Any, ...]:
    period_s = reading.period_us / SECOND_US if reading.period_us else None
    return (
        reading.meter,
        reading.ts_us,
        reading.value,
        reading.unit,
        reading.kind,
        period_s,
        reading.quality,
        received_us,
    )


def _refused_reading(reading: Reading, reason: str) -> RefusedItem:
    """A well-formed reading that cannot be taken now, written out by itself: its list may be long."""
    written = {"ts": iso(reading.ts_us), "value": reading.value, "unit": reading.unit, "kind": reading.kind}
    return RefusedItem(reading.ts_us, json.dumps(written).encode(), reason)


def _letters(topic: str, refused: list[RefusedItem], received_at: str) -> list[DeadLetter]:
    """A letter for each refused item; beyond LETTERS_PER_MESSAGE one for all the rest, which counts them."""
    letters = [dead_letter(topic, one.content, one.reason, received_at, item=one.item) for one in refused]
    rest = letters[LETTERS_PER_MESSAGE:]
    if rest:
        reason = f"{rest[0].reason} (and {len(rest) - 1} more of this message)"
        letters[LETTERS_PER_MESSAGE:] = [rest[0].model_copy(update={"count": len(rest), "reason": reason})]
    return letters


def _letter_columns(letters: list[DeadLetter]) -> dict[str, list[Any]]:
    rows = [
        (one.id, one.topic, one.payload, one.payload_b64, one.reason, parse_instant_us(one.received_at), one.count)
        for one in letters
    ]
    return columns_of(DEAD_LETTER_COLUMNS, rows)
