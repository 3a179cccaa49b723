"""What one running `central` says to edges that begin, that lost their disk or their outbox, or find it an old copy.

All tests share one process and one broker: each is a site of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from central.record import Record
from shared.clock import iso
from shared.messages import GAP_COLUMNS, RESTORE_WANTED, Uplink, columns_of
from tests.integration.plant import SITE, Watcher, origin, reading, running_edge
from tests.integration.uplinks import START_US, Edge
from tests.mosquitto import Broker
from tests.processes import CentralProcess
from tests.waiting import wait_for

HOURS = 80
NOTHING_WANTED = " online reasons=none"  # in an edge's log, when central has answered


def test_an_edge_that_begins_is_told_once_how_far_its_epoch_is_without_a_batch(edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    for instance in ("first", "second", "second"):
        edge.be(instance, "e1")
        edge.acked = None
    assert edge.wait_acked(lambda acked: acked.epoch == "e1").seq == 1
    edge.be("third", "never-heard-of")
    assert edge.wait_acked(lambda acked: acked.epoch == "never-heard-of").seq == 0
    edge.be("third", "never-heard-of", state="offline")
    edge.be("fourth", "e1", state="offline")
    edge.send_batches(2)
    edge.wait_acked(lambda acked: acked.seq == 2)
    assert [(acked.epoch, acked.seq) for acked in edge.heard] == [
        ("e1", 1), ("e1", 1), ("e1", 1), ("never-heard-of", 0), ("e1", 2),
    ]  # fmt: skip


def test_an_edge_with_an_empty_state_is_given_its_closed_intervals_while_batches_go_on(edge: Edge) -> None:
    edge.send_batches(1, 2, 3)
    edge.wait_acked(lambda acked: acked.seq == 3)
    edge.be("again", "e2", reasons=[RESTORE_WANTED])
    edge.send_batches(1, epoch="e2")
    edge.wait_acked(lambda acked: (acked.epoch, acked.seq) == ("e2", 1))
    restore = edge.wait_restored()
    assert (restore.site, restore.epoch, restore.part, restore.parts, restore.step_s) == (edge.site, "e2", 1, 1, 3600)
    assert restore.meters.keys() == {"m0", "m1"}
    first = restore.meters["m0"]
    assert first.first == iso(START_US)
    assert len(first.load_kw) == 36
    assert first.load_kw[:2] == pytest.approx([0.2, 1.0])


def test_an_edge_of_a_site_never_heard_of_is_given_one_empty_part(edge: Edge) -> None:
    edge.be("new", "e1", reasons=[RESTORE_WANTED])
    assert edge.wait_restored().meters == {}


def test_a_gap_a_full_outbox_left_is_acked_and_exported_as_dead_letters(central: CentralProcess, edge: Edge) -> None:
    edge.send_batches(1)
    gap = columns_of(GAP_COLUMNS, [(2, 40, "m0", 900, "the outbox was full", START_US)])
    lie = columns_of(GAP_COLUMNS, [(2, 41, "m0", 900, "the outbox was full", START_US)])
    for gaps in (lie, gap):
        edge.send(Uplink(site=edge.site, epoch="e1", seq=40, at=iso(START_US), kinds={"gaps": gaps}).compress())
    edge.send_batches(41)
    assert edge.wait_acked(lambda acked: acked.seq == 41).missing == []
    central.export("--dead-letters", str(central.folder / "d.parquet"), "--site", edge.site)
    lost = {row["topic"]: row["count"] for row in pq.read_table(central.folder / "d.parquet").to_pylist()}
    assert lost == {"t": 1, f"metercast/{edge.site}/readings/m0": 900}


def test_a_record_restored_from_an_old_copy_says_what_it_misses(edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    edge.send_batches(100)
    assert edge.wait_acked(lambda acked: bool(acked.missing)).missing == [(2, 99)]


def test_an_edge_whose_disk_was_wiped_forecasts_on_from_what_the_record_gives_back(
    central: CentralProcess, lasting_broker: Broker, tmp_path: Path
) -> None:
    meters = Watcher(lasting_broker.port)
    with running_edge(lasting_broker.port, tmp_path / "edge") as edge:
        meters.send_all(("m1", reading(hour, 1 + hour % 24)) for hour in range(HOURS))
        record = Record(str(central.folder / "record"))
        wait_for(
            lambda: record.reading_counts(SITE, since_us=0) == {"m1": HOURS},
            "all to be recorded",
            central.log,
            every_s=0.1,
        )
        edge.kill()
        shutil.rmtree(edge.state)
        told = edge.times_said(NOTHING_WANTED)
        edge.start()
        wait_for(lambda: edge.times_said(NOTHING_WANTED) > told, "it to ask and be answered", edge.log)
        meters.send("m1", reading(HOURS, 1 + HOURS % 24))
        seen = meters.wait("forecasts/m1", lambda seen: seen[-1]["origin"] == origin(HOURS + 1), "a forecast")
        assert seen[-1]["quality"]["history_h"] >= HOURS
        expected = [1 + (HOURS + 1 + lead) % 24 for lead in range(24)]
        assert seen[-1]["quantiles"]["0.5"][:24] == pytest.approx(expected, abs=0.5)
    meters.stop()
