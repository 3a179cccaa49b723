"""What may enter the record: whatever bytes come are refused in a sentence or can be recorded; nothing is lost."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.columns import tables_of
from central.intake import Intake, read_batch
from central.record import Record
from central.telemetry import CentralMetrics
from shared.errors import MessageRefused, RecordError
from shared.messages import Uplink
from shared.mqtt import Connection, Incoming
from shared.params import MqttParams

WALL = datetime(2026, 1, 1, tzinfo=UTC)


def message(text: str, number: int = 1) -> Incoming:
    payload = gzip.compress(text.encode("utf-8", "surrogatepass"))
    return Incoming("metercast/s/uplink", payload, len(payload), 1, False, number, False, 1)


def content(**more: object) -> dict[str, object]:
    return {"schema": 1, "site": "s", "epoch": "e", "seq": 1, "at": "2013-03-04T00:00:00Z", "kinds": {}} | more


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("kind", ["readings", "weather"])
def test_a_number_that_json_does_not_know_is_refused(kind: str, number: str) -> None:
    text = json.dumps(content(kinds={kind: {"value": ["X"], "deep": [[{"a": "X"}]]}})).replace('"X"', number)
    with pytest.raises(MessageRefused, match="NaN or infinite"):
        read_batch("metercast", message(text))


@pytest.mark.parametrize("more", [{"seq": 2**63}, {"seq": 10**400}, {"at": "9999-12-31T23:59:59-14:00"}, {"at": ""}])
def test_a_place_or_time_that_no_ledger_holds_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(MessageRefused):
        read_batch("metercast", message(json.dumps(content(**more))))


GAP = {"from_seq": [3, 3], "to_seq": [7, 7], "meter_id": ["a", "b"], "readings": [4, 0], "reason": ["full"] * 2,
       "at_us": [0, 1]}  # fmt: skip


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"from_seq": [8, 8]}, "names the range 8 … 7"),
        ({"from_seq": [0, 0]}, "names the range 0 … 7"),
        ({"to_seq": [9, 9]}, "names the range 3 … 9"),
        ({"from_seq": [3, 2]}, "names several ranges"),
        ({"meter_id": ["a", "a"]}, "names a meter twice"),
        ({"meter_id": ["a", None]}, "meter_id or reason that is no text"),
        ({"readings": [1.5, 0]}, "a readings that is no count"),
        ({"readings": [-1, 0]}, "a readings that is no count"),
        ({"readings": [True, 0]}, "a readings that is no count"),
        ({"from_seq": [[3], [3]]}, "a from_seq that is no count"),
        ({"at_us": [2**62, 0]}, "a at_us that is no count or instant"),
    ],
)
def test_a_gap_that_lies_is_refused_in_a_sentence(lie: dict[str, object], told: str) -> None:
    with pytest.raises(MessageRefused, match=told):
        read_batch("metercast", message(json.dumps(content(seq=7, kinds={"gaps": GAP | lie}))))


def test_a_gap_without_a_column_is_refused_and_one_that_is_whole_is_read() -> None:
    assert read_batch("metercast", message(json.dumps(content(seq=7, kinds={"gaps": GAP})))).seq == 7
    for name in GAP:
        lacking = {other: column for other, column in GAP.items() if other != name}
        with pytest.raises(MessageRefused, match=f"has no column {name}"):
            read_batch("metercast", message(json.dumps(content(seq=7, kinds={"gaps": lacking}))))


names = st.sampled_from([*GAP, "ts_us", "value", "received_us", "lead", "valid_us", "role", "id", "event", "x"])
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63), 2**62, 10**400, 1e308]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(st.characters(), max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)
kinds = st.dictionaries(
    st.sampled_from(["readings", "scores", "dead_letters", "events", "gaps", "other", "weather", ""]),
    st.dictionaries(names, st.lists(values, min_size=2, max_size=2), max_size=6),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(kinds=kinds, seq=st.one_of(st.integers(0, 3), st.integers()))
def test_whatever_passes_can_be_recorded(kinds: object, seq: int) -> None:
    try:
        batch = read_batch("metercast", message(json.dumps(content(kinds=kinds, seq=seq))))
    except MessageRefused:
        return
    for table in tables_of([batch]).values():
        table.validate(full=True)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(gzip.compress)))
def test_whatever_bytes_come_are_refused_or_read(payload: bytes) -> None:
    with suppress(MessageRefused):
        read_batch("metercast", Incoming("metercast/s/uplink", payload, len(payload), 1, False, 1, False, 1))


EXTREMES = {
    "meter_id": ["m", "m", "", "\0"],
    "ts_us": [0, 253_370_764_799_999_999, 1, 2],
    "value": [1e308, -1e308, 0, 5e-324],
    "received_us": [0, 0, 0, 0],
    "period_s": [None, 1e300, -1, 0],
}


def test_the_furthest_of_everything_is_recorded_and_read_back(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    batch = read_batch("metercast", message(json.dumps(content(seq=2**63 - 1, kinds={"readings": EXTREMES}))))
    record.append([batch])
    assert record.recorded_seq("s", "e") == 2**63 - 1
    assert record.readings()["value"].to_pylist() == [0.0, 5e-324, 1e308, -1e308]
    assert record.spans()["last"].to_pylist()[-1].year <= 9998


def test_an_instant_beyond_all_calendars_is_kept_as_json() -> None:
    far = {"meter_id": ["m"], "ts_us": [2**62], "value": [1.0], "received_us": [0]}
    batch = read_batch("metercast", message(json.dumps(content(kinds={"readings": far}))))
    assert list(tables_of([batch])) == ["other"]


class ShyRecord(Record):
    """A record that cannot be read, and then not be written, for a while."""

    silent = 2

    def recorded_seq(self, site: str, epoch: str) -> int:
        self._balk()
        return super().recorded_seq(site, epoch)

    def append(self, batches: Sequence[Uplink], tables: Mapping[str, pa.Table] | None = None) -> int:
        self._balk()
        return super().append(batches, tables)

    def _balk(self) -> None:
        self.silent -= 1
        if self.silent % 2:
            raise RecordError("the disk is away")


def intake(record: Record) -> tuple[Intake, CentralMetrics]:
    connection, metrics = Connection(MqttParams(), client_id="t"), CentralMetrics()
    return Intake(record, connection, metrics, root="metercast"), metrics


def test_a_record_that_does_not_answer_for_a_while_loses_nothing(tmp_path: Path) -> None:
    record = ShyRecord(str(tmp_path / "record"))
    record.create()
    taking, _ = intake(record)
    written = taking.take([message(json.dumps(content()))], WALL, threading.Event().wait)
    assert [batch.seq for recorded in written for batch in recorded.batches] == [1]
    assert record.silent < 0
    assert Record(str(tmp_path / "record")).recorded_seq("s", "e") == 1


def test_being_told_to_stop_while_the_record_does_not_answer_ends_the_wait(tmp_path: Path) -> None:
    taking, _ = intake(Record(str(tmp_path / "nowhere")))
    stop = threading.Event()
    stop.set()
    assert taking.take([message(json.dumps(content()))], WALL, stop.wait) == []


def test_a_refused_batch_is_counted_and_the_next_one_recorded(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    taking, metrics = intake(record)
    bad = message(json.dumps(content(kinds={"weather": {"kelvin": [float("nan")]}})), 1)
    written = taking.take([bad, message(json.dumps(content()), 2)], WALL, threading.Event().wait)
    assert [batch.seq for recorded in written for batch in recorded.batches] == [1]
    assert metrics.refused._value.get() == 1
