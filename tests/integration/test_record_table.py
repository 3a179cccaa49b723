"""The record on real Delta tables: rows and ledger never disagree, and every reader sees one row for each identity."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from central.columns import SCHEMAS, tables_of
from central.record import Record
from shared.clock import HOUR_US
from shared.errors import RecordError
from shared.messages import Uplink

START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z


def uplink(seq: int, *, epoch: str = "e", site: str = "s", **kinds: dict[str, list[Any]]) -> Uplink:
    return Uplink(site=site, epoch=epoch, seq=seq, at="2013-03-04T00:00:00Z", kinds=kinds)


SCORE: dict[str, list[Any]] = {
    "meter_id": ["m"],
    "valid_us": [START_US],
    "lead": [24],
    "role": ["champion"],
    "rung": ["champion"],
    "model_version": [1],
    "y_kw": [1.0],
    "forecast_kw": [2.0],
    "low_kw": [1.0],
    "high_kw": [3.0],
    "naive_kw": [None],
}


def readings(*rows: tuple[str, int, float], received_us: int = START_US) -> dict[str, list[Any]]:
    """(meter, hour, value) rows as wire columns."""
    return {
        "meter_id": [meter for meter, _, _ in rows],
        "ts_us": [START_US + hour * HOUR_US for _, hour, _ in rows],
        "value": [value for _, _, value in rows],
        "unit": ["kW"] * len(rows),
        "kind": ["power"] * len(rows),
        "period_s": [None] * len(rows),
        "quality": ["ok"] * len(rows),
        "received_us": [received_us] * len(rows),
    }


def gap(first: int, last: int, *counts: tuple[str, int]) -> dict[str, list[Any]]:
    """What a full outbox gave up of batches `first` … `last`: (meter, readings) rows."""
    size = len(counts)
    return {"from_seq": [first] * size, "to_seq": [last] * size, "meter_id": [meter for meter, _ in counts],
            "readings": [count for _, count in counts], "reason": ["the outbox was full"] * size,
            "at_us": [START_US] * size}  # fmt: skip


def letters(*ids: str) -> dict[str, list[Any]]:
    size = len(ids)
    return {"id": list(ids), "topic": ["t"] * size, "payload": ["{"] * size, "payload_b64": [None] * size,
            "reason": ["not JSON"] * size, "received_us": [START_US] * size, "count": [1] * size}  # fmt: skip


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = Record(str(tmp_path / "record"))
    made.create()
    return made


def values(record: Record, **chosen: Any) -> list[tuple[str, str, float]]:
    rows = record.readings(**chosen)
    return list(zip(*(rows[name].to_pylist() for name in ("site", "meter_id", "value")), strict=True))


def test_a_batch_appended_twice_is_there_once(record: Record) -> None:
    batch = uplink(1, readings=readings(("m", 0, 1.0)), dead_letters=letters("a"))
    version = record.append([batch])
    assert record.append([batch]) == version
    assert values(record) == [("s", "m", 1.0)]
    assert record.recorded_seq("s", "e") == 1


def test_a_batch_without_readings_still_moves_the_ledger(record: Record) -> None:
    record.append([uplink(1, dead_letters=letters("a"))])
    assert record.recorded_seq("s", "e") == 1
    assert Record(record._uri).recorded_seq("s", "e") == 1


class DyingRecord(Record):
    """A record whose process dies before it writes one of the tables."""

    dies_before = ""

    def _write(self, name: str, rows: pa.Table, batches: Iterable[Uplink]) -> None:
        if name == self.dies_before:
            raise RecordError("the power went")
        super()._write(name, rows, batches)


@pytest.mark.parametrize("table", ["dead_letters", "scores", "readings"])
def test_a_crash_before_any_table_and_a_resend_give_each_row_once(record: Record, table: str) -> None:
    first = uplink(1, readings=readings(("m", 0, 1.0)), dead_letters=letters("a"), scores=SCORE)
    later = SCORE | {"valid_us": [START_US + HOUR_US]}
    second = uplink(2, readings=readings(("m", 1, 2.0)), dead_letters=letters("b"), scores=later)
    dying = DyingRecord(record._uri)
    dying.dies_before = table
    with pytest.raises(RecordError, match="the power went"):
        dying.append([first])
    again = Record(record._uri)
    assert again.recorded_seq("s", "e") == 0
    again.append([first, second])
    assert values(again) == [("s", "m", 1.0), ("s", "m", 2.0)]
    assert again.dead_letters()["id"].to_pylist() == ["a", "b"]
    assert again.scores().num_rows == 2


def test_the_reading_received_last_is_the_one_read(record: Record) -> None:
    record.append([uplink(1, readings=readings(("m", 0, 1.0), ("m", 0, 5.0), ("k", 3, 7.0)))])
    record.append([uplink(2, readings=readings(("m", 0, 9.0), received_us=START_US + 60))])
    record.append([uplink(3, readings=readings(("m", 0, 2.0), received_us=START_US - 60))])
    assert values(record) == [("s", "k", 7.0), ("s", "m", 9.0)]


def test_sites_with_equal_meter_names_stay_apart(record: Record) -> None:
    record.append(
        [uplink(1, readings=readings(("m", 0, 1.0))), uplink(1, site="t:1", readings=readings(("m", 0, 2.0)))]
    )
    assert values(record) == [("s", "m", 1.0), ("t:1", "m", 2.0)]
    assert values(record, site="t:1") == [("t:1", "m", 2.0)]
    assert {tuple(row.values())[:2] for row in record.spans().to_pylist()} == {("s", "m"), ("t:1", "m")}


def test_an_old_version_reads_back_after_compaction(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"), compact_every=3)
    record.create()
    versions = [record.append([uplink(seq, readings=readings(("m", seq, float(seq))))]) for seq in range(1, 8)]
    assert len(values(record)) == 7
    assert [value for _, _, value in values(record, version=versions[2])] == [1.0, 2.0, 3.0]
    with pytest.raises(RecordError, match="at version 99"):
        record.readings(version=99)


def test_readings_before_an_instant_are_left_out(record: Record) -> None:
    record.append([uplink(1, readings=readings(("m", 0, 1.0), ("m", 24 * 40, 2.0)))])
    assert [value for _, _, value in values(record, since_us=START_US + 1)] == [2.0]


def test_a_dead_letter_that_came_twice_is_exported_once(record: Record) -> None:
    record.append([uplink(1, dead_letters=letters("a", "b")), uplink(2, dead_letters=letters("b"))])
    assert record.dead_letters()["id"].to_pylist() == ["a", "b"]


def lost(record: Record, **chosen: str) -> list[tuple[str, str, int]]:
    rows = record.dead_letters(**chosen)
    return sorted(zip(*(rows[name].to_pylist() for name in ("topic", "reason", "count")), strict=True))


def test_what_a_gap_gave_up_comes_out_as_dead_letters_of_its_meters(record: Record) -> None:
    record.append([uplink(9, gaps=gap(2, 9, ("m", 40), ("k", 7)), dead_letters=letters("a"))])
    assert record.recorded_seq("s", "e") == 9
    assert lost(record, root="grid") == [
        ("grid/s/readings/k", "the outbox was full", 7),
        ("grid/s/readings/m", "the outbox was full", 40),
        ("t", "not JSON", 1),
    ]
    rows = record.dead_letters(site="s").to_pylist()
    assert len({row["id"] for row in rows}) == 3
    assert [row["payload"] for row in rows if row["count"] > 1] == [None, None]


def test_copies_of_a_gap_and_gaps_inside_it_count_once(record: Record) -> None:
    record.append([uplink(3, gaps=gap(1, 3, ("m", 5)))])
    record.append([uplink(9, gaps=gap(1, 9, ("m", 30), ("m", 30)))])
    record.append([uplink(9, epoch="f", gaps=gap(1, 9, ("m", 2)))])
    assert [count for _, _, count in lost(record)] == [2, 30]


def test_readings_that_came_before_their_gap_are_no_dead_letters(record: Record) -> None:
    record.append([uplink(1, readings=readings(("m", 0, 1.0), ("m", 1, 1.0), ("k", 0, 1.0)))])
    record.append([uplink(9, gaps=gap(1, 9, ("m", 5), ("k", 1)), readings=readings(("m", 2, 1.0)))])
    assert lost(record) == [("metercast/s/readings/m", "the outbox was full", 3)]


def test_a_score_that_comes_again_in_another_epoch_is_read_once_as_it_came_last(record: Record) -> None:
    batch = uplink(7, scores=SCORE)
    again = uplink(1, epoch="f", scores=SCORE | {"y_kw": [9.0]}).model_copy(update={"at": "2013-03-05T00:00:00Z"})
    record.append([again, batch])
    assert record.scores()["y_kw"].to_pylist() == [9.0]
    other = SCORE | {"role": ["challenger"]}
    record.append([uplink(8, scores=other)])
    assert record.scores().num_rows == 2


def test_a_record_of_an_earlier_version_gains_the_columns_it_lacks(tmp_path: Path) -> None:
    uri = str(tmp_path / "record")
    earlier = pa.schema([field for field in SCHEMAS["scores"] if field.name != "received_at"])
    DeltaTable.create(f"{uri}/scores", earlier)
    record = Record(uri)
    record.create()
    record.append([uplink(1, scores=SCORE)])
    assert record.scores()["received_at"].null_count == 0


def test_the_record_knows_a_sites_newest_reading_and_counts_its_meters(record: Record) -> None:
    record.append([uplink(1, readings=readings(("m", 0, 1.0), ("k", 800, 1.0), ("m", 800, 1.0)))])
    assert record.newest_us("s") == START_US + 800 * HOUR_US
    assert record.reading_counts("s", since_us=START_US + 1) == {"k": 1, "m": 1}
    assert record.newest_us("nowhere") is None
    assert values(record, meters=["k"]) == [("s", "k", 1.0)]


def test_unknown_kinds_and_columns_that_do_not_fit_are_kept_as_json(record: Record) -> None:
    strange: dict[str, list[Any]] = {"meter_id": ["m"], "ts_us": ["noon"], "value": [1.0], "received_us": [START_US]}
    record.append([uplink(1, readings=strange, weather={"kelvin": [280, 281]})])
    kept = record._read("other")
    content = dict(zip(kept["kind"].to_pylist(), kept["columns"].to_pylist(), strict=True))
    assert content.keys() == {"readings", "weather"}
    assert "noon" in content["readings"]
    assert record.recorded_seq("s", "e") == 1


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_columns_come_no_row_is_lost_and_nothing_raises(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["readings", "scores", "dead_letters", "events", "gaps", "covariates", "new"]))
    good = readings(("m", 0, 1.0), ("m", 1, 1.0))
    names = data.draw(
        st.lists(
            st.sampled_from(
                [*good, "lead", "role", "id", "reason", "name", "issued_us", "start_us", "step_s", "values", "x"]
            ),
            unique=True,
        )
    )
    columns = {name: data.draw(st.lists(scalars, min_size=2, max_size=2)) for name in names}
    tables = tables_of([uplink(1).model_copy(update={"kinds": {kind: columns}})])
    assert sum(1 if name == "other" else table.num_rows // 2 for name, table in tables.items()) == bool(names)
    for name, table in tables.items():
        assert table.schema.equals(SCHEMAS[name]), pa.Table


def test_a_record_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nowhere/readings"):
        Record(str(tmp_path / "nowhere")).readings()
