"""The edge node: events in, effects out. All decisions of the edge are made behind `Node.handle`.

What an event means is decided here; how, by its parts:

    intake      messages become kept readings, or are refused            settling    intervals close, and open again
    rounds      origins are forecast and scored                          models      what runs, what is to run
    uplink      which batches wait, and are under way                    restoring   what central gives back
    recording   the commit and the dead letters that come of an event    siteclock   what time it is

Invariants: readings are committed before they are acknowledged (the Commit comes first among the effects); what is
refused is committed as a dead letter with them; every origin a meter reaches is forecast once under the event clock,
the newest one under the wall clock; the core never asks for the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, assert_never

from edge.bounds import Bounds
from edge.changes import Changes
from edge.covariates import Bounds as CovariateBounds
from edge.dialects.native import RefusedItem
from edge.effects import (
    AckedArrived,
    ChunkArrived,
    CovariatesArrived,
    DesiredArrived,
    Effect,
    EpochRenewed,
    Event,
    ForecastsConfirmed,
    GapMade,
    HistoryArrived,
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
from edge.history import backfill
from edge.intake import Intake, Taken
from edge.meters import NO_INSTANT
from edge.models import Models
from edge.recording import Recording
from edge.restoring import Restoring
from edge.rounds import Counters, RoundMaker
from edge.settling import Settling
from edge.site import SiteState
from edge.siteclock import SiteClock
from edge.uplink import UplinkLedger
from shared.clock import DAY_US, SECOND_US, iso, to_datetime
from shared.errors import MessageRefused
from shared.messages import (
    EVENT_COLUMNS,
    RESTORE_WANTED,
    Acked,
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
        self._restoring = Restoring(site, wanted=restore_wanted)
        self._settling = Settling(site, clock, self.rounds, self.counters)
        self._recording = Recording(
            params,
            site=site,
            uplink=uplink,
            models=models,
            restoring=self._restoring,
            clock=clock,
            topics=self.topics,
            bounds=self.bounds,
            counters=self.counters,
        )
        self._intake = Intake(params, site, clock, self.topics, arrivals)
        self._new_id = new_id
        self._confirmed: set[int] = set()
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
                self._restoring.want()  # of an older image central knows what it lacks
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
            self._settling.take(taken, changes)
        self._count(taken)
        changes.facts["clock_us"] = str(self.clock.latest_us)
        return self._recording.record(changes, taken)

    def _on_history(self, messages: Sequence[Incoming]) -> list[Effect]:
        """History fills intervals that are missing, and goes into the record; it moves no clock."""
        taken, by_meter = self._intake.history(messages)
        filled = backfill(self.site, by_meter, self._settling.begin_with_history)
        taken.recorded = [
            (self.site.meters.by_name[name].row, *reading)
            for name, readings in by_meter.items()
            for reading in readings
        ]
        taken.received_us = [self.clock.received_us] * len(taken.recorded)
        self.counters["readings", "backfilled"] += len(taken.recorded)
        return self._recording.record(self._filled(filled, by_meter), taken)

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
        return self._recording.record(changes, Taken(refused=taken.refused), taken.columns(clock.received_us))

    def _count(self, taken: Taken) -> None:
        self.counters["readings", "accepted"] += len(taken.kept) - taken.corrected
        self.counters["readings", "corrected"] += taken.corrected
        self.counters["readings", "duplicate"] += taken.duplicates
        self.counters["readings", "late"] += taken.late
        self.counters["readings", "retained"] += taken.retained

    # -- time ----------------------------------------------------------------------------------------------------

    def _on_tick(self, *, caught_up: bool) -> list[Effect]:
        if caught_up:
            self._restoring.caught_up()
        now_us = self.clock.now_us
        if now_us == NO_INSTANT:
            return []
        # Under the wall clock a backlog is taken in first: only the newest origin is worth a forecast then.
        ready = caught_up or self.params.clock == "event"
        due = ready and self.rounds.due()
        if due and self.models.begin_trial():
            return [self._recording.commit(Changes())]
        changes = Changes()
        self._settling.reopen(changes)
        retired = self._settling.close_waiting(changes, silent_too=ready)
        cleared = [Publish(self.topics.forecast(meter.name), b"", retain=True) for meter in retired]
        at_most = ROUNDS_PER_TICK if ready else 0
        made = self.rounds.make(changes, at_most=at_most, now_us=now_us, wall_us=self.clock.wall_us)
        if due:
            self.models.end_trial()
        events = [*((now_us, "retired", publish.topic) for publish in cleared), *made.events]
        self._recording.enqueue(changes, {"scores": made.scores, "events": columns_of(EVENT_COLUMNS, events)})
        self._note_confirmed(changes)
        committed = [self._recording.commit(changes)] if changes else []
        return [*committed, *self.models.tell_changes(), *cleared, *made.publications, *self._recording.make_room()]

    def _on_mended(self, detail: str, lost: Iterable[tuple[int, int]]) -> list[Effect]:
        """Tell of a state that was damaged, ask central for what may be missing, and answer for what was lost."""
        self._restoring.want()
        self.bounds.reached("state", detail, self.clock.wall_us)
        topic = self.topics.uplink
        refused = [
            (topic, topic, RefusedItem(first, b"", f"batches {first} to {last} were lost: {detail}"))
            for first, last in lost
        ]
        events = columns_of(EVENT_COLUMNS, [(self.clock.received_us, "state_mended", detail)])
        changes = Changes()
        self._recording.enqueue(changes, {"events": events})
        return self._recording.record(changes, Taken(refused=refused))

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
            return self._recording.refuse(topic, payload, str(reason))
        if self.uplink.disowned_by(acked):
            return self._renew_epoch()
        fresh = live and self._began_us is not None and acked.at_us >= self._began_us - FRESH_WITHIN_US
        recorded = self.uplink.on_acked(acked, fresh=fresh)
        facts = {"recorded": ",".join(map(str, self.uplink.recorded))}
        return [self._recording.commit(Changes(acked=recorded, facts=facts))] if recorded else []

    def _on_restore(self, topic: str, payload: bytes) -> list[Effect]:
        """Take closed intervals that central gives back, when they are meant for this epoch of ours."""
        try:
            message = Restore.decompress(payload, topic)
            if message.epoch != self.uplink.epoch or not self._restoring.wanted:
                return []
            begin, most = self._settling.begin_with_history, self.params.edge.max_meters
            filled = self._restoring.take(message, topic, begin, max_meters=most)
        except MessageRefused as reason:
            return self._recording.refuse(topic, payload, str(reason))
        self.counters["intervals", "restored"] += sum(count for _row, _first, count in filled)
        changes = self._filled(filled, message.meters)
        changes.facts |= self._restoring.fact
        return [self._recording.commit(changes)]

    def _filled(self, filled: list[tuple[int, int, int]], names: Iterable[str]) -> Changes:
        known = self.site.meters.by_name
        return Changes(closed=filled, meters={known[name].row for name in names if name in known})

    def _on_desired(self, topic: str, payload: bytes) -> list[Effect]:
        try:
            desired = Desired.decode(payload, topic)
        except MessageRefused as reason:
            return self._recording.refuse(topic, payload, str(reason))
        now, suspect = to_datetime(self.clock.wall_us), self._is_clock_suspect
        return self._models_changed(self.models.on_desired(desired, now, clock_suspect=suspect))

    def _models_changed(self, effects: list[Effect]) -> list[Effect]:
        """Artifacts are saved first, then the choice is committed; only then old ones go and the world is told."""
        saved = [effect for effect in effects if isinstance(effect, SaveArtifact)]
        others = [effect for effect in effects if not isinstance(effect, SaveArtifact)]
        return [*saved, *([self._recording.commit(Changes())] if self.models.is_unwritten else []), *others]

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
            reasons=[*reasons, *([RESTORE_WANTED] if self._restoring.asks else [])],
        )
