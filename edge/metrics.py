"""What the edge tells Prometheus: read from the node's counters and state at each scrape, nothing on the hot path."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from edge.bootstrap import Edge
from edge.meters import NO_INSTANT
from edge.node import Node
from shared import __version__
from shared.clock import SECOND_US
from shared.mqtt import Connection
from shared.refusals import Cause
from shared.telemetry import CollectorRegistry, Sample, register, serve_metrics

_WIDTH = ("stage", "lead")
# counter of the node → (metric, help, label names)
_COUNTERS = {
    "readings": ("metercast_readings", "Readings by what became of them", ("result",)),
    "dead_letters": ("metercast_dead_letters", "Inputs refused with a reason", ()),
    "covariates": ("metercast_covariates", "Issues of covariates by what became of them", ("result",)),
    "intervals": ("metercast_intervals", "Intervals closed and revised", ("result",)),
    "forecasts": ("metercast_forecasts", "Forecasts by the rung that made them", ("rung",)),
    "superseded": ("metercast_forecasts_superseded", "Origins skipped for a newer one", ()),
    "meters": (
        "metercast_meters_changed",
        "Meters that were retired, and those the champion was stood down for or returned to",
        ("change",),
    ),
    "control": ("metercast_control_messages", "Control messages that could not be read", ("result",)),
    "commits_failed": ("metercast_commits_failed", "Commits that had to be tried again", ()),
    "gaps": ("metercast_gaps", "Times the oldest of a full outbox became a gap entry", ()),
    "epochs_renewed": ("metercast_epochs_renewed", "Times the ledger began anew, parted from central's", ()),
    "scores": ("metercast_scores", "Forecasts met by the truth", ("role", "lead")),
    "score_error_kw": ("metercast_score_absolute_error_kw", "Sum of absolute errors in kW", ("role", "lead")),
    "score_covered": (
        "metercast_scores_covered",
        "Scores from the lowest modelled quantile to the highest",
        ("role", "lead"),
    ),
    "swap_seconds": ("metercast_model_swap_seconds", "Time that taking up proven models held the rest up", ()),
    "width_kw": ("metercast_forecast_width_kw", "Sum of interval widths, before calibration and as issued", _WIDTH),
}


def serve(edge: Edge) -> int:
    """Serve /metrics where the parameters say; returns the port (0: nowhere)."""
    registry = CollectorRegistry()
    register(registry, lambda: chain(samples(edge.node), _of_connection(edge.connection)))
    return serve_metrics(registry, edge.params.edge.metrics_host, edge.params.edge.metrics_port)


def _of_connection(connection: Connection) -> Iterator[Sample]:
    text = "QoS 0 messages that found the inbox full"
    yield Sample("counter", "metercast_messages_dropped", text, connection.dropped, {})
    yield Sample("gauge", "metercast_inbox_messages", "Messages received and not yet taken", connection.waiting, {})
    yield Sample("gauge", "metercast_connected", "Whether the broker has us", connection.connected, {})


def samples(node: Node) -> Iterator[Sample]:
    """Every metric of one node, now."""
    yield Sample("gauge", "metercast_build_info", "Version of this edge", 1, {"version": __version__})
    never = {(name, ""): 0.0 for name, (_metric, _text, labels) in _COUNTERS.items() if not labels}
    for (name, label), value in sorted({**never, **node.counters}.items()):
        metric, text, labels = _COUNTERS[name]
        yield Sample("counter", metric, text, value, dict(zip(labels, label.split(","), strict=False)))
    yield from _gauges(node)


def _gauges(node: Node) -> Iterator[Sample]:
    yield Sample("gauge", "metercast_meters", "Meters known", node.site.rows, {})
    yield Sample("gauge", "metercast_outbox_batches", "Batches that wait for central", node.uplink.batches, {})
    yield Sample("gauge", "metercast_outbox_bytes", "Bytes that wait for central", node.uplink.size_bytes, {})
    for bound, count in sorted(node.bounds.counts.items()):
        yield Sample("counter", "metercast_bounds_reached", "Times a bound was reached", count, {"bound": bound})
    if node.clock.latest_us != NO_INSTANT:
        seconds = node.clock.latest_us / SECOND_US
        yield Sample("gauge", "metercast_watermark_timestamp_seconds", "Latest accepted reading", seconds, {})
    if node.rounds.last_origin_us:
        seconds = node.rounds.last_origin_us / SECOND_US
        yield Sample("gauge", "metercast_forecast_origin_timestamp_seconds", "Newest origin forecast", seconds, {})
    champion = node.models.champion
    stood_down = len(node.site.standing.down) if champion else 0
    yield Sample("gauge", "metercast_meters_stood_down", "Meters the champion is stood down for", stood_down, {})
    yield Sample("counter", "metercast_model_swaps", "Champions swapped in", node.models.swaps, {})
    for reason in sorted({*Cause, *node.models.refused.counts}):
        count = node.models.refused.counts[reason]
        yield Sample("counter", "metercast_models_refused", "Models refused, by the check", count, {"reason": reason})
    for result in ("taken", "ignored", "bad", "unwanted"):
        count = node.models.underway.chunks[result]
        yield Sample("counter", "metercast_model_chunks", "Chunks of models that came", count, {"result": result})
    transfers = len(node.models.underway.transfers)
    yield Sample("gauge", "metercast_model_transfers", "Models on their way here", transfers, {})
    lost = node.models.lost
    yield Sample("counter", "metercast_model_files_lost", "Files of models found damaged or gone", lost, {})
    for role, model in (("champion", node.models.champion), ("challenger", node.models.challenger)):
        version = model.manifest.version if model else 0
        yield Sample(
            "gauge", "metercast_model_version", "Version of the running model; 0 none", version, {"role": role}
        )
