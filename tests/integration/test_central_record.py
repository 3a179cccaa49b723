"""`central run` as a process, a real broker, hand-made uplink batches: what is published is in the record, once."""

from __future__ import annotations

import json
import time

import pyarrow as pa
import pyarrow.parquet as pq

from central.record import Record
from shared.clock import parse_instant_us
from shared.messages import Uplink
from tests.integration.uplinks import Edge, batch
from tests.processes import CentralProcess


def test_batches_are_recorded_once_and_acked_whatever_comes_between(central: CentralProcess, edge: Edge) -> None:
    begun_s = time.time()
    for payload in (b"\x00garbage", b"", batch(1, site="another").compress(), b"\x1f\x8b\x08\x00"):
        edge.send(payload)
    edge.send_batches(1, 2, 4, 2, 3, 4, 5)
    answer = edge.wait_acked(lambda acked: acked.seq == 5)
    assert (answer.epoch, answer.missing) == ("e1", [])
    told_s = parse_instant_us(answer.at) / 1e6
    assert begun_s - 1 <= told_s <= time.time() + 1, "under the event clock too: it orders answers"
    readings, letters = central.folder / "out" / "r.parquet", central.folder / "out" / "d.csv"
    central.export("--readings", str(readings), "--dead-letters", str(letters), "--site", edge.site)
    rows = pq.read_table(readings)
    sent = {(meter, ts) for seq in range(1, 6) for meter, ts in identities(batch(seq))}
    assert rows.num_rows == len(sent)
    assert set(zip(rows["meter_id"].to_pylist(), rows["ts"].cast(pa.int64()).to_pylist(), strict=True)) == sent
    assert len(letters.read_text().splitlines()) == 1 + 5


def test_a_killed_central_goes_on_where_the_record_stands(central: CentralProcess, edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    central.kill()
    edge.send_batches(2, 1, 3)  # the broker keeps them for us
    central.spawn()
    edge.wait_acked(lambda acked: acked.seq == 3)
    recorded = Record(str(central.folder / "record")).readings(site=edge.site)
    assert recorded.num_rows == sum(len(identities(batch(seq))) for seq in (1, 2, 3))


def test_the_record_is_exported_while_it_is_written(central: CentralProcess, edge: Edge) -> None:
    edge.send_batches(*range(1, 9))
    edge.wait_acked(lambda acked: acked.seq >= 4)
    edge.send_batches(*range(9, 17))
    central.export("--readings", str(central.folder / "r.parquet"), "--site", edge.site)
    rows = pq.read_table(central.folder / "r.parquet").num_rows
    assert rows % 48 == 0
    assert rows >= 4 * 48
    edge.wait_acked(lambda acked: acked.seq == 16)


def test_central_ends_cleanly_when_asked(central: CentralProcess, edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    assert central.stop() == 0
    central.spawn()


def test_a_second_central_on_the_same_folder_is_refused_in_a_sentence(central: CentralProcess, edge: Edge) -> None:
    edge.send_batches(1)
    edge.wait_acked(lambda acked: acked.seq == 1)
    second = central.told("run")
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("central: central.work_dir")


def identities(uplink: Uplink) -> list[tuple[str, int]]:
    readings = uplink.kinds["readings"]
    return list(zip(readings["meter_id"], readings["ts_us"], strict=True))


def test_the_identities_of_a_batch_are_distinct() -> None:
    assert len(set(identities(batch(3)))) == 48
    assert json.loads(batch(3).encode())["schema"] == 1
