"""Features by three roads: the edge's ring as readings stream in, the record in one go, and the rows of a training."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from central.record import Record
from central.record_panel import panel_from_record
from central.samples import Sampling, training_rows
from shared.calendars import Calendar
from shared.clock import DAY_US, HOUR_US
from shared.dormancy import known_in_use
from shared.features import feature_matrix
from shared.grid import GridRules
from shared.messages import Uplink
from tests.unit.edge_harness import EdgeAtDesk, reading

METERS = ("m0", "m1", "m2", "late")  # the last comes into use after weeks of nothing
LATE_H = 20 * 24
DAYS = 33  # more than a window holds
LEADS = np.arange(1, 49)
CALENDAR = Calendar("Europe/London", "GB")
RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)


def _streamed(desk: EdgeAtDesk) -> dict[tuple[str, int], np.ndarray]:
    """The edge's windows by (meter, origin) while a month streams in, with gaps, negatives and a restart."""
    chance = random.Random(5)
    windows = {}
    for hour in range(24 * DAYS):
        for number, name in enumerate(METERS):
            load_kw = chance.gauss(2.0 * number - 1.0, 1.5)
            if chance.random() > 0.05:
                dormant = name == "late" and hour < LATE_H
                desk.send((name, reading(hour, 0.0 if dormant else load_kw)), tick=number == 0)
        if hour == 400:
            desk.restart()
        if hour % 37 == 36:
            site = desk.node.site
            for row in range(site.rows):
                closed = int(site.window.closed[row])
                window = site.window.before(np.array([row]), closed)[0].copy()
                windows[site.meters.by_row[row].name, closed * HOUR_US] = window
    return windows


def test_streaming_batch_and_training_features_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    streamed = _streamed(desk)
    record = Record(str(tmp_path / "record"))
    record.create()
    bodies = [desk.store.outbox_body(seq) or b"" for seq, _size in desk.store.outbox_index()]
    record.append([Uplink.decompress(body, "outbox") for body in bodies])
    desk.store.close()
    panel = panel_from_record(record.readings().to_pandas().drop(columns=["site", "received_at"]), RULES)
    compared = cut = 0
    for (meter, origin_us), window in streamed.items():
        origins_us = np.array([origin_us])
        batch = panel.windows(np.array([panel.meters.index(meter)]), origins_us)
        ours, theirs = (feature_matrix(one, origins_us, LEADS, calendar=CALENDAR) for one in (window[None], batch))
        assert ours.x.tobytes() == theirs.x.tobytes(), (meter, origin_us)
        assert (ours.base.tobytes(), ours.scale.tobytes()) == (theirs.base.tobytes(), theirs.scale.tobytes())
        compared += 1
        cut += bool((np.isfinite(window) > known_in_use(window[None], 24)[0]).any())
    assert compared > 50
    assert cut > 5
    sampling = Sampling(rows_cap=400, dropout=0.0)
    rng = np.random.default_rng(2)
    trained = training_rows(panel, until_us=panel.end_us, rng=rng, sampling=sampling, calendar=CALENDAR)
    known = {one.tobytes() for one in trained.x}
    every = np.arange(panel.start_us + DAY_US, panel.end_us + 1, HOUR_US)
    made = set()
    for row in range(len(panel.meters)):
        x = feature_matrix(panel.windows(np.full(len(every), row), every), every, LEADS, calendar=CALENDAR).x
        made |= {one.tobytes() for one in x}
    assert known <= made
