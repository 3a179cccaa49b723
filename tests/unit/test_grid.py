"""Readings become intervals: three kinds, gaps, new cycles, limits, flags, and no dependence on order or company."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.grid import (
    KINDS,
    MOST_KW,
    UNITS,
    UNLIMITED,
    Flag,
    GridRules,
    Intervals,
    Kind,
    MeterLimits,
    MeterReadings,
    Span,
    flag_names,
    interval_loads,
    intervals,
    intervals_of_many,
    stuck_steps,
)

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)
FIVE_DIGITS = MeterLimits(register_max_kwh=100_000.0)
NAN = float("nan")


def _mixed(*rows: tuple[float, float, Kind, float]) -> MeterReadings:
    """(minute, value, kind, period in minutes) rows."""
    return MeterReadings(
        np.array([round(minute * MINUTE_US) for minute, _, _, _ in rows], dtype=np.int64),
        np.array([value for _, value, _, _ in rows], dtype=np.float64),
        np.array([round(period * MINUTE_US) for _, _, _, period in rows], dtype=np.int64),
        np.array([KINDS.index(kind) for _, _, kind, _ in rows], dtype=np.int8),
    )


def _readings(kind: Kind, *rows: tuple[float, float], period_min: float = 0) -> MeterReadings:
    """(minute, value) rows of one kind."""
    return _mixed(*((minute, value, kind, period_min) for minute, value in rows))


def _made(readings: MeterReadings, hours: int = 3, limits: MeterLimits = UNLIMITED) -> Intervals:
    return intervals(readings, 0, hours, RULES, limits)


def _loads(readings: MeterReadings, hours: int = 3, limits: MeterLimits = UNLIMITED) -> list[float]:
    return [float(load) for load in _made(readings, hours, limits).load_kw]


def _flags(readings: MeterReadings, hours: int = 3, limits: MeterLimits = UNLIMITED) -> list[Flag]:
    return [Flag(int(flags)) for flags in _made(readings, hours, limits).flags]


def _assert_same_bits(ours: Intervals, theirs: Intervals) -> None:
    assert ours.load_kw.tobytes() == theirs.load_kw.tobytes()
    assert ours.completeness.tobytes() == theirs.completeness.tobytes()
    assert ours.flags.tobytes() == theirs.flags.tobytes()


def test_half_hours_of_energy_add_up_to_an_hour() -> None:
    energy = _readings("energy", (0, 0.5), (30, 1.5), (60, 2.0), (90, 2.0), period_min=30)
    assert _loads(energy, 2) == [2.0, 4.0]
    assert _flags(energy, 2) == [Flag(0), Flag(0)]


def test_an_hour_with_half_its_energy_is_scaled_and_with_less_is_missing() -> None:
    half = _readings("energy", (0, 0.5), period_min=30)
    quarter = _readings("energy", (0, 0.5), period_min=15)
    assert _loads(half, 1) == [1.0]
    assert np.isnan(_loads(quarter, 1)).all()
    assert _flags(half, 1) == _flags(quarter, 1) == [Flag.GAP]


def test_energy_over_several_hours_is_spread_over_them() -> None:
    assert _loads(_readings("energy", (0, 6.0), period_min=120)) == pytest.approx([3.0, 3.0, NAN], nan_ok=True)


def test_power_is_weighted_by_time_and_held() -> None:
    assert _loads(_readings("power", (0, 1.0), (15, 5.0), (60, 7.0)), 2) == [4.0, 7.0]


def test_power_holds_no_longer_than_the_limit() -> None:
    made = _made(_readings("power", (20, 6.0)), 2)
    assert made.load_kw[0] == 6.0
    assert made.completeness.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(made.load_kw[1])


def test_an_on_change_meter_is_held_over_the_hours_in_which_it_says_nothing() -> None:
    rules = GridRules(step_us=HOUR_US, hold_us=3 * HOUR_US, max_gap_us=6 * HOUR_US)
    made = intervals(_readings("power", (15, 2.0), (180, 1.0)), 0, 4, rules)
    assert made.load_kw.tolist() == [2.0, 2.0, 2.0, 1.0]
    assert [Flag(int(flags)) for flags in made.flags] == [Flag.GAP, Flag.HELD, Flag.HELD, Flag(0)]


def test_a_missing_interval_is_not_called_held() -> None:
    assert _flags(_readings("power", (20, 6.0)), 2) == [Flag.GAP, Flag.GAP]


def test_a_register_gives_differences_over_gaps_up_to_the_limit() -> None:
    assert _loads(_readings("register", (0, 100.0), (60, 102.0), (180, 108.0))) == [2.0, 3.0, 3.0]
    assert np.isnan(_loads(_readings("register", (0, 100.0), (421, 108.0)))).all()


@pytest.mark.parametrize(
    ("minutes", "flags"),
    [
        ((0, 60, 120), [Flag(0), Flag(0)]),  # at every border
        ((0, 120), [Flag.INTERPOLATED, Flag.INTERPOLATED]),  # at one border is not enough
        ((0, 90, 120), [Flag.INTERPOLATED, Flag(0)]),
        ((-5, 55, 115, 175), [Flag(0), Flag(0)]),  # inside, whatever the borders
        ((-1, 121), [Flag.INTERPOLATED, Flag.INTERPOLATED]),
    ],
)
def test_an_hour_between_two_registers_is_interpolated(minutes: tuple[int, ...], flags: list[Flag]) -> None:
    assert _flags(_readings("register", *((minute, minute / 60) for minute in minutes)), 2) == flags


def test_a_register_that_decreases_begins_a_new_cycle_and_is_never_a_negative_load() -> None:
    reset = _readings("register", (0, 100.0), (60, 101.0), (120, 0.5), (180, 2.5))
    for limits in (UNLIMITED, FIVE_DIGITS):
        assert _loads(reset, limits=limits) == pytest.approx([1.0, NAN, 2.0], nan_ok=True)
        assert _flags(reset, limits=limits) == [Flag(0), Flag.GAP, Flag(0)]


def test_a_register_rolls_over_at_its_declared_maximum_only() -> None:
    over = _readings("register", (0, 99_997.0), (60, 99_999.0), (120, 2.0), (180, 3.0))
    assert _loads(over, limits=FIVE_DIGITS) == [2.0, 3.0, 1.0]
    assert _loads(over) == pytest.approx([2.0, NAN, 1.0], nan_ok=True)


@pytest.mark.parametrize(
    ("before", "after", "rolls"),
    [(90.0, 10.0, True), (89.9, 10.0, False), (90.0, 10.1, False), (100.1, 0.0, False), (95.0, -0.1, False)],
)
def test_a_decrease_is_a_rollover_only_between_the_ends_of_the_range(before: float, after: float, rolls: bool) -> None:
    load = _loads(_readings("register", (0, before), (60, after)), 1, MeterLimits(register_max_kwh=100.0))
    assert np.isfinite(load).all() == rolls


def test_a_meter_exchanged_for_one_that_stands_higher_is_found_by_the_plausible_range() -> None:
    exchanged = _readings("register", (0, 100.0), (60, 101.0), (120, 54_000.0), (180, 54_001.0))
    limits = MeterLimits(max_kw=20.0)
    assert _loads(exchanged, limits=limits) == pytest.approx([1.0, NAN, 1.0], nan_ok=True)
    assert _flags(exchanged, limits=limits) == [Flag(0), Flag.IMPLAUSIBLE | Flag.GAP, Flag(0)]


def test_an_implausible_rollover_is_no_load() -> None:
    limits = MeterLimits(register_max_kwh=100_000.0, max_kw=20.0)
    assert np.isnan(_loads(_readings("register", (0, 95_000.0), (60, 100.0)), 1, limits)).all()


def test_an_implausible_power_costs_the_interval_its_segment() -> None:
    spike = _readings("power", (0, 1.0), (30, 900.0), (45, 2.0), (60, 3.0), (80, -900.0), (120, 1.0))
    limits = MeterLimits(min_kw=0.0, max_kw=20.0)
    made = _made(spike, 3, limits)
    assert made.load_kw.tolist() == pytest.approx([4 / 3, NAN, 1.0], nan_ok=True)
    assert made.completeness.tolist() == pytest.approx([0.75, 1 / 3, 1.0])
    assert _flags(spike, 3, limits) == [Flag.IMPLAUSIBLE | Flag.GAP, Flag.IMPLAUSIBLE | Flag.GAP, Flag(0)]


def test_implausible_energy_is_judged_by_its_load() -> None:
    energy = _readings("energy", (0, 5.0), (15, 1.0), (30, 1.0), (45, 1.0), period_min=15)
    assert _loads(energy, 1, MeterLimits(max_kw=4.0)) == [4.0]
    assert _loads(energy, 1, MeterLimits(max_kw=20.0)) == [8.0]


def test_the_limits_themselves_are_plausible() -> None:
    assert _loads(_readings("power", (0, -1.0), (60, 5.0)), 2, MeterLimits(min_kw=-1.0, max_kw=5.0)) == [-1.0, 5.0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_meter_can_carry_is_implausible_without_any_limit(kind: Kind) -> None:
    readings = _readings(kind, (0, 0.0), (60, 2 * MOST_KW), (120, 1e308), period_min=60)
    made = _made(readings)
    assert np.nanmax(np.abs(made.load_kw), initial=0.0) <= MOST_KW
    assert (made.flags & Flag.IMPLAUSIBLE.value).any()


def test_the_kind_that_covers_more_makes_the_interval_and_the_other_leaves_only_its_warning() -> None:
    readings = _mixed((0, 900.0, "power", 0), (30, 1.5, "energy", 30), (60, 3.0, "power", 0), (90, 1.0, "energy", 15))
    made = _made(readings, 2, MeterLimits(max_kw=20.0))
    assert made.load_kw.tolist() == [3.0, 3.0]
    assert [Flag(int(flags)) for flags in made.flags] == [Flag.IMPLAUSIBLE | Flag.GAP, Flag(0)]


def test_without_readings_every_interval_is_a_gap() -> None:
    assert _flags(_readings("power"), 2) == [Flag.GAP, Flag.GAP]
    assert intervals_of_many([], RULES) == []


def test_export_is_negative() -> None:
    assert _loads(_readings("energy", (0, -2.0), period_min=60), 1) == [-2.0]


def test_flags_are_named_in_lower_case() -> None:
    assert flag_names(Flag.GAP | Flag.STUCK) == ["gap", "stuck"]
    assert flag_names(255) == ["gap", "held", "interpolated", "implausible", "stuck"]
    assert flag_names(0) == []


@pytest.mark.parametrize(
    ("unit", "factor"), [("W", 1e-3), ("kW", 1), ("MW", 1e3), ("Wh", 1e-3), ("kWh", 1), ("MWh", 1e3)]
)
def test_units_become_kilo(unit: str, factor: float) -> None:
    assert UNITS[unit].to_kilo == factor


@pytest.mark.parametrize("step_min", [15, 30])
def test_an_hour_is_the_mean_of_its_shorter_steps(step_min: int) -> None:
    readings = _readings("power", *((minute, float(minute % 7)) for minute in range(0, 180, 5)))
    fine = intervals(readings, 0, 180 // step_min, GridRules(step_min * MINUTE_US, HOUR_US, HOUR_US))
    assert fine.load_kw.reshape(3, -1).mean(axis=1).tolist() == pytest.approx(_loads(readings))


kinds = st.sampled_from(KINDS)
rows = st.lists(
    st.tuples(st.integers(0, 600), st.floats(-50, 50), kinds, st.integers(1, 120)),
    max_size=30,
    unique_by=lambda r: r[0],
).map(sorted)
limits = st.builds(
    MeterLimits,
    register_max_kwh=st.none() | st.floats(1, 50),
    min_kw=st.none() | st.floats(-50, 0),
    max_kw=st.none() | st.floats(0, 50),
)
spans = st.builds(
    lambda rows, first, count, limits: Span(_mixed(*rows), first * HOUR_US, count, limits),
    rows,
    st.integers(-1, 9),
    st.integers(0, 10),
    limits,
)


@given(st.lists(spans, max_size=8))
def test_a_meters_intervals_are_the_same_bits_alone_or_among_other_meters(many: list[Span]) -> None:
    for span, made in zip(many, intervals_of_many(many, RULES), strict=True):
        _assert_same_bits(made, intervals(span.readings, span.first_us, span.count, RULES, span.limits))


@given(rows, limits, st.integers(0, 9), st.integers(1, 10))
def test_an_interval_is_the_same_bits_alone_or_among_other_intervals(
    rows: list[tuple[int, float, Kind, int]], limits: MeterLimits, first: int, count: int
) -> None:
    together = intervals(_mixed(*rows), 0, 20, RULES, limits)
    part = slice(first, first + count)
    same = Intervals(together.load_kw[part], together.completeness[part], together.flags[part])
    _assert_same_bits(same, intervals(_mixed(*rows), first * HOUR_US, count, RULES, limits))


@given(rows, limits, st.integers(0, 9))
def test_an_interval_knows_no_reading_whose_segment_does_not_touch_it(
    rows: list[tuple[int, float, Kind, int]], limits: MeterLimits, hour: int
) -> None:
    rules = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=2 * HOUR_US)
    near = [row for row in rows if 60 * hour - 120 <= row[0] <= 60 * hour + 180]
    _assert_same_bits(
        intervals(_mixed(*near), hour * HOUR_US, 1, rules, limits),
        intervals(_mixed(*rows), hour * HOUR_US, 1, rules, limits),
    )


def test_loads_without_limits_are_at_hand_alone() -> None:
    readings = _readings("power", (0, 1.0), (15, 5.0), (60, 7.0))
    load_kw, completeness = interval_loads(readings, 0, 2, RULES)
    assert (load_kw.tolist(), completeness.tolist()) == ([4.0, 7.0], [1.0, 1.0])


@pytest.mark.parametrize("load", [0.0, 0.3, -2.0, 1234.5])
@pytest.mark.parametrize("steps_per_day", [24, 48, 96])
def test_a_load_is_stuck_from_its_24th_hour_on(load: float, steps_per_day: int) -> None:
    stuck = stuck_steps(np.append(load + 1.0, np.full(steps_per_day + 3, load)), steps_per_day)
    assert np.flatnonzero(stuck).tolist() == [steps_per_day, *range(steps_per_day + 1, steps_per_day + 4)]


def test_a_missing_interval_ends_a_run_and_is_not_stuck_itself() -> None:
    load = np.full(60, 1.0)
    load[30] = np.nan
    assert np.flatnonzero(stuck_steps(load, 24)).tolist() == [*range(23, 30), *range(54, 60)]
    assert not stuck_steps(np.full(60, np.nan), 24).any()


def test_the_smallest_step_a_fine_meter_resolves_is_a_move() -> None:
    load = np.full(48, 100.0)
    load[20] += 100.0 * 1e-5
    assert not stuck_steps(load, 24)[:44].any()


def test_a_small_load_of_a_register_that_stands_high_is_judged_by_the_load() -> None:
    register = 999_999.0 + np.arange(49) * 0.05
    loads = intervals(
        _readings("register", *((60 * hour, value) for hour, value in enumerate(register))), 0, 48, RULES
    ).load_kw
    assert len(set(loads.tolist())) > 1, "the differences are not the same bits"
    assert stuck_steps(loads, 24)[23:].all()


@given(st.floats(1e-6, 1e9), st.lists(st.integers(-2, 2), min_size=48, max_size=48))
def test_float32_and_float64_are_judged_alike_and_last_bits_are_no_move(load: float, ulps: list[int]) -> None:
    loads = load + np.array(ulps) * np.spacing(load)
    assert stuck_steps(loads, 24)[23:].all()
    assert stuck_steps(loads.astype(np.float32), 24).tolist() == stuck_steps(loads, 24).tolist()


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, NAN]), min_size=1, max_size=40), st.integers(1, 5))
def test_streaming_sees_the_same_steps_stuck_as_batch(loads: list[float], steps_per_day: int) -> None:
    matrix = np.array([loads, loads[::-1]])
    batch = stuck_steps(matrix, steps_per_day)
    for step in range(steps_per_day - 1, len(loads)):
        last_day = matrix[:, step - steps_per_day + 1 : step + 1]
        assert stuck_steps(last_day, steps_per_day)[:, -1].tolist() == batch[:, step].tolist()
    assert not batch[:, : steps_per_day - 1].any()
