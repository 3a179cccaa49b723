"""Instants and durations, and nothing that asks for the time except `wall_now`, which only the shells call.

Hot paths hold instants as int64 microseconds since the epoch in UTC (names end in `_us`); datetimes are always aware.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
DAY_US: Final = 24 * HOUR_US
MILLISECONDS_FROM: Final = 1e11  # an epoch number from here on is ms: 1e11 s is the year 5138, 1e11 ms is 1973
LATEST_US: Final = 253_370_764_800 * SECOND_US  # the year 9999: what lies beyond cannot be written as text
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def wall_now() -> datetime:
    """The wall clock, aware UTC. Only bootstrap, runtimes and commands call it; cores are told the time."""
    return datetime.now(UTC)


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    return (instant - _EPOCH) // _MICROSECOND


def to_datetime(instant_us: int) -> datetime:
    """The aware UTC datetime of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=int(instant_us))


def iso(instant_us: int) -> str:
    """RFC 3339 text with a `Z`, seconds or as many decimals as needed: 2026-01-05T10:00:07Z."""
    return to_datetime(instant_us).isoformat().replace("+00:00", "Z")


def parse_instant_us(value: object) -> int:
    """Microseconds since the epoch from ISO text with an offset, or an epoch number in s or ms.

    Raises ValueError with a reason a meter's owner can act on.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"ts is {type(value).__name__}, expected ISO text with an offset or an epoch number")
    if isinstance(value, str):
        instant_us = _parse_iso_us(value)
    elif math.isfinite(value):
        instant_us = round(value * (1000 if abs(value) >= MILLISECONDS_FROM else SECOND_US))
    else:
        raise ValueError(f"ts {value!r:.40} is no instant")
    if not 0 <= instant_us < LATEST_US:
        raise ValueError(f"ts {value!r:.40} is not between 1970 and 9998")
    return instant_us


def _parse_iso_us(text: str) -> int:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"ts {text!r:.60} is not an ISO 8601 instant") from None
    if instant.tzinfo is None:
        raise ValueError(f"ts {text!r:.60} has no offset: add Z or +hh:mm")
    return to_us(instant)


def duration_us(duration: timedelta) -> int:
    """A duration in microseconds."""
    return duration // _MICROSECOND


def parse_duration(text: str) -> timedelta:
    """A duration such as 15min, 1h, 48h, 14d or 30s. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; expected something like 30s, 15min, 1h or 14d")
    try:
        return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
    except OverflowError as error:
        raise ValueError(f"{text!r:.40} is longer than any duration") from error


def format_duration(duration: timedelta) -> str:
    """The shortest exact text `parse_duration` reads back: 90 min is `90min`, two days are `48h`, 14 are `14d`."""
    seconds = duration.total_seconds()
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (3 * size if unit == "d" else size) and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:g}ms"
