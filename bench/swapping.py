"""`swap_pause_p99_ms`: models swapped again and again while a site's meters close hour after hour.

Hours close back to back, as in `close`. A swap's pause is by how much the slowest hour that any part of it fell into
(its proof's answer taken up, the artifact saved, the choice committed, the report) took longer than the median hour
while no model was on its way: seen from outside, with all that the swap costs. An hour ends when all its forecasts are
there, so none is missed, or the bench cannot go on.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from bench.closing import END, PATIENCE_S
from bench.edge_process import ROOT_TOPIC, edge_settings, start_edge
from bench.edge_state import daily_loads, meter_name, write_state
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, say
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from demo.processes import Child
from shared.clock import HOUR_US, iso
from shared.manifest import Golden, Packed, pack
from shared.messages import Desired
from shared.params import Params
from shared.topics import SiteTopics, artifact_chunk
from tests.small_model import in_a_month, manifest_of, small_model

SITE: Final = "bench"
MODELS: Final = 2  # that take turns: what is swapped in is another model each time
QUIET: Final = 3  # hours between a swap and the next model
HOURS_AT_MOST: Final = 600  # for one swap


@dataclass(slots=True)
class Swaps:
    """What was measured, in seconds an hour."""

    quiet: list[float] = field(default_factory=list)
    proving: list[float] = field(default_factory=list)
    swapping: list[float] = field(default_factory=list)  # of each swap, the slowest hour it fell into
    until_served: list[float] = field(default_factory=list)

    def pauses_ms(self) -> list[float]:
        """By how much each swap held an hour up."""
        usual = statistics.median(self.quiet)
        return [1000 * max(one - usual, 0.0) for one in self.swapping]


@dataclass(slots=True)
class Site:
    """An edge under load, and what it says of its champion."""

    wire: Wire
    packets: Iterator[tuple[int, bytes]]
    child: Child
    topics: SiteTopics
    meters: int
    hour: int = END
    serving: int = 0

    def publish_model(self, artifact: Packed, raw: bytes, golden: Golden, version: int) -> None:
        """Retain an artifact's chunks and, signed for the site, the manifest that wants it."""
        manifest = manifest_of(raw, golden, version, expires=in_a_month(), sites=[SITE])
        for number, chunk in enumerate(artifact.chunks):
            topic = artifact_chunk(ROOT_TOPIC, artifact.sha256, number)
            self.wire.send(publish_packet(topic, chunk, mid=number + 1, retain=True))
        self.wire.send(publish_packet(self.topics.desired, Desired(champion=manifest).encode(), mid=1, retain=True))

    def close_hour(self) -> float:
        """Let every meter close an hour; returns the seconds until the last forecast was there."""
        loads_kw = daily_loads(self.meters, self.hour, 1)[:, 0]
        burst = b"".join(
            publish_packet(
                self.topics.reading(meter_name(meter)), _reading(self.hour, float(loads_kw[meter])), mid=meter + 1
            )
            for meter in range(self.meters)
        )
        began_s = time.monotonic()
        self.wire.send(burst)
        left = self.meters
        while left:
            topic, payload = self._next()
            if topic == self.topics.reported:
                self._hear(payload)
            else:
                left -= 1
        self.hour += 1
        return time.monotonic() - began_s

    def _hear(self, payload: bytes) -> None:
        reported = json.loads(payload)
        if reported["refused"]:
            raise BenchFailed(f"swap: the edge refused a model: {reported['refused'][-1]}")
        self.serving = (reported["champion"] or {"version": 0})["version"]

    def _next(self) -> tuple[str, bytes]:
        try:
            return next(topic_and_payload(body) for kind, body in self.packets if kind == PUBLISH)
        except TimeoutError as error:
            self.child.require_running()
            raise BenchFailed(f"swap: a forecast of {iso(self.hour * HOUR_US)} is missing") from error


def run(*, meters: int = 200, weeks: int = 5, swaps: int = 100, trees: int = 60) -> list[Figure]:
    """Swap `swaps` models in, after a first that does not count."""
    topics = SiteTopics(ROOT_TOPIC, SITE)
    models = [small_model(seed, trees) for seed in range(1, MODELS + 1)]
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
        chosen = edge_settings(SITE, broker, Path(name) / "state", clock="event")
        params = Params.model_validate({"site": SITE, "clock": "event"})
        write_state(Path(name) / "state", params, meters=meters, weeks=weeks, end=END, delivered=END)
        with Wire(broker.port, "bench-meters") as wire:
            wire.subscribe(topics.forecast("+"))
            wire.subscribe(topics.reported)
            child = start_edge(chosen, broker, Path(name) / "log")
            try:
                site = Site(wire, wire.packets(PATIENCE_S), child, topics, meters)
                found = _swap_again_and_again(site, models, swaps)
                forecasts = (site.hour - END) * meters
            finally:
                child.stop()
    return [_figure(found, forecasts, {"meters": meters, "weeks": weeks, "trees_per_quantile": trees})]


def _swap_again_and_again(site: Site, models: list[tuple[bytes, Golden]], swaps: int) -> Swaps:
    packed = [pack(artifact) for artifact, _ in models]
    found = Swaps()
    for version in range(1, swaps + 2):
        which = version % len(models)
        artifact, golden = models[which]
        site.publish_model(packed[which], artifact, golden, version)
        _one_swap(site, version, found if version > 1 else Swaps())
        if version % 10 == 0 and version <= swaps:
            say(f"swap {version}/{swaps}: pauses up to {max(found.pauses_ms()):.0f} ms")
    return found


def _one_swap(site: Site, version: int, found: Swaps) -> None:
    began_s, before = time.monotonic(), 0.0
    for _ in range(HOURS_AT_MOST):
        seconds = site.close_hour()
        if site.serving == version:
            break
        found.proving.append(seconds)
        before = seconds
    else:
        raise BenchFailed(f"swap: version {version} does not serve after {HOURS_AT_MOST} hours")
    found.until_served.append(time.monotonic() - began_s)
    after = site.close_hour()  # the first that is wholly the new model's, and what was told after it
    found.swapping.append(max(before, seconds, after))
    found.quiet += [site.close_hour() for _ in range(QUIET)]


def _reading(number: int, load_kw: float) -> bytes:
    written = {"ts": iso(number * HOUR_US), "value": round(load_kw, 4), "unit": "kWh", "kind": "energy"}
    return json.dumps(written | {"period_s": 3600}).encode()


def _figure(found: Swaps, forecasts: int, conditions: dict[str, object]) -> Figure:
    pauses_ms = found.pauses_ms()
    shape = {
        "swaps": len(pauses_ms),
        "p50_ms": round(statistics.median(pauses_ms), 2),
        "max_ms": round(max(pauses_ms), 2),
        "quiet_hour_p50_ms": round(1000 * statistics.median(found.quiet), 2),
        "quiet_hour_p99_ms": round(1000 * float(np.percentile(found.quiet, 99)), 2),
        "proving_hour_p50_ms": round(1000 * statistics.median(found.proving or [0.0]), 2),
        "desired_to_served_p50_s": round(statistics.median(found.until_served), 3),
        "forecasts": forecasts,
        "forecasts_missed": 0,
    }
    p99_ms = max(float(np.percentile(pauses_ms, 99)), 0.01)  # what is below is below what can be told
    return Figure("swap_pause_p99_ms", round(p99_ms, 2), "ms", len(pauses_ms), conditions=conditions | shape)
