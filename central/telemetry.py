"""What central tells Prometheus."""

from __future__ import annotations

from typing import Final

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

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry, namespace=NAMESPACE, subsystem=SUBSYSTEM)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, namespace=NAMESPACE, subsystem=SUBSYSTEM)
