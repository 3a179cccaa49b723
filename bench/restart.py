"""`restart_to_first_forecast_s`: from the start of the process to the first forecast, with weeks of state on disk.

The state is that of an edge that was killed after it made its last origin and before the broker confirmed it, so there
is something to forecast at once. Each run begins with a fresh copy that is not in the page cache.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.edge_process import ROOT_TOPIC, edge_settings, install_model
from bench.edge_state import write_state
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, launch, python, resident_bytes, say, settings
from bench.wire import PUBLISH, Wire, topic_and_payload
from shared.params import Params
from shared.topics import SiteTopics

SITE: Final = "bench"
PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the start of the process, and its memory at the end."""

    online_s: float
    first_s: float
    last_s: float
    rss_mb: float


def run(*, meters: int = 10_000, weeks: int = 5, runs: int = 3, trees: int = 120) -> list[Figure]:
    """Restart `runs` times from the same state."""
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name:
        folder = Path(name)
        with Broker(folder / "broker") as broker:
            chosen = edge_settings(SITE, broker, folder / "state", clock="wall")
            say(f"restart: writing the state of {meters:,} meters after {weeks} weeks")
            install_model(chosen, broker, folder / "first", trees=trees)
        end = int(datetime.now(UTC).timestamp()) // 3600
        params = Params.model_validate({"site": SITE})
        write_state(folder / "state", params, meters=meters, weeks=weeks, end=end, delivered=end - 1)
        restarts = [_restart(folder, number, meters) for number in range(1, runs + 1)]
    return [_figure(restarts, meters, weeks)]


def _restart(folder: Path, number: int, meters: int) -> Restart:
    state = folder / f"state-{number}"
    shutil.copytree(folder / "state", state)
    _forget_pages(state)
    try:
        with Broker(folder / f"broker-{number}") as broker, Wire(broker.port, "bench-observer") as observer:
            restart = _timed(broker, observer, state, folder / f"log-{number}", meters)
    finally:
        shutil.rmtree(state)
    say(f"restart {number}: online {restart.online_s:.2f} s, first forecast {restart.first_s:.2f} s")
    return restart


def _timed(broker: Broker, observer: Wire, state: Path, logs: Path, meters: int) -> Restart:
    topics = SiteTopics(ROOT_TOPIC, SITE)
    observer.subscribe(topics.status)
    observer.subscribe(topics.forecast("+"))
    chosen = edge_settings(SITE, broker, state, clock="wall")
    began_s = time.monotonic()
    child = launch("edge", python("edge", "run", *settings(chosen)), logs)
    seen: dict[str, float] = {}
    left = meters
    try:
        for kind, body in observer.packets(PATIENCE_S):
            if kind != PUBLISH:
                continue
            topic, payload = topic_and_payload(body)
            now_s = time.monotonic() - began_s
            if topic == topics.status:
                if json.loads(payload)["state"] != "offline":
                    seen.setdefault("online", now_s)
                continue
            seen.setdefault("first", now_s)
            left -= 1
            if not left:
                break
        rss_mb = resident_bytes(child.process.pid) / 1e6
    except TimeoutError as error:
        child.require_running()
        raise BenchFailed(f"restart: {left} of {meters} forecasts missing after {PATIENCE_S:g} s") from error
    finally:
        child.stop()
    return Restart(seen.get("online", now_s), seen["first"], now_s, rss_mb)


def _forget_pages(folder: Path) -> None:
    """Have the system read these files from disk again, as after a power cut, where it can be asked to."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _figure(restarts: list[Restart], meters: int, weeks: int) -> Figure:
    def median(of: str) -> float:
        return round(statistics.median(float(getattr(restart, of)) for restart in restarts), 3)

    conditions = {
        "meters": meters,
        "weeks": weeks,
        "online_s": median("online_s"),
        "last_forecast_s": median("last_s"),
        "rss_mb": median("rss_mb"),
    }
    return Figure("restart_to_first_forecast_s", median("first_s"), "s", len(restarts), conditions=conditions)
