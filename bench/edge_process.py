"""A real `python -m edge run` for the benches that time one, and a model brought to it over the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench.stage import Broker, launch, python, settings, wait_for
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from demo.processes import Child
from shared.messages import Desired
from shared.topics import SiteTopics, artifact_chunk
from tests.small_model import KEY, in_a_month, small_manifest

ROOT_TOPIC: Final = "metercast"


def edge_settings(site: str, broker: Broker, state: Path, *, clock: str) -> dict[str, object]:
    """The parameters every bench sets."""
    return {
        "site": site,
        "clock": clock,
        "mqtt.host": "127.0.0.1",
        "mqtt.port": broker.port,
        "edge.state_dir": state,
        "edge.metrics_port": 0,
        "keys.trusted": json.dumps([str(KEY.trusted)]),
    }


def start_edge(chosen: dict[str, object], broker: Broker, logs: Path) -> Child:
    """Start an edge and return once the broker has seen it come under its own id."""
    client_id = f"metercast-edge-{chosen['site']}"
    broker.forget(client_id)
    child = launch("edge", python("edge", "run", *settings(chosen)), logs)
    try:
        wait_for(lambda: client_id in broker.came_s, "the edge to connect", 120, of=child)
    except BaseException:
        child.stop()
        raise
    return child


def metric(port: int, name: str) -> float:
    """What an edge's /metrics says of a series, named with its labels; 0 when it says nothing."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    told = (line.removeprefix(name) for line in text.splitlines() if line.startswith(f"{name} "))
    return float(next(told, "0"))


def install_model(chosen: dict[str, object], broker: Broker, logs: Path, *, trees: int) -> None:
    """Have an edge with this state fetch, check and keep a model of the demo's size, as it would in a fleet."""
    topics = SiteTopics(ROOT_TOPIC, str(chosen["site"]))
    manifest, chunks = small_manifest(trees=trees, expires=in_a_month())
    packets = [
        publish_packet(artifact_chunk(ROOT_TOPIC, manifest.sha256, number), chunk, mid=number + 1, retain=True)
        for number, chunk in enumerate(chunks)
    ]
    packets.append(
        publish_packet(topics.desired, Desired(champion=manifest).encode(), mid=len(chunks) + 1, retain=True)
    )
    with Wire(broker.port, "bench-fleet") as wire:
        wire.subscribe(topics.reported)
        wire.send(b"".join(packets))
        child = start_edge(chosen, broker, logs)
        try:
            _wait_for_champion(wire)
        finally:
            child.stop()


def _wait_for_champion(wire: Wire) -> None:
    for kind, body in wire.packets(60):
        if kind == PUBLISH:
            payload = topic_and_payload(body)[1]
            if payload and json.loads(payload).get("champion"):
                return
