"""Instants, durations, ids and topics."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import format_duration, iso, parse_duration, parse_instant_us
from shared.topics import SiteTopics, artifact_chunk, is_site_id, parse_artifact_chunk, site_of


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-05T10:00:07Z",
        "2026-01-05T11:00:07+01:00",
        "2026-01-05 10:00:07+00:00",
        1767607207,
        1767607207.0,
        1767607207000,
    ],
)
def test_iso_with_offset_and_epoch_in_s_or_ms_are_one_instant(value: object) -> None:
    assert iso(parse_instant_us(value)) == "2026-01-05T10:00:07Z"


@pytest.mark.parametrize(
    "value",
    ["2026-01-05T10:00:07", "yesterday", "", None, True, [], float("nan"), 1e30, 1e15, -1, "0001-01-01T00:00:00+14:00"],
)
def test_what_is_no_instant_is_told_why(value: object) -> None:
    with pytest.raises(ValueError, match="ts"):
        parse_instant_us(value)


SAYABLE = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001 -- Hypothesis wants bounds without a zone
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001 -- as above
    timezones=st.timezones(),
)


@given(SAYABLE)
def test_any_instant_survives_being_written(moment: object) -> None:
    written = moment.isoformat()  # type: ignore[attr-defined]  # a datetime
    instant_us = parse_instant_us(written)
    assert parse_instant_us(iso(instant_us)) == instant_us


@given(st.integers(1, 10_000_000))
def test_any_duration_survives_being_written(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


def test_durations_read_as_people_write_them() -> None:
    assert [format_duration(parse_duration(text)) for text in ("15min", "1h", "48h", "14d", "90min")] == [
        "15min",
        "1h",
        "48h",
        "14d",
        "90min",
    ]


def test_topics_are_taken_apart_as_they_were_made() -> None:
    topics = SiteTopics("metercast", "plant-7")
    assert topics.meter_of(topics.reading("m.1")) == "m.1"
    assert topics.meter_of("metercast/other/readings/m.1") is None
    assert site_of("metercast", topics.uplink) == "plant-7"
    assert site_of("metercast", "metercast/artifacts/x/0") is None
    assert parse_artifact_chunk("metercast", artifact_chunk("metercast", "ab", 3)) == ("ab", 3)
    assert parse_artifact_chunk("metercast", "metercast/artifacts/ab/x") is None


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("a", True),
        ("A-1_b.c:d", True),
        ("", False),
        ("a" * 65, False),
        ("central", False),
        ("a/b", False),
        ("ä", False),
    ],
)
def test_site_ids_are_short_plain_and_not_reserved(name: str, fine: bool) -> None:
    assert is_site_id(name) is fine
