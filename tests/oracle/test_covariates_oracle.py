"""Covariate columns by two roads: an edge hears issues as they come, and training reads the record of them."""

import json
import random
from pathlib import Path

import numpy as np

from central.covariates import Covariates, issues_from_record
from central.record import Record
from edge.effects import CovariatesArrived
from shared.clock import DAY_US, HOUR_US, iso
from shared.messages import Uplink
from shared.packets import Incoming
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

NAMES = ("absent", "sun", "temperature")
LEADS = np.arange(1, 49)
DAYS = 16


def _messages(chance: random.Random) -> list[tuple[int, Incoming]]:
    """(hour it comes, message): forecasts of three days every few hours, some late, some finer, some with holes."""
    messages = []
    for name in NAMES[1:]:
        for issued_h in range(-24, 24 * DAYS, 5):
            step_min = chance.choice((15, 60, 60, 180))
            values = [None if chance.random() < 0.05 else chance.uniform(-20, 40) for _ in range(72 * 60 // step_min)]
            start = iso(START_US + (issued_h - chance.choice((0, 0, 30))) * HOUR_US)
            issued_at = iso(START_US + issued_h * HOUR_US + chance.choice((0, 1, 1_800_000_000)))
            content = {"issued_at": issued_at, "start": start, "step": f"{step_min}min", "values": values}
            payload = json.dumps(content).encode()
            arrives_h = max(0, issued_h)
            messages.append((arrives_h, Incoming(f"metercast/desk/covariates/{name}", payload, len(payload))))
    chance.shuffle(messages)
    return sorted(messages, key=lambda one: one[0])


def test_streaming_and_training_columns_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    chance = random.Random(11)
    desk = EdgeAtDesk(tmp_path / "edge")
    waiting = _messages(chance)
    streamed = []
    for hour in range(24 * DAYS):
        due = tuple(message for arrives_h, message in waiting if arrives_h == hour)
        if due:
            desk.tell(CovariatesArrived(due))
        desk.send(("m1", reading(hour, 1.0)), tick=False)
        if hour == 200:
            desk.restart()
        streamed.append(desk.node.site.covariates.columns(NAMES, START_US + hour * HOUR_US, LEADS))
    record = Record(str(tmp_path / "record"))
    record.create()
    bodies = [desk.store.outbox_body(seq) or b"" for seq, _size in desk.store.outbox_index()]
    record.append([Uplink.decompress(body, "outbox") for body in bodies])
    known = Covariates.by_site(issues_from_record(record.covariates(site="desk")), ["desk"] * len(streamed), HOUR_US)
    origins_us = START_US + np.arange(len(streamed)) * HOUR_US
    trained = known.columns(NAMES, origins_us, LEADS)
    seen = np.stack(streamed)
    assert np.isfinite(seen).mean() > 0.5
    differ = ~((seen == trained) | (np.isnan(seen) & np.isnan(trained)))
    assert not differ.any(), np.argwhere(differ)[:5]
    assert desk.node.site.covariates._issues["sun"].keys() < {one.key for one in issues_from_record(
        record.covariates())["desk"] if one.name == "sun"}  # fmt: skip
    assert min(one.end_us for one in desk.node.site.covariates._issues["sun"].values()) > origins_us[-1] - 11 * DAY_US
    desk.store.close()
