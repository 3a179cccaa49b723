"""`model_to_50_sites_s`: a person approves a model of five megabytes, and fifty sites forecast by it.

All of it is real but the meters: a broker, a central that knows the sites and has the model waiting, and an edge
process for each site, with weeks of state. The clock starts when the approval is left for central and ends when the
broker hands on the last site's first forecast by the model. A site's meters close an hour as soon as it reports that it
serves, so that nobody waits for an hour to end.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.closing import END
from bench.edge_process import ROOT_TOPIC, edge_settings
from bench.edge_state import readings_of, write_state
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, cpu_s, ended_children_cpu_s, launch, python, say, settings, wait_for
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from central.delivery import load_rollout
from central.orders import Order, leave
from central.rollout_state import RolloutState
from central.work import WorkFolder, replace_bytes, replace_text
from demo.processes import Child
from shared.clock import wall_now
from shared.manifest import Manifest
from shared.params import Params
from shared.topics import SiteTopics, site_of
from tests.small_model import KEY, manifest_of, small_model

PATIENCE_S: Final = 180.0
STARTED_AT_ONCE: Final = 5
VERSION: Final = 1


@dataclass(slots=True)
class Reached:
    """How far the model got, by site, in seconds on the monotonic clock."""

    served_s: dict[str, float] = field(default_factory=dict)
    forecast_s: dict[str, float] = field(default_factory=dict)


def run(*, sites: int = 50, trees: int = 740, meters: int = 10, weeks: int = 5) -> list[Figure]:
    """Bring one model to `sites` sites."""
    say(f"rollout: training a model of {trees} trees a quantile")
    artifact, golden = small_model(trees=trees)
    manifest = manifest_of(artifact, golden, VERSION)
    names = [f"site-{number:02d}" for number in range(sites)]
    with (
        tempfile.TemporaryDirectory(prefix="metercast-bench-") as name,
        Broker(Path(name) / "broker") as broker,
        _edges(names, broker, Path(name), meters, weeks) as edges,
        _central(names, broker, Path(name), artifact, manifest) as work,
        Wire(broker.port, "bench-fleet") as wire,
    ):
        for topic in ("models/reported", "forecasts/+"):
            wire.subscribe(f"{ROOT_TOPIC}/+/{topic}")
        before_s = _cpu_s(edges)
        began_s = time.monotonic()
        leave(work, Order(verb="approve", version=VERSION), wall_now())
        reached = _follow(wire, names, meters, manifest.sha256)
        used_s = [(after - before) / sites for after, before in zip(_cpu_s(edges), before_s, strict=True)]
    size = {"sites": sites, "meters_per_site": meters, "weeks": weeks, "trees_per_quantile": trees}
    size |= {"bytes": len(artifact), "compressed_bytes": manifest.compressed_size, "chunks": manifest.chunks}
    return [_figure(reached, began_s, used_s, size)]


@contextmanager
def _edges(names: list[str], broker: Broker, folder: Path, meters: int, weeks: int) -> Iterator[list[Child]]:
    """An edge for each name, all of them connected."""
    with ExitStack() as stack:
        edges: list[Child] = []
        for first in range(0, len(names), STARTED_AT_ONCE):
            begun = {}
            for name in names[first : first + STARTED_AT_ONCE]:
                chosen = edge_settings(name, broker, folder / name, clock="event")
                params = Params.model_validate({"site": name, "clock": "event"})
                write_state(folder / name, params, meters=meters, weeks=weeks, end=END, delivered=END)
                begun[name] = launch(name, python("edge", "run", *settings(chosen)), folder / "logs")
                stack.callback(begun[name].stop)
            for name, edge in begun.items():
                wait_for(lambda name=name: f"metercast-edge-{name}" in broker.came_s, name, 120, of=edge)  # type: ignore[misc]
            edges += begun.values()
        say(f"rollout: {len(names)} edges are up")
        yield edges


@contextmanager
def _central(
    names: list[str], broker: Broker, folder: Path, artifact: bytes, waiting: Manifest
) -> Iterator[WorkFolder]:
    """A central that knows every site, with a model that waits for a person."""
    work, key = WorkFolder(folder / "central"), folder / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(KEY.pem())
    work.artifacts.mkdir(parents=True)
    replace_bytes(work.artifact(waiting.sha256), artifact)
    replace_text(work.rollout, RolloutState(waiting=(waiting,)).model_dump_json(by_alias=True))
    chosen: dict[str, object] = {
        "clock": "event",
        "mqtt.host": "127.0.0.1",
        "mqtt.port": broker.port,
        "central.work_dir": work.root,
        "central.mlflow_uri": f"sqlite:///{folder}/mlflow.sqlite",  # named, so none is prepared meanwhile
        "central.metrics_port": 0,
        "rollout.approval": "manual",
        "keys.private": key,
    }
    child = launch("central", python("central", "run", *settings(chosen)), folder / "logs")
    try:
        wait_for(lambda: len(load_rollout(work).sites) == len(names), "central to know the sites", 120, of=child)
        yield work
    finally:
        child.stop()


def _follow(wire: Wire, names: list[str], meters: int, sha256: str) -> Reached:
    """Close an hour at each site that serves the model, until all have forecast by it."""
    reached = Reached()
    try:
        for kind, body in wire.packets(PATIENCE_S):
            if kind == PUBLISH:
                _take(*topic_and_payload(body), reached, sha256, lambda site: wire.send(_hour(site, meters)))
            if len(reached.forecast_s) == len(names):
                return reached
    except TimeoutError as error:
        missing = len(names) - len(reached.forecast_s)
        raise BenchFailed(f"rollout: nothing came for {PATIENCE_S:g} s; {missing} sites do not forecast") from error
    raise BenchFailed("rollout: the broker is gone")


def _take(topic: str, payload: bytes, reached: Reached, sha256: str, close_hour: Callable[[str], None]) -> None:
    site, told, now_s = site_of(ROOT_TOPIC, topic), json.loads(payload), time.monotonic()
    if site is None:
        return
    if "origin" in told:
        if told["model"] is not None and told["model"]["sha256"] == sha256:
            reached.forecast_s.setdefault(site, now_s)
    elif told["refused"]:
        raise BenchFailed(f"rollout: {site} refused the model: {told['refused'][-1]}")
    elif told["champion"] is not None and site not in reached.served_s:
        reached.served_s[site] = now_s
        close_hour(site)


def _hour(site: str, meters: int) -> bytes:
    """Every meter's reading of the hour that is due."""
    topics = SiteTopics(ROOT_TOPIC, site)
    hour = [readings_of(topics, meter, END, 1) for meter in range(meters)]
    return b"".join(publish_packet(one.topic, one.payload, mid=number + 1) for number, one in enumerate(hour))


def _cpu_s(edges: list[Child]) -> tuple[float, float]:
    """Processor time of all edges, and of what they started that has ended: the trials of models."""
    pids = [edge.process.pid for edge in edges]
    return sum(map(cpu_s, pids)), sum(map(ended_children_cpu_s, pids))


def _figure(reached: Reached, began_s: float, used_s: list[float], size: Mapping[str, int]) -> Figure:
    served_s = sorted(at_s - began_s for at_s in reached.served_s.values())
    forecast_s = sorted(at_s - began_s for at_s in reached.forecast_s.values())
    conditions = dict(size) | {
        "first_s": round(forecast_s[0], 2),
        "median_s": round(statistics.median(forecast_s), 2),
        "last_report_s": round(served_s[-1], 2),
        "edge_cpu_s_per_site": round(used_s[0], 2),
        "trial_cpu_s_per_site": round(used_s[1], 2),
    }
    return Figure("model_to_50_sites_s", round(forecast_s[-1], 2), "s", 1, conditions=conditions)
