"""The edge node: events in, effects out. All decisions of the edge are made behind `Node.handle`.

Invariants: readings are committed before they are acknowledged (the Commit comes first among the effects); what is
refused is committed as a dead letter with them; every origin a meter reaches is forecast once under the event clock,
the newest one under the wall clock; the core never asks for the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from edge.bounds import Bounds
from edge.changes import Changes
from edge.covariates import Bounds as CovariateBounds
from edge.dialects.native import MAX_PERIOD_US, RefusedItem
from edge.effects import (
    AckedArrived,
    ChunkArrived,
    Commit,
    CovariatesArrived,
    DesiredArrived,
    Effect,
    EpochRenewed,
    Event,
    ForecastsConfirmed,
    GapMade,
    HistoryArrived,
    MakeGap,
    ModelFailed,
    ModelProven,
    NumbersInDoubt,
    Publish,
    ReadingsArrived,
    RenewEpoch,
    RestoreArrived,
    SaveArtifact,
    StateMended,
    Tick,
    Unpacked,
)
from edge.forecaster import Plan
from edge.history import backfill, restore
from edge.intake import Intake, Refused, Taken, touching_closed
from edge.letters import STRANGERS, Letters, letter_columns
from edge.meters import NO_INSTANT, Meter
from edge.models import Models
from edge.rounds import Columns, Counters, RoundMaker
from edge.site import SiteState
from edge.siteclock import SiteClock
from edge.uplink import UplinkLedger
from edge.window import NEVER
from shared.clock import DAY_US, SECOND_US, iso, to_datetime
from shared.errors import MessageRefused
from shared.messages import (
    EVENT_COLUMNS,
    RESTORE_WANTED,
    Acked,
    DeadLetter,
    Desired,
    Restore,
    Status,
    columns_of,
)
from shared.packets import Incoming
from shared.params import Params
from shared.topics import SiteTopics

ROUNDS_PER_TICK: Final = 24
FRESH_WITHIN_US: Final = 60 * SECOND_US  # central's clock may be behind ours by so much
DEGRADED_FROM: Final = 0.8  # of outbox.max_bytes
CLOCK_SUSPECT: Final = "the wall clock and the latest reading are over a day apart; expiry of models is not judged"


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
        clock: SiteClock,
        arrivals: dict[int, bytes],
        new_id: Callable[[], str],
        restore_wanted: bool,
    ) -> None:
        self.params = params
        self.site = site
        self.uplink = uplink
        self.models = models
        self.clock = clock
        self.topics = SiteTopics(params.mqtt.root, params.site)
        self.counters: Counters = defaultdict(float)
        self.rounds = RoundMaker(params, site, plan, models, self.topics, self.counters)
        self.bounds = Bounds()
        self._intake = Intake(params, site, clock, self.topics, arrivals)
        self._letters = Letters(params.edge.dead_letters_per_minute)
        self._new_id = new_id
        self._confirmed: set[int] = set()
        self._restore_wanted = restore_wanted
        self._restored: set[int] = set()
        self._may_ask = site.empty  # else the broker's share first: what is closed and missing is given back
        self._forms_kept = len(site.forms)
        self._committed_us = clock.latest_us
        self._began_us: int | None = None  # by the wall clock

    def handle(self, event: Event, wall_us: int) -> list[Effect]:  # noqa: C901, PLR0911, PLR0912 -- one return an event
        """Apply one event and return what the world should do about it, in order."""
        self.clock.tell(wall_us)
        if self._began_us is None:
            self._began_us = wall_us
        match event:
            case ReadingsArrived(messages):
                return self._on_readings(messages)
            case HistoryArrived(messages):
                return self._on_history(messages)
            case CovariatesArrived(messages):
                return self._on_covariates(messages)
            case Tick(caught_up):
                return self._on_tick(caught_up=caught_up)
            case ForecastsConfirmed(delivered):
                return self._on_confirmed(delivered)
            case EpochRenewed(epoch, waiting):
                self.uplink.renew(epoch, waiting)
                self._restore_wanted, self._restored = True, set()  # of an older image central knows what it lacks
                return []
            case GapMade(first, last, size):
                self.uplink.gap_made(first, last, size)
                self.counters["gaps", ""] += 1
                return []
            case StateMended(detail, lost):
                return self._on_mended(detail, lost)
            case NumbersInDoubt():
                self.uplink.doubt()
                return self._renew_epoch()
            case AckedArrived(topic, payload, live):
                return self._on_acked(topic, payload, live=live)
            case RestoreArrived(topic, payload):
                return self._on_restore(topic, payload)
            case DesiredArrived(topic, payload):
                return self._on_desired(topic, payload)
            case ChunkArrived(sha256, number, payload):
                return self._models_changed(self.models.on_chunk(sha256, number, payload, to_datetime(wall_us)))
            case Unpacked(manifest, found):
                return self._models_changed(self.models.on_unpacked(manifest, found, to_datetime(wall_us)))
            case ModelProven(manifest, model):
                return self._models_changed(self.models.on_proven(manifest, model, to_datetime(wall_us)))
            case ModelFailed(manifest, refused):
                return self._models_changed(self.models.on_failed(manifest, refused, to_datetime(wall_us)))
            case _:
                assert_never(event)

    @property
    def _is_clock_suspect(self) -> bool:
        """Whether the wall clock and the meters' are a day apart: then the wall says nothing of what has expired."""
        latest_us = self.clock.latest_us
        is_told = self.params.clock == "wall" and latest_us != NO_INSTANT
        return is_told and abs(self.clock.wall_us - latest_us) > DAY_US

    @property
    def busy(self) -> bool:
        """Whether a tick would close intervals or make forecasts at once."""
        return self.clock.now_us != NO_INSTANT and self.rounds.due()

    # -- readings ------------------------------------------------------------------------------------------------

    def _on_readings(self, messages: Sequence[Incoming]) -> list[Effect]:
        taken = self._intake.take(messages)
        changes = Changes(readings=taken.kept, arrivals=taken.arrivals)
        if taken.kept:
            self._settle(taken, changes)
        self._count(taken)
        changes.facts["clock_us"] = str(self.clock.latest_us)
        return self._record(changes, taken)

    def _on_history(self, messages: Sequence[Incoming]) -> list[Effect]:
        """History fills intervals that are missing, and goes into the record; it moves no clock."""
        taken, by_meter = self._intake.history(messages)
        filled = backfill(self.site, by_meter, self._begin_with_history)
        taken.recorded = [
            (self.site.meters.by_name[name].row, *reading)
            for name, readings in by_meter.items()
            for reading in readings
        ]
        taken.received_us = [self.clock.received_us] * len(taken.recorded)
        self.counters["readings", "backfilled"] += len(taken.recorded)
        return self._record(self._filled(filled, by_meter), taken)

    def _on_covariates(self, messages: Sequence[Incoming]) -> list[Effect]:
        """Series known ahead go into the record as they were issued, and are kept while an origin may need them."""
        limits, clock = self.site.limits, self.clock
        bounds = CovariateBounds.of(
            clock.now_us,
            payload_bytes=self.params.edge.max_payload_bytes,
            max_ahead_us=limits.max_ahead_us,
            max_age_us=limits.max_age_us,
        )
        taken = self.site.covariates.take(messages, self.topics, bounds, clock.now_us)
        self.counters["covariates", "recorded"] += len(taken.recorded)
        self.counters["covariates", "duplicate"] += taken.duplicates
        if taken.full:
            self.bounds.reached("covariates", "more values of a covariate than are kept", clock.wall_us)
        rows = list(self.site.covariates.rows(taken.kept))
        changes = Changes(covariates=rows, covariates_dropped=taken.dropped)
        return self._record(changes, Taken(refused=taken.refused), taken.columns(clock.received_us))

    def _record(self, changes: Changes, taken: Taken, covariates: Columns | None = None) -> list[Effect]:
        """Commit what a batch changed, with its record rows and dead letters; then say the letters aloud."""
        letters = self._write_letters(taken.refused)
        kinds = {"readings": taken.columns(self.site), "dead_letters": letter_columns(letters)}
        kinds["covariates"] = covariates or {}
        changes.outbox += self.uplink.enqueue(kinds, self._at())
        published = [Publish(self.topics.dead_letter, letter.encode()) for letter in letters]
        return [self._commit(changes), *published, *self._make_room()]

    def _write_letters(self, refused: Sequence[Refused]) -> list[DeadLetter]:
        if not refused:
            return []
        counted = self._letters.counted
        letters = self._letters.write(refused, self._at(), self.clock.wall_us)
        self.counters["dead_letters", ""] += len(refused)
        if self._letters.counted > counted:
            self.bounds.reached(
                "dead_letters", "more dead letters than edge.dead_letters_per_minute", self.clock.wall_us
            )
        strangers = any(meter == STRANGERS for meter, _topic, _one in refused)
        if strangers and self.site.rows >= self.params.edge.max_meters:
            self.bounds.reached("meters", "edge.max_meters is reached", self.clock.wall_us)
        return letters

    def _count(self, taken: Taken) -> None:
        self.counters["readings", "accepted"] += len(taken.kept) - taken.corrected
        self.counters["readings", "corrected"] += taken.corrected
        self.counters["readings", "duplicate"] += taken.duplicates
        self.counters["readings", "late"] += taken.late
        self.counters["readings", "retained"] += taken.retained

    def _settle(self, taken: Taken, changes: Changes) -> None:
        """Close and revise what the readings just taken settle and touch."""
        meters, window = self.site.meters, self.site.window
        rows = np.array(sorted({row for row, *_ in taken.kept}), dtype=np.int64)
        touched = [meters.by_row[row] for row in rows.tolist()]
        self.site.settled_us[rows] = [meter.settled_us for meter in touched]
        self._unsettle(rows)
        if self.site.retired[rows].any():
            self.site.retired[rows] = False
            changes.meters |= set(rows.tolist())
        if (window.closed[rows] == NEVER).any():
            self._open(taken, changes)
        self._revise(taken, changes)
        self._close(rows, self.site.settled_us[rows] // self.site.step_us, changes)
        # What is committed and not yet acknowledged may come again: it is known until the commit after it.
        committed_us, self._committed_us = self._committed_us, self.clock.now_us
        for meter in touched:
            if len(meter.ts_us) > meter.prune_at:
                meters.prune(meter, committed_us)

    def _revise(self, taken: Taken, changes: Changes) -> None:
        """Make closed intervals anew that readings just kept may change, for each meter once: readings may be many."""
        meters = self.site.meters
        stretches: dict[int, tuple[int, int]] = {}
        for index in np.flatnonzero(touching_closed(taken, self.site)).tolist():
            row, ts_us, _value, _form = taken.kept[index]
            start_us, end_us = meters.touched_us(meters.by_row[row], ts_us)
            known = stretches.get(row, (start_us, end_us))
            stretches[row] = min(start_us, known[0]), max(end_us, known[1])
        revised = meters.revise(stretches)
        self.counters["intervals", "revised"] += len(revised)
        for row, _first, _count in revised:
            self.rounds.revised(row)
        changes.closed += revised

    def _open(self, taken: Taken, changes: Changes) -> None:
        """Begin the meters whose first readings these are, each with the interval of its earliest."""
        firsts: dict[int, int] = {}
        for row, ts_us, _value, _form in taken.kept:
            if self.site.window.closed[row] == NEVER:
                firsts[row] = min(ts_us, firsts.get(row, ts_us))
        for row, first_us in firsts.items():
            meter = self.site.meters.by_row[row]
            self.site.meters.open_at(meter, first_us)
            self.rounds.begin(row, int(self.site.window.closed[row]))
            changes.meters.add(row)

    def _begin_with_history(self, meter: Meter, closed: int) -> None:
        """A meter that has history need not wait for its first interval to be forecast."""
        self.rounds.begin(meter.row, closed - 1)

    def _close(self, rows: NDArray[np.int64], until: NDArray[np.int64], changes: Changes) -> None:
        """Close the meters' intervals up to `until`: those that have begun, as far as the forecasts let them run."""
        until = np.minimum(np.minimum(until, self._ends()), self.rounds.limits(rows))
        due = until > self.site.window.closed[rows]
        if not due.any():
            return
        by_row = self.site.meters.by_row
        wanted = [(by_row[row], number) for row, number in zip(rows[due].tolist(), until[due].tolist(), strict=True)]
        closed = self.site.meters.close(wanted)
        self.counters["intervals", "closed"] += sum(count for _row, _first, count in closed)
        changes.closed += closed
        changes.meters |= {row for row, _first, _count in closed}

    def _unsettle(self, rows: NDArray[np.int64]) -> None:
        """Let no reading settle anything that a clock that ran ahead let in, nor when it is read back from disk."""
        latest_us = self.clock.now_us + self.site.limits.max_ahead_us
        for row in rows[self.site.settled_us[rows] > latest_us + MAX_PERIOD_US].tolist():
            meter = self.site.meters.by_row[row]
            meter.settle_up_to(latest_us, self.site.forms)
            self.site.settled_us[row] = meter.settled_us

    def _ends(self) -> int:
        """The first interval that nobody can have read yet."""
        return (self.clock.now_us + self.site.limits.max_ahead_us) // self.site.step_us + 1

    # -- time ----------------------------------------------------------------------------------------------------

    def _on_tick(self, *, caught_up: bool) -> list[Effect]:
        self._may_ask |= caught_up
        now_us = self.clock.now_us
        if now_us == NO_INSTANT:
            return []
        # Under the wall clock a backlog is taken in first: only the newest origin is worth a forecast then.
        ready = caught_up or self.params.clock == "event"
        due = ready and self.rounds.due()
        if due and self.models.begin_trial():
            return [self._commit(Changes())]
        changes = Changes()
        self._reopen(now_us, changes)
        cleared = self._close_waiting(now_us, changes, silent_too=ready)
        at_most = ROUNDS_PER_TICK if ready else 0
        made = self.rounds.make(changes, at_most=at_most, now_us=now_us, wall_us=self.clock.wall_us)
        if due:
            self.models.end_trial()
        retired = [(now_us, "retired", publish.topic) for publish in cleared]
        events = columns_of(EVENT_COLUMNS, [*retired, *made.events])
        changes.outbox += self.uplink.enqueue({"scores": made.scores, "events": events}, self._at())
        self._note_confirmed(changes)
        committed = [self._commit(changes)] if changes else []
        return [*committed, *self.models.tell_changes(), *cleared, *made.publications, *self._make_room()]

    def _reopen(self, now_us: int, changes: Changes) -> None:
        """Take back what a clock that ran ahead closed: no interval may be closed that has not begun."""
        rows, ends = self.site.active_rows, self._ends()
        self._unsettle(rows)
        for row in rows[self.site.window.closed[rows] > ends].tolist():
            settled = int(self.site.settled_us[row]) // self.site.step_us
            number = min(max(settled, (now_us - self.site.limits.grace_us) // self.site.step_us), ends)
            self.site.window.reopen(row, number)
            self.rounds.reopen(row, number)
            self.counters["intervals", "reopened"] += 1
            changes.closed.append((row, number - self.site.window.width, self.site.window.width))
            changes.meters.add(row)

    def _close_waiting(self, now_us: int, changes: Changes, *, silent_too: bool) -> list[Publish]:
        """Close what readings settled earlier but the window had no slack for, and what silence closes."""
        window, limits = self.site.window, self.site.limits
        silent_until = (now_us - limits.grace_us) // self.site.step_us if silent_too else NEVER
        rows = self.site.active_rows
        target = np.maximum(self.site.settled_us[rows] // self.site.step_us, silent_until)
        lagging = (target > window.closed[rows]) & (window.closed[rows] != NEVER)
        if not lagging.any():
            return []
        rows, target = rows[lagging], target[lagging]
        cleared: list[Publish] = []
        if silent_too:
            silent = [self.site.meters.by_row[row].latest_us < now_us - limits.retire_after_us for row in rows.tolist()]
            cleared = [self._retire(row, changes) for row in rows[silent].tolist()]
            rows, target = rows[np.logical_not(silent)], target[np.logical_not(silent)]
        self._close(rows, target, changes)
        return cleared

    def _retire(self, row: int, changes: Changes) -> Publish:
        """A meter silent for too long: its retained forecast is cleared."""
        self.site.retired[row] = True
        changes.meters.add(row)
        self.counters["meters", "retired"] += 1
        return Publish(self.topics.forecast(self.site.meters.by_row[row].name), b"", retain=True)

    def _on_mended(self, detail: str, lost: Iterable[tuple[int, int]]) -> list[Effect]:
        """Tell of a state that was damaged, ask central for what may be missing, and answer for what was lost."""
        self._restore_wanted = True
        self.bounds.reached("state", detail, self.clock.wall_us)
        topic = self.topics.uplink
        refused = [
            (topic, topic, RefusedItem(first, b"", f"batches {first} to {last} were lost: {detail}"))
            for first, last in lost
        ]
        events = columns_of(EVENT_COLUMNS, [(self.clock.received_us, "state_mended", detail)])
        changes = Changes(facts={"restore": "wanted"}, outbox=self.uplink.enqueue({"events": events}, self._at()))
        return self._record(changes, Taken(refused=refused))

    # -- central -------------------------------------------------------------------------------------------------

    def _on_confirmed(self, delivered: Iterable[tuple[int, int]]) -> list[Effect]:
        for row, origin in delivered:
            # One from beyond what is issued is of a clock that ran ahead: it is yet to be made again.
            known = int(self.site.delivered[row])
            self.site.delivered[row] = origin if known < origin <= self.site.issued[row] else known
            self._confirmed.add(row)
        return []

    def _note_confirmed(self, changes: Changes) -> None:
        """Confirmations ride along with the next commit that is made anyway, or make one when enough wait."""
        if changes or len(self._confirmed) >= self.site.rows:
            changes.meters |= self._confirmed
            self._confirmed = set()

    def _renew_epoch(self) -> list[Effect]:
        self.counters["epochs_renewed", ""] += 1
        return [RenewEpoch(self._new_id())]

    def _on_acked(self, topic: str, payload: bytes, *, live: bool) -> list[Effect]:
        try:
            acked = Acked.decode(payload, topic)
        except MessageRefused as reason:
            return self._refuse_control(topic, payload, reason)
        if self.uplink.disowned_by(acked):
            return self._renew_epoch()
        fresh = live and self._began_us is not None and acked.at_us >= self._began_us - FRESH_WITHIN_US
        recorded = self.uplink.on_acked(acked, fresh=fresh)
        facts = {"recorded": ",".join(map(str, self.uplink.recorded))}
        return [self._commit(Changes(acked=recorded, facts=facts))] if recorded else []

    def _on_restore(self, topic: str, payload: bytes) -> list[Effect]:
        """Take closed intervals that central gives back, when they are meant for this epoch of ours."""
        try:
            message = Restore.decompress(payload, topic)
            if message.epoch != self.uplink.epoch or not self._restore_wanted:
                return []
            filled = restore(
                self.site, message, topic, self._begin_with_history, max_meters=self.params.edge.max_meters
            )
        except MessageRefused as reason:
            return self._refuse_control(topic, payload, reason)
        self.counters["intervals", "restored"] += sum(count for _row, _first, count in filled)
        changes = self._filled(filled, message.meters)
        self._restored.add(message.part)
        if len(self._restored) >= message.parts:
            self._restore_wanted = False
            changes.facts["restore"] = "done"
        return [self._commit(changes)]

    def _filled(self, filled: list[tuple[int, int, int]], names: Iterable[str]) -> Changes:
        known = self.site.meters.by_name
        return Changes(closed=filled, meters={known[name].row for name in names if name in known})

    def _on_desired(self, topic: str, payload: bytes) -> list[Effect]:
        try:
            desired = Desired.decode(payload, topic)
        except MessageRefused as reason:
            return self._refuse_control(topic, payload, reason)
        now, suspect = to_datetime(self.clock.wall_us), self._is_clock_suspect
        return self._models_changed(self.models.on_desired(desired, now, clock_suspect=suspect))

    def _refuse_control(self, topic: str, payload: bytes, reason: MessageRefused) -> list[Effect]:
        """A control message that cannot be read is a dead letter like any other input."""
        self.counters["control", "refused"] += 1
        refused = Taken(refused=[(topic, topic, RefusedItem(None, payload, str(reason)))])
        return self._record(Changes(), refused)

    def _models_changed(self, effects: list[Effect]) -> list[Effect]:
        """Artifacts are saved first, then the choice is committed; only then old ones go and the world is told."""
        saved = [effect for effect in effects if isinstance(effect, SaveArtifact)]
        others = [effect for effect in effects if not isinstance(effect, SaveArtifact)]
        return [*saved, *([self._commit(Changes())] if self.models.is_unwritten else []), *others]

    def _make_room(self) -> list[Effect]:
        """A full outbox never withholds acks from meters: its oldest batches become one gap entry."""
        given_up = self.uplink.overflow(self.params.outbox.max_bytes)
        if given_up is None:
            return []
        self.bounds.reached("outbox", "outbox was full: its oldest batches became a gap", self.clock.wall_us)
        return [MakeGap(*given_up, reason="the outbox was full", at_us=self.clock.received_us)]

    # -- status --------------------------------------------------------------------------------------------------

    def status(self, *, instance: str, started_at: str, version: str) -> Status:
        """How the edge is: degraded while a bound is reached, for the outbox from 80 % on."""
        full = self.uplink.size_bytes / self.params.outbox.max_bytes
        reasons = [f"outbox is {full:.0%} full"] if full >= DEGRADED_FROM else []
        reasons += self.bounds.reasons(self.clock.wall_us)
        if self.clock.doubt_us:
            reasons.append(f"the wall clock jumped by {self.clock.doubt_us / 1e6:.0f} s and no meter agrees yet")
        if self._is_clock_suspect:
            reasons.append(f"clock_suspect: {CLOCK_SUSPECT}")
        champion = self.models.champion
        return Status(
            state="degraded" if reasons else "online",
            instance=instance,
            epoch=self.uplink.epoch,
            version=version,
            started_at=started_at,
            meters=self.site.rows,
            champion=champion.manifest.version if champion else None,
            watermark=iso(self.clock.latest_us) if self.clock.latest_us != NO_INSTANT else None,
            outbox=self.uplink.batches,
            reasons=[*reasons, *([RESTORE_WANTED] if self._restore_wanted and self._may_ask else [])],
        )

    def _commit(self, changes: Changes) -> Commit:
        if self.models.is_unwritten:
            changes.facts["models"] = self.models.take_fact()
        changes.facts |= {"next_seq": str(self.uplink.next_seq), "vouched": str(self.uplink.vouched)}
        changes.facts["wall_us"] = str(self.clock.believed_us)
        if self._restore_wanted:  # known after a restart too, when the state is no longer empty
            changes.facts.setdefault("restore", "wanted")
        forms = self.site.forms
        changes.forms = [(number, forms[number]) for number in range(self._forms_kept, len(forms))]
        self._forms_kept = len(forms)
        return Commit(changes)

    def _at(self) -> str:
        return iso(self.clock.received_us)
