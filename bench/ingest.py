"""`ingest_committed`: readings a second through decode, grid, commit and acknowledgement, beside its peers.

One flood is parked for all contestants at once; then each drains its own queue, one after the other. All of it is
repeated with a new broker and new state, and ratios are taken within a repetition: what disturbs one disturbs its pair.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench.figures import BARE_PAHO_5, Figure
from bench.flood import END, Flood, leave_session, park
from bench.stage import (
    RECEIVE_MAXIMUM,
    ROOT,
    BenchFailed,
    Broker,
    cpu_s,
    launch,
    python,
    say,
    settings,
    wait_for,
)
from bench.wire import PUBLISH, Wire, topic_and_payload
from demo.broker import free_port
from demo.processes import Child

SITE: Final = "bench"
BATCH: Final = 1000
PATIENCE_S: Final = 300.0
EDGE: Final = "edge"
PEERS: Final = ROOT / ".venv-bench"


@dataclass(frozen=True, slots=True)
class Drain:
    """How long a contestant took from its first message to its last acknowledgement, and what that cost."""

    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant at work; `observer` has listened to the dead letters since before it began."""

    broker: Broker
    flood: Flood
    child: Child
    folder: Path
    observer: Wire


@dataclass(frozen=True, slots=True)
class Contestant:
    """Someone who drains a queue: the session's id, how to start it, and how one knows when it was through."""

    title: str
    client_id: str
    command: Callable[[int, Flood, Path], list[str]]
    finish: Callable[[Running], float]


def _gone(client_id: str) -> Callable[[Running], float]:
    """Through when it has left the broker, which it does after its last acknowledgement."""

    def finish(running: Running) -> float:
        wait_for(lambda: client_id in running.broker.went_s, f"{client_id} to finish", PATIENCE_S)
        return running.broker.went_s[client_id]

    return finish


def _bare_paho(version: int, title: str) -> Contestant:
    client_id = f"bare-paho-{version}"

    def command(port: int, flood: Flood, _folder: Path) -> list[str]:
        numbers = (version, flood.messages, BATCH, RECEIVE_MAXIMUM)
        return python("bench.bare_paho", str(port), client_id, *map(str, numbers))

    return Contestant(title, client_id, command, _gone(client_id))


def _mosquitto_sub() -> Contestant:
    client_id = "mosquitto-sub"

    def command(port: int, flood: Flood, _folder: Path) -> list[str]:
        who = ["-h", "127.0.0.1", "-p", str(port), "-i", client_id, "-c", "-q", "1"]
        return ["mosquitto_sub", *who, "-C", str(flood.messages), "-t", flood.topic_filter]

    return Contestant("mosquitto_sub -q 1", client_id, command, _gone(client_id))


def _pathway() -> Contestant:
    client_id = "pathway"

    def command(port: int, flood: Flood, folder: Path) -> list[str]:
        script = str(ROOT / "bench" / "pathway_reader.py")
        readings, state = str(flood.readings), str(folder / "pathway-state")
        return [str(PEERS / "bin" / "python"), script, str(port), client_id, flood.topic_filter, readings, state]

    return Contestant("pathway 0.33, persistence on", client_id, command, _gone(client_id))


def _edge() -> Contestant:
    client_id = f"metercast-edge-{SITE}"

    def command(port: int, _flood: Flood, folder: Path) -> list[str]:
        chosen: dict[str, object] = {
            "site": SITE,
            "clock": "wall",
            "mqtt.host": "127.0.0.1",
            "mqtt.port": port,
            "mqtt.receive_maximum": RECEIVE_MAXIMUM,
            "edge.batch": BATCH,
            "edge.state_dir": folder / "state",
            "edge.metrics_port": free_port(),
        }
        (folder / "metrics-port").write_text(str(chosen["edge.metrics_port"]))
        return python("edge", "run", *settings(chosen))

    return Contestant("metercast edge", client_id, command, _edge_finished)


def _edge_finished(running: Running) -> float:
    """Through when the dead letter for the flood's end comes: it follows the commit of all before it."""
    try:
        for kind, body in running.observer.packets(PATIENCE_S):
            if kind == PUBLISH and END in topic_and_payload(body)[1]:
                break
    except TimeoutError as error:
        running.child.require_running()
        raise BenchFailed(f"the edge was not through after {PATIENCE_S:g} s") from error
    ended_s = time.monotonic()
    accepted, readings = _accepted(int((running.folder / "metrics-port").read_text())), running.flood.readings
    if accepted != readings:
        raise BenchFailed(f"the edge took {accepted} of {readings} readings")
    return ended_s


def _accepted(port: int) -> int:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    counted = (line for line in text.splitlines() if line.startswith('metercast_readings_total{result="accepted"}'))
    return int(float(next(counted, "x 0").split()[-1]))


def contestants(peers: Sequence[str]) -> dict[str, Contestant]:
    """The edge and those of its peers that are wanted and can run here; says in a sentence which cannot."""
    present = {EDGE: _edge()}
    if "paho" in peers:
        present["paho5"] = _bare_paho(5, f"{BARE_PAHO_5}, ReceiveMaximum {RECEIVE_MAXIMUM}, acking every {BATCH}")
        present["paho311"] = _bare_paho(4, f"bare paho, MQTT 3.1.1, acking every {BATCH}")
    if "mosquitto_sub" in peers:
        if shutil.which("mosquitto_sub"):
            present["mosquitto_sub"] = _mosquitto_sub()
        else:
            say("mosquitto_sub is not here, so it is left out (Debian has it in mosquitto-clients).")
    if "pathway" in peers:
        if (PEERS / ".installed").exists():
            present["pathway"] = _pathway()
        else:
            say("pathway is not installed in .venv-bench, so it is left out (`make bench` tries to install it).")
    return present


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
            ended_s = contestant.finish(Running(broker, flood, child, folder, observer))
            return Drain(ended_s - broker.came_s[client_id], cpu_s(child.process.pid) - before_s)
        finally:
            child.stop()


def _figures(flood: Flood, racing: dict[str, Contestant], drains: dict[str, list[Drain]]) -> list[Figure]:
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
