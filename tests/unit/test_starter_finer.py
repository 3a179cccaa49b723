"""The starter at steps of 15 and 30 min: hours in, steps out, and the edge's ladder with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge import starter
from edge.forecaster import RUNGS, Lineup, Plan, forecast
from edge.starter.finer import hour_of, hours_of, steps_of
from shared.calendars import Calendar
from shared.clock import HOUR_US
from shared.errors import ModelRefused

ORIGIN_US = 1_767_571_200_000_000
ORIGINS_US = np.array([ORIGIN_US])
CALENDAR = Calendar("Europe/London", "GB")


def _windows(per_hour: int, *, days: int = 30, dip: bool = False, seed: int = 1) -> NDArray[np.float32]:
    """One meter of so many days at steps of 1/`per_hour`; with a `dip` each hour begins low and ends as much higher."""
    steps = np.arange(720 * per_hour)
    load = 3 + np.sin(steps / (24 * per_hour) * 2 * np.pi) + np.random.default_rng(seed).normal(0, 0.1, len(steps))
    load += dip * (steps % per_hour - (per_hour - 1) / 2)
    load[: len(load) - days * 24 * per_hour] = np.nan
    return load[None].astype(np.float32)


def _plan(per_hour: int, horizon_steps: int) -> Plan:
    return Plan(3600 // per_hour, horizon_steps, (0.1, 0.5, 0.9), CALENDAR, min_history_steps=72 * per_hour)


@pytest.mark.parametrize("per_hour", [2, 4])
@pytest.mark.parametrize("late_steps", [0, 1])
def test_a_finer_site_is_served_by_the_starter_at_every_origin(per_hour: int, late_steps: int) -> None:
    lineup = Lineup(starter=starter.load(step_s=3600 // per_hour))
    origin_us = ORIGIN_US + late_steps * HOUR_US // per_hour
    made = forecast(_windows(per_hour, days=8), origin_us, _plan(per_hour, 48 * per_hour), lineup)
    assert RUNGS[made.rung[0]] == "starter"
    assert made.load_kw.shape == (1, 48 * per_hour, 3)
    assert np.isfinite(made.load_kw).all()
    assert (np.diff(made.load_kw, axis=2) >= 0).all()
    short = forecast(_windows(per_hour, days=6), origin_us, _plan(per_hour, 48 * per_hour), lineup)
    assert RUNGS[short.rung[0]] == "profile_mean"


@pytest.mark.parametrize("per_hour", [2, 4])
def test_the_mean_of_an_hours_steps_is_what_is_said_of_the_hour(per_hour: int) -> None:
    windows = _windows(per_hour)
    fine = starter.load(step_s=3600 // per_hour)
    said = {"horizon_steps": 48, "quantiles": (0.1, 0.5, 0.9), "calendar": CALENDAR}
    hourly = starter.load(step_s=3600).forecast(hours_of(windows, per_hour), ORIGIN_US, **said)  # type: ignore[arg-type]
    steps = fine.forecast(windows, ORIGIN_US, **said | {"horizon_steps": 48 * per_hour})  # type: ignore[arg-type]
    np.testing.assert_allclose(steps.reshape(48, per_hour, 3).mean(axis=1), hourly[0], rtol=1e-6)


def test_steps_lean_towards_what_the_meter_does_within_its_hours() -> None:
    hours_kw = np.full((1, 48, 3), 3.0)
    plain, dipped = (
        steps_of(hours_kw, _windows(4, dip=dip), ORIGINS_US, calendar=CALENDAR, per_hour=4)[0, :, 1].reshape(48, 4)
        for dip in (False, True)
    )
    np.testing.assert_allclose(dipped - plain, np.tile([-0.75, -0.25, 0.25, 0.75], (48, 1)), atol=1e-3)


def test_zeros_from_before_a_meter_came_into_use_say_nothing_of_its_hours() -> None:
    new = _windows(4, days=10, dip=True)
    said, of_zeros_too = (
        steps_of(np.full((1, 48, 3), 3.0), windows, ORIGINS_US, calendar=CALENDAR, per_hour=4)
        for windows in (new, np.nan_to_num(new))
    )
    np.testing.assert_array_equal(of_zeros_too, said)


def test_a_horizon_may_end_within_an_hour() -> None:
    fine, windows = starter.load(step_s=900), _windows(4)
    whole, cut = (
        fine.forecast(windows, ORIGIN_US, horizon_steps=steps, quantiles=(0.5,), calendar=CALENDAR) for steps in (8, 5)
    )
    assert cut.shape == (1, 5, 1)
    np.testing.assert_array_equal(cut, whole[:, :5])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 4]), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_an_hour_is_the_mean_of_what_is_there_of_it_from_half_on(per_hour: int, lost: float, seed: int) -> None:
    windows, rng = _windows(per_hour, seed=seed % 7), np.random.default_rng(seed)
    windows[0, rng.random(windows.shape[1]) < lost] = np.nan
    hours = hours_of(windows, per_hour)
    assert hours.shape == (1, 720)
    assert hours.dtype == np.float32
    for hour, steps in zip(hours[0, -100:], windows[0, -100 * per_hour :].reshape(100, per_hour), strict=True):
        known = steps[np.isfinite(steps)]
        if len(known) >= per_hour / 2:
            assert hour == pytest.approx(known.mean(), rel=1e-6)
        else:
            assert np.isnan(hour)


def test_the_calendar_of_an_origin_is_that_of_its_hour() -> None:
    origins_us = ORIGIN_US + np.arange(12) * HOUR_US // 4
    assert ((hour_of(origins_us) - ORIGIN_US) // HOUR_US).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not (hour_of(origins_us) % HOUR_US).any()


def test_what_never_exported_is_not_forecast_below_zero() -> None:
    windows = np.abs(_windows(4) - 3).astype(np.float32)
    steps = steps_of(np.zeros((1, 48, 3)), windows, ORIGINS_US, calendar=CALENDAR, per_hour=4)
    assert steps.min() == 0


@pytest.mark.parametrize("step_s", [7200, 2700])
def test_a_step_that_does_not_divide_the_hour_is_refused(step_s: int) -> None:
    with pytest.raises(ModelRefused, match=f"step_s is 3600, this edge forecasts {step_s}"):
        starter.load(step_s=step_s)
