"""Two roads to the same intervals: the edge, batch by batch in any order, and central, from the whole record."""

from __future__ import annotations

from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.record_panel import panel_from_record
from edge.site import grid_rules
from edge.window import NEVER
from shared.bindings import Bindings
from shared.clock import HOUR_US, iso
from tests.unit.edge_harness import START_US, EdgeAtDesk

MINUTE_US = 60_000_000
HOURS = 14
METERS = '[{"meter": "reg*", "register_max_kwh": 1000, "max_kw": 500}, {"meter": "p*", "max_kw": 25, "min_kw": -5}]'
READINGS = st.lists(
    st.tuples(st.integers(0, HOURS * 12 - 1).map(lambda five: five * 5), st.integers(-8, 1000)),
    unique_by=lambda row: row[0],
    max_size=30,
)


def _content(kind: str, minute: int, value: int) -> dict[str, object]:
    ts = iso(START_US + minute * MINUTE_US)
    match kind:
        case "power":
            return {"ts": ts, "value": value / 10, "unit": "kW"}
        case "register":
            return {"ts": ts, "value": value, "unit": "kWh", "kind": "register"}
        case _:
            return {"ts": ts, "value": value / 10, "unit": "kWh", "kind": "energy", "period_s": 900 * (1 + value % 8)}


@pytest.mark.parametrize("kinds", [("power",), ("energy",), ("register",), ("power", "energy", "register")])
@settings(max_examples=25, deadline=None)
@given(rows=READINGS, random=st.randoms(use_true_random=False), size=st.integers(1, 9))
def test_streaming_in_any_order_and_training_see_the_same_intervals_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: tuple[str, ...],
    rows: list[tuple[int, int]],
    random: Random,
    size: int,
) -> None:
    settings_ = ("grid.lateness=48h", f"meters={METERS}")
    desk = EdgeAtDesk(tmp_path_factory.mktemp("edge") / "edge", settings=settings_)
    meter = "reg-1" if "register" in kinds else "p-1"
    first, *middle, last = [(-60, 1), *rows, (HOURS * 60, 2)]
    random.shuffle(middle)
    stream = [(kinds[index % len(kinds)], *row) for index, row in enumerate([first, *middle, last])]
    for start in range(0, len(stream), size):
        desk.send(*[(meter, _content(*row)) for row in stream[start : start + size]])
        if random.random() < 0.2:
            desk.restart()
    site = desk.node.site
    closed = int(site.window.closed[0])
    assert closed != NEVER
    numbers = np.arange(START_US // HOUR_US - 1, closed)
    streamed = site.window.load_kw[0, numbers % site.window.width]

    record = pd.DataFrame(desk.rows("readings"))
    record["ts"] = pd.to_datetime(record["ts_us"], unit="us", utc=True)
    record["site"] = "desk"
    panel = panel_from_record(record, grid_rules(desk.params), bindings=Bindings(desk.params.meters))
    start = panel.start_us // HOUR_US
    columns = numbers - start
    inside = (columns >= 0) & (columns < panel.load_kw.shape[1])
    batch = np.where(inside, panel.load_kw[0, np.where(inside, columns, 0)], np.nan).astype(np.float32)
    np.testing.assert_array_equal(streamed, batch)
    desk.store.close()
