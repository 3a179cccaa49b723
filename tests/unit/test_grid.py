"""Readings become intervals: three kinds, gaps, resets, and no dependence on order or company."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.grid import KINDS, UNITS, GridRules, Kind, MeterReadings, interval_loads

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)


def _readings(kind: Kind, *rows: tuple[float, float], period_min: float = 0) -> MeterReadings:
    """(minute, value) rows of one kind."""
    return MeterReadings(
        np.array([round(minute * MINUTE_US) for minute, _ in rows], dtype=np.int64),
        np.array([value for _, value in rows], dtype=np.float64),
        np.full(len(rows), round(period_min * MINUTE_US), dtype=np.int64),
        np.full(len(rows), KINDS.index(kind), dtype=np.int8),
    )


def _loads(readings: MeterReadings, hours: int = 3) -> list[float]:
    return [float(load) for load in interval_loads(readings, 0, hours, RULES)[0]]


def test_half_hours_of_energy_add_up_to_an_hour() -> None:
    energy = _readings("energy", (0, 0.5), (30, 1.5), (60, 2.0), (90, 2.0), period_min=30)
    assert _loads(energy, 2) == [2.0, 4.0]


def test_an_hour_with_half_its_energy_is_scaled_and_with_less_is_missing() -> None:
    half = _readings("energy", (0, 0.5), period_min=30)
    quarter = _readings("energy", (0, 0.5), period_min=15)
    assert _loads(half, 1) == [1.0]
    assert np.isnan(_loads(quarter, 1)).all()


def test_energy_over_several_hours_is_spread_over_them() -> None:
    assert _loads(_readings("energy", (0, 6.0), period_min=120)) == pytest.approx([3.0, 3.0, np.nan], nan_ok=True)


def test_power_is_weighted_by_time_and_held() -> None:
    assert _loads(_readings("power", (0, 1.0), (15, 5.0), (60, 7.0)), 2) == [4.0, 7.0]


def test_power_holds_no_longer_than_the_limit() -> None:
    loads, completeness = interval_loads(_readings("power", (20, 6.0)), 0, 2, RULES)
    assert loads[0] == 6.0
    assert completeness.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(loads[1])


def test_a_register_gives_differences_over_gaps_up_to_the_limit() -> None:
    assert _loads(_readings("register", (0, 100.0), (60, 102.0), (180, 108.0))) == [2.0, 3.0, 3.0]
    assert np.isnan(_loads(_readings("register", (0, 100.0), (421, 108.0)))).all()


def test_a_register_that_decreases_begins_a_new_cycle_and_is_never_a_negative_load() -> None:
    loads = _loads(_readings("register", (0, 100.0), (60, 101.0), (120, 0.5), (180, 2.5)))
    assert loads == pytest.approx([1.0, np.nan, 2.0], nan_ok=True)


def test_export_is_negative() -> None:
    assert _loads(_readings("energy", (0, -2.0), period_min=60), 1) == [-2.0]


@pytest.mark.parametrize(
    ("unit", "factor"), [("W", 1e-3), ("kW", 1), ("MW", 1e3), ("Wh", 1e-3), ("kWh", 1), ("MWh", 1e3)]
)
def test_units_become_kilo(unit: str, factor: float) -> None:
    assert UNITS[unit].to_kilo == factor


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 600), st.floats(-50, 50)), min_size=1, max_size=40, unique_by=lambda row: row[0]),
    st.integers(0, 9),
    st.integers(1, 10),
)
def test_an_interval_is_the_same_bits_alone_or_among_others(
    kind: Kind, rows: list[tuple[int, float]], first: int, count: int
) -> None:
    readings = _readings(kind, *sorted(rows), period_min=15 if kind == "energy" else 0)
    together, _ = interval_loads(readings, 0, 20, RULES)
    apart, _ = interval_loads(readings, first * HOUR_US, count, RULES)
    np.testing.assert_array_equal(together[first : first + count], apart)
