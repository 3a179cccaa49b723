"""`close_to_last_forecast_p99_s` and `edge_rss_mb`: all meters of a site close an hour together, again and again.

The clock of a closing starts before the first of its readings is written to the broker and ends when the broker hands
on the last forecast, which it does as it acknowledges it. So taking the readings in is part of it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from bench.edge_process import ROOT_TOPIC, edge_settings, install_model, start_edge
from bench.edge_state import daily_loads, meter_name, write_state
from bench.figures import Figure
from bench.stage import BenchFailed, Broker, cpu_s, peak_resident_bytes, resident_bytes, say
from bench.wire import PUBLISH, Wire, publish_packet, topic_and_payload
from demo.processes import Child
from shared.clock import HOUR_US, iso, parse_instant_us
from shared.params import Params
from shared.topics import SiteTopics

SITE: Final = "bench"
END: Final = parse_instant_us("2026-01-05T00:00:00Z") // HOUR_US
PATIENCE_S: Final = 300.0
REST_S: Final = 7.0  # until the edge has given back what the last closing took


def run(*, meters: int = 1000, weeks: int = 5, closings: int = 60, trees: int = 120) -> list[Figure]:
    """Close `closings` hours one after the other, after one that does not count."""
    topics = SiteTopics(ROOT_TOPIC, SITE)
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name, Broker(Path(name) / "broker") as broker:
        chosen = edge_settings(SITE, broker, Path(name) / "state", clock="event")
        install_model(chosen, broker, Path(name) / "first", trees=trees)
        params = Params.model_validate({"site": SITE, "clock": "event"})
        write_state(Path(name) / "state", params, meters=meters, weeks=weeks, end=END, delivered=END)
        child = start_edge(chosen, broker, Path(name) / "log")
        try:
            with Wire(broker.port, "bench-meters") as wire:
                wire.subscribe(topics.forecast("+"))
                before_s = cpu_s(child.process.pid)
                seconds = _closings(wire, child, topics, meters, closings + 1)[1:]
            each_s = (cpu_s(child.process.pid) - before_s) / (closings + 1)
            rss_mb = resident_bytes(child.process.pid) / 1e6
            peak_mb = peak_resident_bytes(child.process.pid) / 1e6
            time.sleep(REST_S)
            rest_mb = resident_bytes(child.process.pid) / 1e6
        finally:
            child.stop()
    conditions: dict[str, object] = {"meters": meters, "weeks": weeks, "trees_per_quantile": trees}
    memory = {"peak_mb": round(peak_mb, 1), "at_rest_mb": round(rest_mb, 1)}
    return _figures(seconds, rss_mb, conditions | {"edge_cpu_s_per_closing": round(each_s, 4)} | memory)


def _closings(wire: Wire, child: Child, topics: SiteTopics, meters: int, closings: int) -> list[float]:
    loads_kw = daily_loads(meters, END, closings)
    packets = wire.packets(PATIENCE_S)
    seconds = []
    for closing in range(closings):
        burst = b"".join(
            publish_packet(
                topics.reading(meter_name(meter)),
                _reading(END + closing, float(loads_kw[meter, closing])),
                mid=meter % 65_535 + 1,
            )
            for meter in range(meters)
        )
        began_s = time.monotonic()
        wire.send(burst)
        left, body = meters, b""
        try:
            while left:
                kind, body = next(packets)
                left -= kind == PUBLISH
        except TimeoutError as error:
            child.require_running()
            raise BenchFailed(f"close: {left} of {meters} forecasts missing after {PATIENCE_S:g} s") from error
        seconds.append(time.monotonic() - began_s)
        _require_champion(body, END + closing + 1)
        if closing % 10 == 0:
            say(f"close {closing}/{closings - 1}: {seconds[-1]:.3f} s")
    return seconds


def _reading(number: int, load_kw: float) -> bytes:
    written = {
        "ts": iso(number * HOUR_US),
        "value": round(load_kw, 4),
        "unit": "kWh",
        "kind": "energy",
        "period_s": 3600,
    }
    return json.dumps(written).encode()


def _require_champion(body: bytes, origin: int) -> None:
    """The forecast is the model's, of the origin this closing made due."""
    forecast = json.loads(topic_and_payload(body)[1])
    if (forecast["rung"], forecast["origin"]) != ("champion", iso(origin * HOUR_US)):
        raise BenchFailed(f"close: a forecast of rung {forecast['rung']} at {forecast['origin']}")


def _figures(seconds: list[float], rss_mb: float, conditions: dict[str, object]) -> list[Figure]:
    p99_s = float(np.percentile(seconds, 99))
    shape = {"p50_s": round(statistics.median(seconds), 4), "max_s": round(max(seconds), 4), "closings": len(seconds)}
    return [
        Figure("close_to_last_forecast_p99_s", round(p99_s, 4), "s", len(seconds), conditions=conditions | shape),
        Figure("edge_rss_mb", round(rss_mb, 1), "MB", 1, conditions=conditions),
    ]
