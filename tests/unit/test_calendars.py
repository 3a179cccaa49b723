"""Local time across both DST changes, and holidays."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendars import Calendar, utc_offset_us


def _us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[arg-type, misc]


def _hours(first: int, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return first + np.arange(count, dtype=np.int64) * 3_600_000_000


def test_london_skips_the_hour_from_one_to_two_in_spring() -> None:
    local = Calendar("Europe/London").local(_hours(_us(2013, 3, 31, 0), 3))
    assert local.hour.tolist() == [0.0, 2.0, 3.0]


def test_london_has_the_hour_from_one_to_two_twice_in_autumn() -> None:
    local = Calendar("Europe/London").local(_hours(_us(2013, 10, 26, 23), 4))
    assert local.hour.tolist() == [0.0, 1.0, 1.0, 2.0]


def test_new_york_changes_at_two_local_in_both_directions() -> None:
    calendar = Calendar("America/New_York")
    assert calendar.local(_hours(_us(2016, 3, 13, 6), 2)).hour.tolist() == [1.0, 3.0]
    assert calendar.local(_hours(_us(2016, 11, 6, 5), 3)).hour.tolist() == [1.0, 1.0, 2.0]


def test_a_half_hour_zone_has_half_hours() -> None:
    local = Calendar("Asia/Kolkata").local(np.array([_us(2020, 1, 5, 18, 30)], dtype=np.int64))
    assert (local.hour[0], local.weekday[0], local.hour_of_week[0]) == (0.0, 0, 0.0)


@given(
    st.sampled_from(["Europe/London", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.datetimes(datetime(2012, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - aware by the strategy
)
def test_the_offset_is_zoneinfos_at_any_instant(zone: str, instant: datetime) -> None:
    us = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    expected = instant.astimezone(ZoneInfo(zone)).utcoffset()
    assert expected is not None
    assert utc_offset_us(zone, np.array([us], dtype=np.int64))[0] == expected // timedelta(microseconds=1)


def test_a_holiday_is_a_free_day_on_the_local_date() -> None:
    instants = np.array([_us(2013, 12, 24, 23), _us(2013, 12, 25, 0), _us(2013, 12, 27, 0)], dtype=np.int64)
    local = Calendar("Europe/London", "GB").local(instants)
    assert local.holiday.tolist() == [False, True, False]
    assert local.free.tolist() == [False, True, False]


def test_without_a_country_no_day_is_a_holiday_but_weekends_are_free() -> None:
    local = Calendar().local(np.array([_us(2013, 12, 25), _us(2013, 12, 28)], dtype=np.int64))
    assert local.holiday.tolist() == [False, False]
    assert local.free.tolist() == [False, True]


def test_an_unknown_zone_or_country_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Mars/Olympus"):
        Calendar("Mars/Olympus")
    with pytest.raises(ValueError, match="XX"):
        Calendar("UTC", "XX")
