"""`model_to_50_sites_s`: a model of five megabytes reaches fifty sites over one broker, and serves at each.

The sites are real edges, a process each, with a day's readings of one meter. The clock starts before the first chunk
is published and ends when the last site has reported the model as its champion. What is published is what central does:
the chunks once, retained, and a manifest signed for each site.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.edge_process import ROOT_TOPIC, edge_settings
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, cpu_s, launch, python, say, settings, wait_for
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from demo.processes import Child
from shared.manifest import Manifest, Packed, pack
from shared.messages import Desired
from shared.signing import signed
from shared.topics import SiteTopics, artifact_chunk, site_of
from tests.small_model import KEY, in_a_month, manifest_of, small_model

PATIENCE_S: Final = 180.0
STARTED_AT_ONCE: Final = 5


def run(*, sites: int = 50, trees: int = 740) -> list[Figure]:
    """Bring one model to `sites` sites."""
    say(f"rollout: training a model of {trees} trees a quantile")
    artifact, golden = small_model(trees=trees)
    names = [f"site-{number}" for number in range(sites)]
    with (
        tempfile.TemporaryDirectory(prefix="metercast-bench-") as name,
        Broker(Path(name) / "broker") as broker,
        _edges(names, broker, Path(name)) as edges,
        Wire(broker.port, "bench-fleet") as wire,
    ):
        wire.subscribe(f"{ROOT_TOPIC}/+/models/reported")
        before_s = sum(cpu_s(edge.process.pid) for edge in edges)
        packed, template = pack(artifact), manifest_of(artifact, golden, expires=in_a_month())
        began_s = time.monotonic()
        _publish(wire, names, packed, template)
        published_s = time.monotonic() - began_s
        served_s = sorted(at_s - began_s for at_s in _served(wire, names).values())
        used_s = sum(cpu_s(edge.process.pid) for edge in edges) - before_s
    conditions = {
        "sites": sites,
        "bytes": len(artifact),
        "compressed_bytes": template.compressed_size,
        "published_s": round(published_s, 2),
        "first_s": round(served_s[0], 2),
        "median_s": round(statistics.median(served_s), 2),
        "edge_cpu_s_per_site": round(used_s / sites, 2),  # the processes that try models out have ended: not in it
    }
    return [Figure("model_to_50_sites_s", round(served_s[-1], 2), "s", 1, conditions=conditions)]


@contextmanager
def _edges(names: list[str], broker: Broker, folder: Path) -> Iterator[list[Child]]:
    """An edge for each name, all of them connected."""
    with ExitStack() as stack:
        edges = []
        for number, name in enumerate(names):
            chosen = edge_settings(name, broker, folder / name, clock="event")
            edges.append(launch(name, python("edge", "run", *settings(chosen)), folder / "logs"))
            stack.callback(edges[-1].stop)
            if number % STARTED_AT_ONCE == STARTED_AT_ONCE - 1 or name == names[-1]:
                wait_for(lambda name=name: f"metercast-edge-{name}" in broker.came_s, name, 120, of=edges[-1])  # type: ignore[misc]
        for name, edge in zip(names, edges, strict=True):
            wait_for(lambda name=name: f"metercast-edge-{name}" in broker.came_s, name, 120, of=edge)  # type: ignore[misc]
        say(f"rollout: {len(names)} edges are up")
        yield edges


def _publish(wire: Wire, names: list[str], packed: Packed, template: Manifest) -> None:
    for number, chunk in enumerate(packed.chunks):
        topic = artifact_chunk(ROOT_TOPIC, packed.sha256, number)
        wire.send(publish_packet(topic, chunk, mid=number + 1, retain=True))
    for number, name in enumerate(names):
        manifest = signed(template.model_copy(update={"sites": [name]}), [KEY])
        topic = SiteTopics(ROOT_TOPIC, name).desired
        wire.send(publish_packet(topic, Desired(champion=manifest).encode(), mid=number + 1, retain=True))


def _served(wire: Wire, names: list[str]) -> dict[str, float]:
    """When each site said that it serves a model."""
    served: dict[str, float] = {}
    try:
        for kind, body in wire.packets(PATIENCE_S):
            if kind != PUBLISH:
                continue
            topic, payload = topic_and_payload(body)
            site, reported = site_of(ROOT_TOPIC, topic), json.loads(payload)
            if reported["refused"]:
                raise BenchFailed(f"rollout: {site} refused the model: {reported['refused'][-1]}")
            if site is not None and reported["champion"] is not None:
                served.setdefault(site, time.monotonic())
            if len(served) == len(names):
                break
    except TimeoutError as error:
        missing = sorted(set(names) - set(served))
        raise BenchFailed(f"rollout: nothing came for {PATIENCE_S:g} s; {len(missing)} sites do not serve") from error
    return served
