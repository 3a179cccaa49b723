"""`swap_pause_p99_ms` and `swaps_missed_forecasts`: models swapped again and again under a steady stream of readings.

Meters report in turn, at a rate that does not wait for the edge, and every reading closes an hour of its meter. So a
forecast is due all the time, and its delay, from its reading to the broker handing it on, shows from outside whatever
holds the edge up. A swap's pause is by how much the worst delay in the half second around it is longer than the worst
delay of the median half second without one.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.closing import END
from bench.edge_process import ROOT_TOPIC, edge_settings, metric, start_edge
from bench.edge_state import daily_loads, meter_name, write_state
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, say
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from demo.broker import free_port
from demo.processes import Child
from shared.clock import HOUR_US, iso, parse_instant_us
from shared.manifest import Golden, pack
from shared.messages import Desired
from shared.params import Params
from shared.topics import SiteTopics, artifact_chunk
from tests.small_model import in_a_month, manifest_of, small_model

SITE: Final = "bench"
MODELS: Final = 3  # that take turns: two are on the edge's disk, so each has to be fetched again
AROUND_S: Final = 0.25  # before and after the report of a swap: what is delayed within is put down to the swap
REST_S: Final = (
    4 * AROUND_S
)  # from the report of a swap to the next model; its second half is the quiet to compare with
PATIENCE_S: Final = 300.0
LEAST_WAIT_S: Final = 0.0005

Delays: TypeAlias = NDArray[np.float64]
Asked: TypeAlias = tuple[str, int]  # a meter and the number of the hour that its reading closes


@dataclass(slots=True)
class Seen:
    """What was sent and what came, on the monotonic clock."""

    sent_s: dict[Asked, float] = field(default_factory=dict)
    came_s: dict[Asked, float] = field(default_factory=dict)
    wanted_s: dict[int, float] = field(default_factory=dict)  # by version
    served_s: dict[int, float] = field(default_factory=dict)
    rungs: Counter[str] = field(default_factory=Counter)  # of forecasts since the first model served

    def take(self, topic: str, payload: bytes, reported: str) -> None:
        """Note a forecast or a report; raises BenchFailed when a model was refused."""
        now_s, told = time.monotonic(), json.loads(payload)
        if topic != reported:
            asked = told["meter"], parse_instant_us(told["origin"]) // HOUR_US - 1
            self.came_s.setdefault(asked, now_s)
            self.rungs[told["rung"]] += bool(self.served_s)
        elif told["refused"]:
            raise BenchFailed(f"swap: the edge refused a model: {told['refused'][-1]}")
        elif told["champion"] is not None:
            self.served_s.setdefault(told["champion"]["version"], now_s)

    @property
    def missed(self) -> int:
        """How many forecasts are owed."""
        return len(self.sent_s.keys() - self.came_s.keys())


@dataclass(slots=True)
class Site:
    """Meters that report in turn to an edge, `interval_s` from one to the next."""

    wire: Wire
    child: Child
    topics: SiteTopics
    meters: int
    interval_s: float
    seen: Seen = field(default_factory=Seen)
    next_s: float = 0.0

    def stream_until(self, done: Callable[[], bool], what: str) -> None:
        """Send what is due and take what comes; raises BenchFailed after PATIENCE_S."""
        self.next_s = max(self.next_s, time.monotonic())
        if not self._attend(done, stream=True):
            raise BenchFailed(f"swap: waited {PATIENCE_S:g} s for {what}")

    def wait_for_the_rest(self) -> None:
        """Send nothing more; take what comes until nothing is owed, or for PATIENCE_S."""
        self._attend(lambda: not self.seen.missed, stream=False)

    def want(self, version: int, desired: bytes) -> None:
        """Retain what the site should run."""
        self.seen.wanted_s[version] = time.monotonic()
        self.wire.send(publish_packet(self.topics.desired, desired, mid=1, retain=True))

    def _attend(self, done: Callable[[], bool], *, stream: bool) -> bool:
        until_s = time.monotonic() + PATIENCE_S
        while not done():
            now_s = time.monotonic()
            if now_s > until_s:
                return False
            if stream and now_s >= self.next_s:
                self._send_reading()
            self._take_one((self.next_s if stream else until_s) - now_s)
        return True

    def _take_one(self, within_s: float) -> None:
        try:
            kind, body = next(self.wire.packets(max(within_s, LEAST_WAIT_S)))
        except TimeoutError:
            self.child.require_running()
            return
        if kind == PUBLISH:
            self.seen.take(*topic_and_payload(body), self.topics.reported)

    def _send_reading(self) -> None:
        turn, meter = divmod(len(self.seen.sent_s), self.meters)
        name, hour = meter_name(meter), END + turn
        packet = publish_packet(self.topics.reading(name), _reading(hour, self.meters, meter), mid=2 + meter)
        self.seen.sent_s[name, hour] = time.monotonic()
        self.wire.send(packet)
        self.next_s += self.interval_s


def run(*, meters: int = 200, weeks: int = 5, swaps: int = 100, trees: int = 120, rate: int = 200) -> list[Figure]:
    """Swap `swaps` models in, after a first that does not count, while `rate` readings a second close hours."""
    topics = SiteTopics(ROOT_TOPIC, SITE)
    models = [small_model(seed, trees) for seed in range(1, MODELS + 1)]
    desired = {version: _desired(models[version % MODELS], version) for version in range(1, swaps + 2)}  # ready to send
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
        port = free_port()
        chosen = edge_settings(SITE, broker, Path(name) / "state", clock="event") | {"edge.metrics_port": port}
        params = Params.model_validate({"site": SITE, "clock": "event"})
        write_state(Path(name) / "state", params, meters=meters, weeks=weeks, end=END, delivered=END)
        with Wire(broker.port, "bench-meters") as wire:
            wire.subscribe(topics.forecast("+"))
            wire.subscribe(topics.reported)
            for artifact, _ in models:
                _retain_chunks(wire, artifact)
            child = start_edge(chosen, broker, Path(name) / "log")
            try:
                site = Site(wire, child, topics, meters, 1 / rate)
                _swap_again_and_again(site, desired)
                held_s = metric(port, "metercast_model_swap_seconds_total")
            finally:
                child.stop()
    size = {"meters": meters, "weeks": weeks, "trees_per_quantile": trees, "readings_per_s": rate}
    size |= {"model_bytes": len(models[0][0])}
    return _figures(site.seen, {**size, "edge_held_mean_ms": round(1000 * held_s / len(desired), 2)})


def _retain_chunks(wire: Wire, artifact: bytes) -> None:
    """They stay with the broker, and an edge gets them as often as it asks."""
    packed = pack(artifact)
    for number, chunk in enumerate(packed.chunks):
        topic = artifact_chunk(ROOT_TOPIC, packed.sha256, number)
        wire.send(publish_packet(topic, chunk, mid=number + 1, retain=True))


def _desired(model: tuple[bytes, Golden], version: int) -> bytes:
    """A manifest of this version, signed for the site."""
    return Desired(champion=manifest_of(*model, version, expires=in_a_month(), sites=[SITE])).encode()


def _swap_again_and_again(site: Site, desired: Mapping[int, bytes]) -> None:
    served_s, swaps = site.seen.served_s, len(desired) - 1
    for version, told in desired.items():
        site.want(version, told)
        site.stream_until(lambda version=version: version in served_s, f"version {version} to serve")  # type: ignore[misc]
        rested_s = served_s[version] + REST_S
        site.stream_until(lambda rested_s=rested_s: time.monotonic() >= rested_s, "time to pass")  # type: ignore[misc]
        if version % 10 == 0:
            say(f"swap {version}/{swaps}: {site.seen.missed} forecasts under way")
    site.wait_for_the_rest()


def _reading(hour: int, meters: int, meter: int) -> bytes:
    load_kw = float(daily_loads(meters, hour, 1)[meter, 0])
    written = {"ts": iso(hour * HOUR_US), "value": round(load_kw, 4), "unit": "kWh", "kind": "energy"}
    return json.dumps(written | {"period_s": 3600}).encode()


def worst_around(sent_s: Delays, came_s: Delays, at_s: float) -> float:
    """The longest delay in seconds of the forecasts that were owed at some time within AROUND_S of `at_s`; or 0."""
    owed = (sent_s <= at_s + AROUND_S) & (came_s >= at_s - AROUND_S)
    return float(np.max((came_s - sent_s)[owed], initial=0.0))


def _figures(seen: Seen, size: Mapping[str, float]) -> list[Figure]:
    asked = [asked for asked in seen.sent_s if asked in seen.came_s]
    sent_s = np.array([seen.sent_s[one] for one in asked])
    came_s = np.array([seen.came_s[one] for one in asked])
    swapped = sorted(seen.served_s)[1:]
    proving = np.zeros(len(asked), dtype=bool)
    for version in swapped:
        proving |= (sent_s >= seen.wanted_s[version]) & (sent_s < seen.served_s[version] - AROUND_S)
    swaps_s = [worst_around(sent_s, came_s, seen.served_s[version]) for version in swapped]
    quiet_s = [worst_around(sent_s, came_s, seen.served_s[version] + REST_S - AROUND_S) for version in swapped]
    pauses_s = np.maximum(np.array(swaps_s) - np.median(quiet_s), 0.0)
    until_served_s = [seen.served_s[version] - seen.wanted_s[version] for version in swapped]
    conditions: dict[str, object] = {
        **size,
        "swaps": len(swapped),
        "forecasts": len(seen.sent_s),
        "rungs": dict(seen.rungs),
        **_percentiles("pause", pauses_s),
        **_percentiles("placebo", np.maximum(np.array(quiet_s) - np.median(quiet_s), 0.0)),  # a pause without a swap
        **_percentiles("delay", came_s - sent_s),
        **_percentiles("worst_delay_around_swap", swaps_s),
        **_percentiles("worst_delay_without", quiet_s),
        **_percentiles("proving_delay", (came_s - sent_s)[proving]),
        "desired_to_served_p50_s": round(float(np.median(until_served_s)), 3),
    }
    p99_ms = max(round(1000 * float(np.percentile(pauses_s, 99)), 2), 0.01)  # what is below cannot be told
    return [
        Figure("swap_pause_p99_ms", p99_ms, "ms", len(swapped), conditions=conditions),
        Figure("swaps_missed_forecasts", seen.missed, "forecasts", len(swapped), conditions=conditions),
    ]


def _percentiles(name: str, seconds: Delays | list[float]) -> dict[str, float]:
    """Median, 99th percentile and longest, in milliseconds."""
    if not len(seconds):
        return {}
    found = np.percentile(1000 * np.asarray(seconds), (50, 99, 100))
    return {f"{name}_{of}_ms": round(float(value), 2) for of, value in zip(("p50", "p99", "max"), found, strict=True)}
