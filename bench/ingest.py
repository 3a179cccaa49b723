"""`ingest_committed`: readings a second through decode, grid, commit and acknowledgement, beside its peers.

One flood is parked for all contestants at once; then each drains its own queue, one after the other. All of it is
repeated with a new broker and new state, and ratios are taken within a repetition: what disturbs one disturbs its pair.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.contestants import BATCH, EDGE, RECEIVE_MAXIMUM, SITE, Contestant, Running, contestants
from bench.figures import Figure
from bench.flood import Flood, leave_session, park
from bench.stage import Broker, cpu_s, launch, say, wait_for
from bench.wire import Wire


@dataclass(frozen=True, slots=True)
class Drain:
    """How long a contestant took from its first message to its last acknowledgement, and what that cost."""

    seconds: float
    cpu_s: float


def run(
    *,
    readings: int = 200_000,
    meters: int = 1000,
    step: timedelta = timedelta(minutes=1),
    runs: int = 5,
    peers: Sequence[str] = ("paho", "mosquitto_sub", "pathway"),
) -> list[Figure]:
    """Race `runs` times; one figure against each peer, the contract's first."""
    racing = contestants(peers)
    until = datetime.now(UTC).replace(second=0, microsecond=0)
    flood = Flood(SITE, readings, meters, step, until)
    packets = list(flood.packets())
    drains: dict[str, list[Drain]] = {key: [] for key in racing}
    for number in range(1, runs + 1):
        with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
            for contestant in racing.values():
                leave_session(broker, contestant.client_id, flood.topic_filter)
            park(broker.port, packets)
            for key, contestant in racing.items():
                drain = _drain(contestant, broker, flood, Path(name) / key)
                drains[key].append(drain)
                say(f"ingest {number}/{runs}: {flood.messages / drain.seconds:9,.0f} readings/s  {contestant.title}")
    return _figures(flood, racing, drains)


def _drain(contestant: Contestant, broker: Broker, flood: Flood, folder: Path) -> Drain:
    """Start a contestant, time its queue, and stop it."""
    client_id = contestant.client_id
    folder.mkdir()
    with Wire(broker.port, "bench-observer") as observer:
        observer.subscribe(f"metercast/{SITE}/deadletter")
        child = launch(client_id, contestant.command(broker.port, flood, folder), folder)
        try:
            wait_for(lambda: client_id in broker.came_s, f"{contestant.title} to connect", 60, of=child)
            before_s = cpu_s(child.process.pid)
            running = Running(broker, flood, child, folder, observer)
            seconds = contestant.finish(running) - broker.came_s[client_id]
            used_s = cpu_s(child.process.pid) - before_s
            contestant.check(running)
            return Drain(seconds, used_s)
        finally:
            child.stop()


def _figures(flood: Flood, racing: Mapping[str, Contestant], drains: Mapping[str, list[Drain]]) -> list[Figure]:
    """The edge's median against each peer's; without peers, the edge's alone."""
    edge = drains[EDGE]
    value = _per_second(flood, edge)
    conditions = {
        "readings": flood.readings,
        "payload_bytes": round(statistics.mean(len(flood.payload(number)) for number in range(1000))),
        "meters": flood.meters,
        "step_s": flood.step.total_seconds(),
        "batch": BATCH,
        "receive_maximum": RECEIVE_MAXIMUM,
        "edge_cpu_us_per_reading": _cpu_us(flood, edge),
    }
    figures: list[Figure] = []
    for key in [key for key in racing if key != EDGE]:
        ratios = [peer.seconds / ours.seconds for ours, peer in zip(edge, drains[key], strict=True)]
        beside = {
            "against_value": _per_second(flood, drains[key]),
            "against_cpu_us_per_reading": _cpu_us(flood, drains[key]),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        ratio = round(statistics.median(ratios), 3)
        title = racing[key].title
        figures.append(Figure("ingest_committed", value, "readings/s", len(edge), title, ratio, conditions | beside))
    return figures or [Figure("ingest_committed", value, "readings/s", len(edge), conditions=conditions)]


def _per_second(flood: Flood, drains: Sequence[Drain]) -> float:
    return round(flood.readings / statistics.median(drain.seconds for drain in drains), 1)


def _cpu_us(flood: Flood, drains: Sequence[Drain]) -> float:
    return round(statistics.median(drain.cpu_s for drain in drains) / flood.messages * 1e6, 2)
