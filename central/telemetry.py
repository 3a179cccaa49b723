"""What central tells Prometheus."""

from __future__ import annotations

from typing import Final, get_args

from central.rollout_state import RolloutState
from central.stages import Answer, overdue, tally_of
from central.stalls import ERRANDS
from shared.params import RolloutParams
from shared.refusals import Cause
from shared.telemetry import CollectorRegistry, Counter, Gauge, Histogram

NAMESPACE: Final = "metercast"
SUBSYSTEM: Final = "central"


class CentralMetrics:
    """Counters and gauges of one central, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.readings = self._counter("readings_recorded_total", "Readings committed to the record.", "site")
        self.batches = self._counter("batches_recorded_total", "Uplink batches committed to the record.", "site")
        self.duplicates = self._counter("batches_duplicate_total", "Uplink batches that came again.")
        self.refused = self._counter("batches_refused_total", "Messages that were no batch, or of a site too many.")
        self.gap_readings = self._counter(
            "gap_readings_total", "Readings that a full outbox gave up, as its edge counted them.", "site"
        )
        self.commit_seconds = Histogram(
            "commit_duration_seconds",
            "Time of one commit to the record.",
            registry=self.registry,
            namespace=NAMESPACE,
            subsystem=SUBSYSTEM,
        )
        self.record_version = self._gauge("record_version", "Version of the record's readings table.")
        self.uplink_at = self._gauge("uplink_at_timestamp_seconds", "Event time of a site's latest batch.", "site")
        self.drifts = self._counter("drift_events_total", "Times a site's forecasts were seen to drift.", "site")
        self.trainings = self._counter("trainings_total", "Trainings that ended.", "outcome")
        self.training_running = self._gauge("training_running", "1 while a training runs.")
        self.model_version = self._gauge("model_version", "Version of the champion that is rolled out, 0 for none.")
        self.sites = self._gauge("sites", "Sites seen.")
        self.stalled = self._gauge("stalled", "1 while the disk or the record lets an errand not be done.", "errand")
        for errand in ERRANDS:
            self.stalled.labels(errand).set(0)
        self._add_rollout()

    def _add_rollout(self) -> None:
        self.rollout_version = self._gauge("rollout_version", "Version on its way to the sites, 0 for none.")
        self.rollout_stage = self._gauge(
            "rollout_stage", "0 while the canary sites are watched, then the stage; the last is the fleet; -1 for none."
        )
        self.rollout_sites = self._gauge(
            "rollout_sites", "Sites told to serve the version on its way, by what they say of it.", "answer"
        )
        self.rollout_live_ratio = self._gauge(
            "rollout_live_ratio", "Live error of the version on its way over its predecessor's.", "version"
        )
        self.rollout_live_pairs = self._gauge("rollout_live_pairs", "Live scores that ratio is of.")
        self.rollout_overdue = self._gauge("rollout_overdue", "1 while a stage takes much longer than it should.")
        self.rollout_halted = self._gauge("rollout_halted", "1 while a person has paused or stopped the rollout.")
        self.step_backs = self._counter("rollout_step_backs_total", "Versions that were stepped back.")
        self.model_refusals = self._counter("models_refused_total", "Models that sites told they refused.", "reason")
        self.keys = self._gauge("private_keys", "Private keys manifests are signed with; -1 before it is known.")
        self.keys.set(-1)

    def count_refusal(self, reason: str) -> None:
        """Count a model refused; words this version does not know count as one."""
        self.model_refusals.labels(reason if reason in list(Cause) else "other").inc()

    def show_rollout(self, state: RolloutState, params: RolloutParams, now_us: int | None) -> None:
        """Show what is on its way, and how far it got."""
        rolling, count = state.rolling, tally_of(state)
        self.rollout_version.set(rolling.manifest.version if rolling is not None else 0)
        last = len(params.stages) + 1
        self.rollout_stage.set(-1 if rolling is None else last if rolling.fleet else rolling.stage)
        for answer in get_args(Answer):
            self.rollout_sites.labels(answer).set(getattr(count, answer))
        self.rollout_live_ratio.clear()
        if rolling is not None and rolling.live.ratio is not None:
            self.rollout_live_ratio.labels(str(rolling.manifest.version)).set(rolling.live.ratio)
        self.rollout_live_pairs.set(rolling.live.pairs if rolling is not None else 0)
        halted = state.paused or state.stopped
        self.rollout_overdue.set(now_us is not None and not halted and overdue(state, params, now_us))
        self.rollout_halted.set(halted)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry, namespace=NAMESPACE, subsystem=SUBSYSTEM)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, namespace=NAMESPACE, subsystem=SUBSYSTEM)
