"""A state folder as weeks of work leave it, written through the edge's own store: nobody replays millions of messages.

With `bench/memory.py` and `bench/forecasting.py` this is where the benches touch what is inside the edge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.changes import Changes
from edge.dialects.native import Reading
from edge.forms import QUALITY_OK, Form, Forms
from edge.scoring import Issued, Scoreboard
from edge.site import SiteState, grid_rules
from edge.store import Store
from shared.clock import HOUR_US, iso
from shared.grid import Intervals
from shared.packets import Incoming
from shared.params import Params, scored_leads
from shared.topics import SiteTopics

STEPS_A_DAY: Final = 24
METERS_AT_ONCE: Final = 1000
READINGS_HELD: Final = 14  # hourly ones that can still change an interval: lateness, longest gap and a step


def meter_name(number: int) -> str:
    """The id of a bench's meter."""
    return f"meter-{number:05d}"


def daily_loads(meters: int, first: int, count: int) -> NDArray[np.float32]:
    """Loads in kW [meters, count] of intervals from number `first` on: a day's shape, each meter's own level, noise."""
    chance = np.random.default_rng(meters)
    numbers = np.arange(first, first + count)
    shape = 1.5 + np.sin(2 * np.pi * (numbers % STEPS_A_DAY) / STEPS_A_DAY)
    level = chance.uniform(0.2, 5.0, size=(meters, 1))
    loads: NDArray[np.float32] = (level * shape * chance.uniform(0.8, 1.2, size=(meters, count))).astype(np.float32)
    return loads


HOURLY: Final = Form("kWh", "energy", HOUR_US, QUALITY_OK)


def readings_of(topics: SiteTopics, meter: int, first: int, count: int) -> Incoming:
    """One message with a meter's energy of `count` hours from number `first` on."""
    items = [
        {"ts": iso(number * HOUR_US), "value": 1 + (meter * 31 + number) % 97 / 10, "unit": "kWh", "kind": "energy"}
        for number in range(first, first + count)
    ]
    payload = json.dumps(items).encode()
    return Incoming(topics.reading(meter_name(meter)), payload, len(payload))


def fill_window(site: SiteState, end: int, steps: int, meters: int) -> None:
    """Give an empty site `meters` meters whose last `steps` hours, up to interval `end`, are closed."""
    loads_kw = daily_loads(meters, end - steps, steps)
    for number in range(meters):
        row = site.add_meter(meter_name(number)).row
        site.window.closed[row] = end - steps
        made = Intervals(loads_kw[row].astype(np.float64), np.ones(steps), np.zeros(steps, dtype=np.uint8))
        site.window.close(row, end, made)
        site.issued[row] = site.delivered[row] = end


def write_state(folder: Path, params: Params, *, meters: int, weeks: int, end: int, delivered: int) -> None:
    """Write what an edge with hourly meters holds after `weeks`.

    That is the intervals before `end`, recent readings, and what it issued at the last origins, of which those after
    `delivered` were never confirmed by the broker.
    """
    leads = scored_leads(params.step_s, params.horizon_steps)
    site = SiteState(params, Scoreboard(leads), Forms(grid_rules(params), [HOURLY]))
    store = Store(folder, iso(end * HOUR_US))
    try:
        store.belong_to(site=params.site, step_s=params.step_s, leads=leads, quantiles=params.forecast.modelled)
        steps = weeks * 7 * STEPS_A_DAY
        fill_window(site, end, steps, meters)
        site.delivered[:meters] = delivered
        for first in range(0, meters, METERS_AT_ONCE):
            rows = np.arange(first, min(first + METERS_AT_ONCE, meters))
            store.commit(_changes(site, rows, end, steps, leads), site)
    finally:
        store.close()


def _changes(site: SiteState, rows: NDArray[np.int64], end: int, steps: int, leads: tuple[int, ...]) -> Changes:
    changes = Changes(facts={"clock_us": str((end - 1) * HOUR_US)}, meters=set(rows.tolist()))
    changes.forms = [(0, HOURLY)]
    changes.closed = [(row, end - steps, steps) for row in changes.meters]
    for row in sorted(changes.meters):
        meter = site.meters.by_row[row]
        for number in range(end - READINGS_HELD, end):
            reading = Reading(number * HOUR_US, float(site.window.load_kw[row, number % site.window.width]), 0)
            meter.append(reading, site.forms)
            changes.readings.append((row, *reading))
    changes.issued = [_issued(rows, origin, leads) for origin in range(end - max(leads), end + 1)]
    return changes


def _issued(rows: NDArray[np.int64], origin: int, leads: tuple[int, ...]) -> Issued:
    spread_kw = np.broadcast_to(np.array([0.5, 1.0, 1.5], dtype=np.float32), (len(rows), len(leads), 3))
    return Issued(0, origin, rows, spread_kw, np.zeros(len(rows), dtype=np.int8), np.ones(len(rows), dtype=np.int64))
