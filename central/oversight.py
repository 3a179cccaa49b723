"""Watching what was recorded: drift is told, trainings are started when due, their results go to the rollout."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from central.columns import SCORES, Recorded, spans_of
from central.delivery import Delivery, Unkept
from central.drift import DriftSeen, DriftWatch
from central.jobs import Jobs, NotStarted
from central.journal import Journal
from central.live_scores import CHALLENGER, CHAMPION, LiveScores
from central.record import Record
from central.stalls import Stall
from central.telemetry import CentralMetrics
from central.trainings import Result, Training, results_in, starts_in, trained_until_us
from central.triggers import Coverage, Triggers
from central.work import WorkFolder
from shared.clock import DAY_US, iso, parse_instant_us, to_us
from shared.manifest import Manifest
from shared.messages import SCORE_COLUMNS, Drift
from shared.mqtt import Connection
from shared.topics import SiteTopics

log = logging.getLogger(__name__)


REMEMBERED_DAYS: Final = 120  # of scores, from which a restart rebuilds the detectors


class Oversight:
    """The shell of drift and triggers. Under `clock: event`, now is the latest uplink's `at`; else the wall clock's."""

    def __init__(
        self,
        watch: DriftWatch,
        triggers: Triggers,
        jobs: Jobs,
        delivery: Delivery,
        journal: Journal,
        metrics: CentralMetrics,
        connection: Connection,
        work: WorkFolder,
        *,
        root: str,
        event_clock: bool,
    ) -> None:
        self._watch = watch
        self._triggers = triggers
        self._jobs = jobs
        self._delivery = delivery
        self._journal = journal
        self._metrics = metrics
        self._connection = connection
        self._work = work
        self._root = root
        self._event_clock = event_clock
        self._live = LiveScores()
        self._coverage = Coverage()
        self._event_us: int | None = None
        self._noticed: tuple[int, ...] = (0, 0)  # versions that serve and that are coming
        self._told: set[str] = set()  # trainings whose end is in the journal, and not yet marked as taken
        self._starting = Stall("trainings", metrics.stalled)

    def rebuild(self, record: Record, wall: datetime) -> None:
        """Learn from the record and the work folder what a restart forgot."""
        self._cover(record.spans())
        self._event_us = self._coverage.newest_us
        since_us = None if self._event_us is None else self._event_us - REMEMBERED_DAYS * DAY_US
        self._watch_scores(record.scores(since_us=since_us))
        self._jobs.adopt(wall)
        self._triggers.last_start_us = max(starts_in(self._work.trainings), default=None)
        self._triggers.running = self._jobs.training
        self._notice_models(restart=False)
        until_us = self._triggers.champion_until_us
        if until_us is not None and any(seen.at_us <= until_us for seen in self._watch.standing.values()):
            self._watch.restart()

    def now_us(self, wall: datetime) -> int | None:
        """Event time, None as long as nothing has come."""
        return self._event_us if self._event_clock else to_us(wall)

    def take(self, recorded: Recorded, wall: datetime) -> None:
        """Look at batches that are now in the record."""
        newest_us = max(parse_instant_us(batch.at) for batch in recorded.batches)
        self._event_us = max(self._event_us or 0, newest_us)
        if "readings" in recorded.tables:
            self._cover(spans_of(recorded.tables["readings"]))
        if "scores" in recorded.tables:
            for seen in self._watch_scores(recorded.tables["scores"]):
                self._tell(seen, wall)

    def tick(self, wall: datetime) -> None:
        """Start what is due, and take what has ended; what cannot be kept is done at a later tick."""
        self._journal.catch_up(wall)
        if self._jobs.ended(wall):
            self._triggers.ended()
        with suppress(Unkept):
            self._take_results(wall)
        self._live.watch(*self._delivery.compared)
        with suppress(Unkept):
            self._delivery.refresh_when_due(wall=wall, event_us=self.now_us(wall))
            self._delivery.tick(self._live.comparison(), wall=wall, event_us=self.now_us(wall))
        self._notice_models(restart=True)
        self._metrics.training_running.set(self._jobs.training)
        self._train_when_due(wall)

    def _train_when_due(self, wall: datetime) -> None:
        now_us = self.now_us(wall)
        if now_us is None or self._starting.holds(time.monotonic()):
            return
        reason = self._triggers.due(now_us, self._coverage, self._watch.standing)
        if reason is None:
            return
        try:
            training = self._jobs.train(reason, now_us, wall)
        except NotStarted as error:
            self._starting.failed(str(error), time.monotonic())
            return
        self._starting.passed()
        self._triggers.started(now_us)
        self._journal.write("training started", wall=wall, event_us=now_us, training=training.id, reason=reason)

    def _cover(self, spans: pa.Table) -> None:
        for row in zip(*(column.to_pylist() for column in spans.cast(_SPANS).columns), strict=True):
            self._coverage.add(*row)

    def _watch_scores(self, scores: pa.Table) -> list[DriftSeen]:
        """Show the watch rows of the record's table of scores, a site after the other."""
        rows = scores.cast(_SCORES_US).rename_columns(_SCORE_NAMES)
        self._compare(rows)
        seen: list[DriftSeen] = []
        for site in pc.unique(rows["site"]).to_pylist():
            own = rows.filter(pc.field("site") == site)
            seen += self._watch.take(site, {name: own[name].to_pylist() for name in SCORE_COLUMNS})
        return seen

    def _compare(self, rows: pa.Table) -> None:
        """Show the scores of the version on its way and of its predecessor's shadow to who holds them together."""
        self._live.watch(*self._delivery.compared)
        if self._live.version is None:
            return
        own = (pc.field("role") == CHAMPION) & (pc.field("model_version") == self._live.version)
        shadow = (pc.field("role") == CHALLENGER) & (pc.field("model_version") == (self._live.predecessor or 0))
        met = rows.filter((pc.field("rung") == CHAMPION) & (own | shadow))
        for site in pc.unique(met["site"]).to_pylist():
            some = met.filter(pc.field("site") == site)
            self._live.take(site, {name: some[name].to_pylist() for name in SCORE_COLUMNS})

    def _tell(self, seen: DriftSeen, wall: datetime) -> None:
        decision = self._decision(seen.at_us)
        message = Drift(
            site=seen.site,
            at=iso(seen.at_us),
            meters=list(seen.meters),
            statistic=seen.statistic,
            since=iso(seen.since_us),
            decision=decision,
        )
        self._connection.publish(SiteTopics(self._root, seen.site).drift, message.encode())
        self._metrics.drifts.labels(seen.site).inc()
        detail: dict[str, Any] = {"site": seen.site, "meters": list(seen.meters), "since": iso(seen.since_us)}
        self._journal.write("drift", wall=wall, event_us=seen.at_us, decision=decision, **detail)

    def _decision(self, now_us: int) -> str:
        if self._triggers.running:
            return "a training runs already"
        if not self._triggers.asks(now_us):
            return "a model that has seen this is on its way"
        cools_until_us = self._triggers.cools_until(now_us)
        return "train now" if cools_until_us is None else f"train when the cooldown ends at {iso(cools_until_us)}"

    def _take_results(self, wall: datetime) -> None:
        """Tell how trainings ended, each once, and roll out what was accepted. Raises Unkept."""
        for training, result in list(results_in(self._work.trainings, fresh=True)):
            if training.id not in self._told:
                self._told.add(training.id)
                self._tell_ended(result, wall)
            if result.outcome == "accepted" and result.manifest is not None:
                self._delivery.accept(result.manifest, wall=wall, event_us=self.now_us(wall))
            self._mark(training)

    def _mark(self, training: Training) -> None:
        """Remember on disk that a result was acted on; to take in the same candidate twice changes nothing."""
        try:
            training.take()
        except OSError as error:
            self._starting.failed(f"{training.folder}: {error.strerror}", time.monotonic())
            return
        self._starting.passed()
        self._told.discard(training.id)

    def _tell_ended(self, result: Result, wall: datetime) -> None:
        detail = result.model_dump(mode="json", exclude={"manifest", "started_at"})
        self._journal.write("training ended", wall=wall, event_us=self.now_us(wall), **detail)
        self._metrics.trainings.labels(result.outcome).inc()

    def _notice_models(self, *, restart: bool) -> None:
        """Note up to when what serves and what is coming was trained; drift is looked for anew with a champion."""
        serving, coming = self._delivery.serving, self._delivery.state.coming
        versions = tuple(0 if model is None else model.version for model in (serving, coming))
        if versions == self._noticed:
            return
        is_other, self._noticed = versions[0] != self._noticed[0], versions
        self._triggers.champion_until_us, self._triggers.coming_until_us = map(self._until_us, (serving, coming))
        if restart and is_other:
            self._watch.restart()

    def _until_us(self, model: Manifest | None) -> int | None:
        return None if model is None else trained_until_us(self._work.trainings, model)


_INSTANT = pa.int64()
_SPANS = pa.schema([("site", pa.string()), ("meter_id", pa.string()), ("first", _INSTANT), ("last", _INSTANT)])
_SCORES_US = pa.schema([pa.field(f.name, _INSTANT) if f.name == "valid_at" else f for f in SCORES])
_SCORE_NAMES = ["valid_us" if name == "valid_at" else name for name in SCORES.names]
