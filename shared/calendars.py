"""Local time and holidays for UTC instants, vectorised.

Instants are int64 microseconds since the epoch, UTC. Offsets come from the zone's exact change instants, so both DST
changes are right to the microsecond, and from there on it is arithmetic on arrays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from shared.clock import DAY_US, HOUR_US, duration_us, to_datetime, to_us
from shared.errors import ParamsError
from shared.params import CalendarParams

Ints = NDArray[np.int64]

_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


class LocalTime(NamedTuple):
    """Calendar fields of instants, each with the shape of the input."""

    hour: NDArray[np.float64]  # 0 ≤ hour < 24, with the fraction (10:30 is 10.5)
    weekday: NDArray[np.int64]  # 0 Monday … 6 Sunday
    hour_of_week: NDArray[np.float64]  # 24·weekday + hour
    holiday: NDArray[np.bool_]  # public holiday on the local date
    free: NDArray[np.bool_]  # Saturday, Sunday or public holiday


@dataclass(frozen=True, slots=True)
class Calendar:
    """The calendar of a site: an IANA zone and, perhaps, a country with its holidays.

    `country` is an ISO code as the `holidays` library takes it, with an optional subdivision (`GB`, `GB-ENG`, `US`);
    without one no day is a holiday. Raises ValueError naming the unknown zone or country.
    """

    zone: str = "UTC"
    country: str | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown zone or country at once, not at the first forecast."""
        _zone(self.zone)
        if self.country is not None:
            _holiday_days(self.country, 2020)

    def local(self, instants_us: NDArray[np.int64]) -> LocalTime:
        """Return the local calendar fields of `instants_us` (any shape, UTC microseconds)."""
        local_us = instants_us + utc_offset_us(self.zone, instants_us)
        day = local_us // DAY_US
        hour = (local_us - day * DAY_US) / HOUR_US
        weekday = (day + _EPOCH_WEEKDAY) % 7
        holiday = self._is_holiday(day)
        return LocalTime(hour, weekday, 24.0 * weekday + hour, holiday, holiday | (weekday >= 5))

    def _is_holiday(self, day: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for local day numbers (days since 1970-01-01) whether they are public holidays."""
        if self.country is None or day.size == 0:
            return np.zeros(day.shape, dtype=np.bool_)
        first, last = (_date(int(d)).year for d in (day.min(), day.max()))
        known = np.concatenate([_holiday_days(self.country, year) for year in range(first, last + 1)])
        return np.isin(day, known)


def site_calendar(chosen: CalendarParams) -> Calendar:
    """Return the calendar of the parameters; raises ParamsError for a country without known holidays."""
    try:
        return Calendar(chosen.zone, chosen.country or None)
    except ValueError as error:
        raise ParamsError(f"calendar.country: {error}") from error


def utc_offset_us(zone: str, instants_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return local minus UTC in microseconds for each instant, exact on both sides of every change."""
    if instants_us.size == 0:
        return np.zeros(instants_us.shape, dtype=np.int64)
    first, last = (to_datetime(int(i)).year for i in (instants_us.min(), instants_us.max()))
    changes, offsets = _changes(zone, first, last)
    if len(offsets) == 1:
        return np.full(instants_us.shape, offsets[0], dtype=np.int64)
    return offsets[np.searchsorted(changes, instants_us, side="right")]


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as e:
        raise ValueError(f"unknown time zone: {name!r}") from e


def _offset_at(zone: ZoneInfo, us: int) -> int:
    offset = to_datetime(us).astimezone(zone).utcoffset() or timedelta(0)
    return duration_us(offset)


@lru_cache(maxsize=256)
def _changes(zone: str, first_year: int, last_year: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the change instants within whole UTC years and the offsets before, between and after them.

    Offsets are compared week by week and the change found by bisection; no zone changes twice within a week
    (but for Ramadan pauses, which last four).
    """
    info = _zone(zone)
    edge_us = [to_us(datetime(year, 1, 1, tzinfo=UTC)) for year in (first_year, last_year + 1)]
    weeks = [*range(edge_us[0], edge_us[1], 7 * DAY_US), edge_us[1]]
    changes: list[int] = []
    offsets = [_offset_at(info, weeks[0])]
    for low, high in pairwise(weeks):
        after = _offset_at(info, high)
        if after != offsets[-1]:
            minutes = range(low, high + 1, 60_000_000)
            before = offsets[-1]
            changes.append(minutes[bisect_right(minutes, False, key=lambda us: _offset_at(info, us) != before)])
            offsets.append(after)
    return np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)


_told: dict[tuple[str, int], Ints] = {}  # by country and year: what need not be looked up


def know_holidays(country: str, days: Mapping[int, Sequence[int]]) -> None:
    """Take the holidays of a country, day numbers by year, from whoever looked them up in `shared.holiday_days`."""
    _told.update({(country, year): np.array(of_year, dtype=np.int64) for year, of_year in days.items()})


@lru_cache(maxsize=256)
def _holiday_days(country: str, year: int) -> Ints:
    """Return the day numbers (since 1970-01-01) of a year's public holidays."""
    told = _told.get((country, year))
    if told is not None:
        return told
    from shared.holiday_days import holiday_days  # late: a site without a country has no need of what it loads

    return np.array(holiday_days(country, year), dtype=np.int64)
