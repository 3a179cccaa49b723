"""What central tells Prometheus."""

from __future__ import annotations

from shared.telemetry import CollectorRegistry, Counter, Gauge, Histogram


class CentralMetrics:
    """Counters and gauges of one central, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "metercast", "subsystem": "central"}
        self.readings = Counter("readings_recorded_total", "Readings committed to the record.", ["site"], **own)
        self.batches = Counter("batches_recorded_total", "Uplink batches committed to the record.", ["site"], **own)
        self.duplicates = Counter("batches_duplicate_total", "Uplink batches that came again.", **own)
        self.refused = Counter("batches_refused_total", "Uplink messages that were no batch.", **own)
        self.commit_seconds = Histogram("commit_duration_seconds", "Time of one commit to the record.", **own)
        self.record_version = Gauge("record_version", "Version of the record's readings table.", **own)
        self.uplink_at = Gauge("uplink_at_timestamp_seconds", "Event time of a site's latest batch.", ["site"], **own)
        self.drifts = Counter("drift_events_total", "Times a site's forecasts were seen to drift.", ["site"], **own)
        self.trainings = Counter("trainings_total", "Trainings that ended.", ["outcome"], **own)
        self.training_running = Gauge("training_running", "1 while a training runs.", **own)
        self.model_version = Gauge("model_version", "Version of the champion that is rolled out, 0 for none.", **own)
        self.sites = Gauge("sites", "Sites seen.", **own)
