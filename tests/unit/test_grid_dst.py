"""Days of 23 and 25 hours: a meter that writes local time with its offset fills every UTC interval of them once."""

from itertools import product

import numpy as np
import pytest

from shared.calendars import Calendar
from shared.clock import HOUR_US, parse_instant_us
from shared.grid import KINDS, GridRules, Kind, MeterReadings, intervals

MINUTE_US = HOUR_US // 60

# zone, day, the local hours before the change with their offset, those after it with theirs
CHANGES = [
    ("Europe/London", "2013-03-31", range(1), "+00:00", range(2, 24), "+01:00"),
    ("Europe/London", "2013-10-27", range(2), "+01:00", range(1, 24), "+00:00"),
    ("America/New_York", "2016-03-13", range(2), "-05:00", range(3, 24), "-04:00"),
    ("America/New_York", "2016-11-06", range(2), "-04:00", range(1, 24), "-05:00"),
    ("Australia/Sydney", "2016-10-02", range(2), "+10:00", range(3, 24), "+11:00"),
    ("Australia/Sydney", "2016-04-03", range(3), "+11:00", range(2, 24), "+10:00"),
]


def _instants_us(day: str, hours: range, offset: str, step_min: int) -> list[int]:
    """What the local times of `hours` mean, as a meter writes them."""
    minutes = product(hours, range(0, 60, step_min))
    return [parse_instant_us(f"{day}T{hour:02}:{minute:02}:00{offset}") for hour, minute in minutes]


def _day(kind: Kind, starts_us: list[int], loads_kw: np.ndarray, step_min: int) -> MeterReadings:
    """Readings that say `loads_kw` of the steps from `starts_us` on."""
    energy = loads_kw * step_min / 60
    if kind == "register":
        starts_us = [*starts_us, starts_us[-1] + step_min * MINUTE_US]
        value = np.concatenate([[1000.0], 1000.0 + np.cumsum(energy)])
    else:
        value = energy if kind == "energy" else loads_kw
    count = len(starts_us)
    return MeterReadings(
        np.array(starts_us, dtype=np.int64),
        value,
        np.full(count, step_min * MINUTE_US if kind == "energy" else 0, dtype=np.int64),
        np.full(count, KINDS.index(kind), dtype=np.int8),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step_min", [15, 30, 60])
@pytest.mark.parametrize(("zone", "day", "before", "before_offset", "after", "after_offset"), CHANGES)
def test_a_day_with_a_change_has_every_interval_once_at_its_local_hour(
    zone: str,
    day: str,
    before: range,
    before_offset: str,
    after: range,
    after_offset: str,
    step_min: int,
    kind: Kind,
) -> None:
    starts_us = [
        *_instants_us(day, before, before_offset, step_min),
        *_instants_us(day, after, after_offset, step_min),
    ]
    step_us, count = step_min * MINUTE_US, len(starts_us)
    assert count * step_min == 60 * (len(before) + len(after))
    assert count * step_min in (23 * 60, 25 * 60)
    assert starts_us == [starts_us[0] + number * step_us for number in range(count)]

    loads_kw = np.linspace(0.5, 5.0, count)
    rules = GridRules(step_us, hold_us=step_us, max_gap_us=6 * HOUR_US)
    made = intervals(_day(kind, starts_us, loads_kw, step_min), starts_us[0], count, rules)
    assert made.load_kw.tolist() == pytest.approx(loads_kw.tolist())
    assert made.completeness.tolist() == [1.0] * count
    assert made.flags.tolist() == [0] * count

    local = Calendar(zone).local(starts_us[0] + np.arange(count, dtype=np.int64) * step_us)
    assert local.hour.astype(int).tolist() == [hour for hour in (*before, *after) for _ in range(60 // step_min)]
    assert len(set(local.weekday.tolist())) == 1
