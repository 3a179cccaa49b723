"""Who drains the flood of `ingest_committed`: the edge, and what it is measured against."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.edge_process import metric
from bench.figures import BARE_PAHO_5
from bench.flood import END, Flood
from bench.stage import ROOT, BenchFailed, Broker, python, say, settings, wait_for
from bench.wire import PUBLISH, Wire, topic_and_payload
from demo.broker import free_port
from demo.processes import Child

SITE: Final = "bench"
BATCH: Final = 1000
RECEIVE_MAXIMUM: Final = 2000
PATIENCE_S: Final = 300.0
EDGE: Final = "edge"
PEERS: Final = ROOT / ".venv-bench"


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
    """Someone who drains a queue: the session's id, how to start it, when it was through, and whether all was well."""

    title: str
    client_id: str
    command: Callable[[int, Flood, Path], list[str]]
    finish: Callable[[Running], float]
    check: Callable[[Running], None]


def _gone(client_id: str) -> Callable[[Running], float]:
    """Through when it has left the broker, which it does after its last acknowledgement."""

    def finish(running: Running) -> float:
        wait_for(lambda: client_id in running.broker.went_s, f"{client_id} to finish", PATIENCE_S)
        return running.broker.went_s[client_id]

    return finish


def _ended_well(running: Running) -> None:
    """A process that broke down leaves the broker too."""
    running.child.wait(60)


def _bare_paho(version: int, title: str) -> Contestant:
    client_id = f"bare-paho-{version}"

    def command(port: int, flood: Flood, _folder: Path) -> list[str]:
        numbers = (version, flood.messages, BATCH, RECEIVE_MAXIMUM)
        return python("bench.bare_paho", str(port), client_id, *map(str, numbers))

    return Contestant(title, client_id, command, _gone(client_id), _ended_well)


def _mosquitto_sub() -> Contestant:
    client_id = "mosquitto-sub"

    def command(port: int, flood: Flood, _folder: Path) -> list[str]:
        who = ["-h", "127.0.0.1", "-p", str(port), "-i", client_id, "-c", "-q", "1"]
        return ["mosquitto_sub", *who, "-C", str(flood.messages), "-t", flood.topic_filter]

    return Contestant("mosquitto_sub -q 1", client_id, command, _gone(client_id), _ended_well)


def _pathway() -> Contestant:
    client_id = "pathway"

    def command(port: int, flood: Flood, folder: Path) -> list[str]:
        script = str(ROOT / "bench" / "pathway_reader.py")
        readings, state = str(flood.readings), str(folder / "pathway-state")
        return [str(PEERS / "bin" / "python"), script, str(port), client_id, flood.topic_filter, readings, state]

    return Contestant("pathway 0.33, persistence on", client_id, command, _gone(client_id), _ended_well)


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

    return Contestant("metercast edge", client_id, command, _edge_finished, _took_all)


def _edge_finished(running: Running) -> float:
    """Through when the dead letter for the flood's end comes: it follows the commit of all before it."""
    try:
        for kind, body in running.observer.packets(PATIENCE_S):
            if kind == PUBLISH and END in topic_and_payload(body)[1]:
                break
    except TimeoutError as error:
        running.child.require_running()
        raise BenchFailed(f"the edge was not through after {PATIENCE_S:g} s") from error
    return time.monotonic()


def _took_all(running: Running) -> None:
    port, readings = int((running.folder / "metrics-port").read_text()), running.flood.readings
    accepted = int(metric(port, 'metercast_readings_total{result="accepted"}'))
    if accepted != readings:
        raise BenchFailed(f"the edge took {accepted} of {readings} readings")


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
