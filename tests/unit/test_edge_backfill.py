"""How a file's history is cut into messages that each can be understood alone."""

import json
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.backfill import ITEM_BYTES_AT_MOST, Chunk, chunks, encode
from edge.dialects.native import Decoder
from edge.files import Rows
from edge.forms import Forms
from shared.clock import HOUR_US, LATEST_US, SECOND_US, parse_instant_us
from shared.grid import KINDS, GridRules, Kind, MeterReadings, intervals

START_US = parse_instant_us("2026-01-05T00:00:00Z")
MINUTE_US = 60 * SECOND_US
RULES = GridRules(step_us=HOUR_US, hold_us=2 * HOUR_US, max_gap_us=6 * HOUR_US)

gaps_min = st.one_of(st.integers(1, 20), st.just(30), st.integers(40, 500))
series = st.lists(gaps_min, min_size=1, max_size=120)


def _rows(meters: dict[str, list[int]], kind: Kind = "power") -> Rows:
    """Readings of each meter after gaps in minutes; a register counts up, energy stands on the half hour."""
    lines = []
    for meter, gaps in meters.items():
        ts_us = START_US + np.cumsum(np.array(gaps, dtype=np.int64)) * MINUTE_US
        if kind == "energy":
            ts_us = np.unique(ts_us // (HOUR_US // 2) * (HOUR_US // 2))
        value = np.cumsum(np.arange(len(ts_us)) % 7) if kind == "register" else np.arange(len(ts_us)) % 11
        lines += [(meter, int(t), float(v)) for t, v in zip(ts_us, value, strict=True)]
    lines.sort(key=lambda line: line[1])
    meter_ids, instants, values = zip(*lines, strict=True)
    return Rows(np.array(meter_ids, dtype=object), np.array(instants, dtype=np.int64), np.array(values, dtype=float))


def _readings(chunk: Chunk, kind: Kind) -> MeterReadings:
    period_us = np.full(len(chunk.ts_us), HOUR_US // 2 if kind == "energy" else 0, dtype=np.int64)
    return MeterReadings(chunk.ts_us, chunk.value, period_us, np.full(len(chunk.ts_us), KINDS.index(kind), np.int8))


def _filled(parts: list[Chunk], kind: Kind) -> dict[int, float]:
    """The intervals that an edge fills: of each message those it closes, unless an earlier one has filled them."""
    filled: dict[int, float] = {}
    for part in parts:
        first = int(part.ts_us[0]) // HOUR_US
        until_us = int(part.ts_us[-1]) + (HOUR_US // 2 if kind == "energy" else 0)
        count = max(until_us // HOUR_US - first, 0)
        made = intervals(_readings(part, kind), first * HOUR_US, count, RULES)
        for number, load in enumerate(made.load_kw.tolist(), start=first):
            if np.isfinite(load):
                filled.setdefault(number, load)
    return filled


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["m1", "m2", "m10"]), series, min_size=1), st.integers(1, 40))
def test_the_messages_hold_all_readings_in_order_and_no_more_than_whole_intervals_need(
    meters: dict[str, list[int]], readings: int
) -> None:
    rows = _rows(meters)
    parts = list(chunks(rows, step_us=HOUR_US, readings=readings))
    for meter, group in groupby(parts, key=lambda part: part.meter):
        own = list(group)
        expected = rows.ts_us[rows.meter == meter].tolist()
        assert sorted({int(ts) for part in own for ts in part.ts_us}) == expected
        assert sum(part.fresh for part in own) == len(expected)
        for part in own:
            assert (np.diff(part.ts_us) > 0).all()
            inner = part.ts_us[1:-1] // HOUR_US
            assert len(part.ts_us) <= readings + 2 or len(set(inner.tolist())) == 1
        for one, other in pairwise(own):
            assert one.ts_us[-2:].tolist() == other.ts_us[:2].tolist(), "the seam's two readings stand in both"
            assert one.ts_us[-2] // HOUR_US < other.ts_us[1] // HOUR_US, "and a border of intervals between them"
    assert [meter for meter, _group in groupby(parts, key=lambda part: part.meter)] == sorted(meters)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(gaps=series, readings=st.integers(1, 30))
def test_intervals_filled_message_by_message_are_those_of_the_whole_file(
    kind: Kind, gaps: list[int], readings: int
) -> None:
    rows = _rows({"m": gaps}, kind)
    whole = Chunk("m", rows.ts_us, rows.value, len(rows.ts_us))
    assert _filled(list(chunks(rows, step_us=HOUR_US, readings=readings)), kind) == _filled([whole], kind)


@given(
    ts_us=st.integers(0, LATEST_US - 1)
    | st.integers(0, LATEST_US // SECOND_US - 1).map(lambda s: s * SECOND_US)
    | st.integers(0, LATEST_US // 1000 - 1).map(lambda ms: ms * 1000),
    value=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_reading_is_read_back_as_it_was_in_the_file_and_is_as_short_as_said(ts_us: int, value: float) -> None:
    form = {"unit": "kWh", "kind": "energy", "period_s": 1800.000001}
    payload = encode(Chunk("m", np.array([ts_us]), np.array([value]), 1), form)
    assert len(payload) <= ITEM_BYTES_AT_MOST
    forms = Forms(RULES)
    taken, refused = Decoder(forms, default_period_us=0).decode(payload, 0)
    assert refused == []
    assert (taken[0].ts_us, taken[0].value, forms[taken[0].form].unit) == (ts_us, value, "kWh")


def test_whole_seconds_are_written_as_short_as_they_can_be() -> None:
    payload = encode(Chunk("m", np.array([START_US]), np.array([1.5]), 1), {"unit": "kW"})
    assert json.loads(payload) == [{"ts": START_US // SECOND_US, "value": 1.5, "unit": "kW"}]
    assert payload == b'[{"ts":1767571200,"value":1.5,"unit":"kW"}]'
