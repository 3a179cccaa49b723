"""Two roads to an interval: the vectorised grid, and walking through it minute by minute."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.grid import KINDS, Flag, GridRules, Kind, MeterLimits, MeterReadings, intervals, stuck_steps

MINUTE_US = 60_000_000
MINUTES = 360
HOLD, MAX_GAP = 40, 150
RANGE_KWH = 10.0

Row = tuple[int, float, Kind, int]  # minute, value, kind, period in minutes


@dataclass
class Minute:
    """What one kind's readings say of a minute, and when the reading that says it was taken."""

    load_kw: float
    said_at: int
    plausible: bool


def _minute(rows: list[Row], minute: int, kind: Kind, limits: MeterLimits) -> Minute | None:
    """What the readings of a kind say of a minute, by the sentences of the grid's docstring."""
    before = [row for row in rows if row[0] <= minute]
    after = [row for row in rows if row[0] > minute]
    if not before:
        return None
    at, value, _, period = before[-1]
    load_kw = {"power": value, "energy": value / (period / 60), "register": float("nan")}[kind]
    if kind == "register":
        used = _used(value, after[0][1], limits.register_max_kwh) if after else -1.0
        if used < 0 or after[0][0] - at > MAX_GAP:
            return None
        load_kw = used / ((after[0][0] - at) / 60)
    elif minute >= at + (period if kind == "energy" else HOLD):
        return None
    low, high = limits.min_kw, limits.max_kw
    return Minute(load_kw, at, (low is None or load_kw >= low) and (high is None or load_kw <= high))


def _used(before: float, after: float, range_kwh: float | None) -> float:
    if after >= before or range_kwh is None:
        return after - before
    from_the_top = 0.9 * range_kwh <= before <= range_kwh
    to_the_bottom = 0 <= after <= 0.1 * range_kwh
    return after - before + range_kwh if from_the_top and to_the_bottom else after - before


def _interval(rows: list[Row], first: int, step: int, limits: MeterLimits) -> tuple[float, float, Flag]:
    """Load, completeness and flags of the interval that begins at minute `first`."""
    load_kw, completeness, origin, warned = float("nan"), 0.0, Flag(0), Flag(0)
    for kind in KINDS:
        own = [row for row in rows if row[2] == kind]
        said = [minute for at in range(first, first + step) if (minute := _minute(own, at, kind, limits))]
        good = [minute for minute in said if minute.plausible]
        if len(good) < len(said):
            warned = Flag.IMPLAUSIBLE
        if len(good) / step <= completeness:
            continue
        completeness = len(good) / step
        enough = completeness >= 0.5
        load_kw = float(np.mean([minute.load_kw for minute in good])) if enough else float("nan")
        origin = _origin(own, good, kind, first, step) if enough else Flag(0)
    return load_kw, completeness, warned | origin | (Flag.GAP if completeness < 1 else Flag(0))


def _origin(own: list[Row], good: list[Minute], kind: Kind, first: int, step: int) -> Flag:
    if kind == "power" and all(minute.said_at < first for minute in good):
        return Flag.HELD
    taken = {row[0] for row in own}
    strictly_inside = any(at in taken for at in range(first + 1, first + step))
    at_both_borders = first in taken and first + step in taken
    return Flag.INTERPOLATED if kind == "register" and not strictly_inside and not at_both_borders else Flag(0)


def _readings(rows: list[Row]) -> MeterReadings:
    return MeterReadings(
        np.array([row[0] * MINUTE_US for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float64),
        np.array([row[3] * MINUTE_US for row in rows], dtype=np.int64),
        np.array([KINDS.index(row[2]) for row in rows], dtype=np.int8),
    )


values = st.floats(-1, RANGE_KWH + 1) | st.sampled_from([0.0, 0.5, 1.0, 9.0, 9.5, RANGE_KWH])
periods = st.sampled_from([5, 20, 60, 90])


def _rows(kinds: st.SearchStrategy[Kind], at_most: int) -> st.SearchStrategy[list[Row]]:
    row = st.tuples(st.integers(0, MINUTES - 1), values, kinds, periods)
    return st.lists(row, max_size=at_most, unique_by=lambda row: row[0]).map(sorted)


of_one_kind = st.sampled_from(KINDS).flatmap(lambda kind: _rows(st.just(kind), 30))
of_all_kinds = _rows(st.sampled_from(KINDS), 30)
limits_of_all_sorts = st.builds(
    MeterLimits,
    register_max_kwh=st.sampled_from([None, RANGE_KWH]),
    min_kw=st.sampled_from([None, 0.0, 2.0]),
    max_kw=st.sampled_from([None, 5.0, 30.0]),
)


@pytest.mark.parametrize("step", [15, 30, 60])
@given(rows=of_one_kind | of_all_kinds, limits=limits_of_all_sorts)
def test_the_grid_equals_the_mean_of_its_minutes(step: int, rows: list[Row], limits: MeterLimits) -> None:
    rules = GridRules(step * MINUTE_US, HOLD * MINUTE_US, MAX_GAP * MINUTE_US)
    made = intervals(_readings(rows), 0, MINUTES // step, rules, limits)
    slow = [_interval(rows, first, step, limits) for first in range(0, MINUTES, step)]
    assert made.load_kw.tolist() == pytest.approx([load for load, _, _ in slow], nan_ok=True, abs=1e-9)
    assert made.completeness.tolist() == [completeness for _, completeness, _ in slow]
    assert made.flags.tolist() == [int(flags) for _, _, flags in slow]


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 2.0, float("nan")]), max_size=40), st.integers(1, 6))
def test_stuck_is_a_day_of_the_same_load_counted_one_by_one(loads: list[float], steps_per_day: int) -> None:
    counted, run = [], 0
    for step, load in enumerate(loads):
        goes_on = step > 0 and load == loads[step - 1]
        run = 0 if np.isnan(load) else run + 1 if goes_on else 1
        counted.append(run >= steps_per_day)
    assert stuck_steps(np.array(loads, dtype=np.float64), steps_per_day).tolist() == counted
