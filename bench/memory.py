"""`bytes_per_meter`: what a hundred thousand meters add to the resident memory of a process that runs the real core.

Each meter has a full window of closed hours, a day of readings that came through `Node.handle`, and one forecast round
behind it, which gives the scoreboard all the room it ever takes. No model is loaded: its memory is not a meter's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.edge_state import fill_window, readings_of
from bench.figures import Figure
from bench.stage import BenchFailed, python, resident_bytes, say
from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node
from edge.effects import Publish, ReadingsArrived, Tick
from edge.node import Node
from edge.store import Store
from shared.clock import HOUR_US, iso
from shared.packets import Incoming
from shared.params import Params

SITE: Final = "bench"
READINGS: Final = 24
MESSAGES_AT_ONCE: Final = 1000
END: Final = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) // 3600


def run(*, meters: int = 100_000) -> list[Figure]:
    """Measure in a process of its own."""
    say(f"memory: {meters:,} meters with {READINGS} readings each; takes a minute or two")
    command = python("bench.memory", str(meters))
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchFailed(f"memory: ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    value = told.pop("bytes_per_meter")
    return [Figure("bytes_per_meter", value, "B", 1, conditions=told)]


def measure(meters: int) -> dict[str, Any]:
    """Resident bytes before and after, and how they came to be."""
    params = Params.model_validate({"site": SITE, "edge": {"max_meters": max(meters, 1)}})
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name:
        store = Store(Path(name), iso(END * HOUR_US))
        node = build_node(params, store, ArtifactFolder(Path(name) / "models"))
        before = _resident()
        fill_window(node.site, END - READINGS, node.site.window.width, meters)
        for row in range(meters):
            node.rounds.begin(row, END - READINGS)
        window = _resident()
        for messages in _messages(node, meters):
            node.handle(ReadingsArrived(messages), END * HOUR_US)
        readings = _resident()
        forecasts = 0
        while node.busy:
            effects = node.handle(Tick(caught_up=True), END * HOUR_US)
            forecasts += sum(isinstance(effect, Publish) for effect in effects)
            del effects
        after = _resident()
        store.close()
    if forecasts != meters:
        raise BenchFailed(f"memory: {forecasts} forecasts of {meters} meters")
    return {
        "bytes_per_meter": round((after - before) / meters, 1),
        "meters": meters,
        "step_s": params.step_s,
        "closed_intervals_per_meter": node.site.window.width,
        "readings_per_meter": READINGS,
        "of_windows": round((window - before) / meters, 1),
        "of_readings": round((readings - window) / meters, 1),
        "of_the_round": round((after - readings) / meters, 1),
        "peak_mb": round(_peak_bytes() / 1e6, 1),
    }


def _messages(node: Node, meters: int) -> Iterator[tuple[Incoming, ...]]:
    """A day of hourly readings of every meter, a meter's day in one message."""
    for first in range(0, meters, MESSAGES_AT_ONCE):
        rows = range(first, min(first + MESSAGES_AT_ONCE, meters))
        yield tuple(readings_of(node.topics, row, END - READINGS, READINGS) for row in rows)


def _resident() -> int:
    """Resident bytes once what is free has gone back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return resident_bytes(os.getpid())


def _peak_bytes() -> int:
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return told if sys.platform == "darwin" else told * 1024


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
