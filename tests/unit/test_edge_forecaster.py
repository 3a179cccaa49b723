"""Forecasting many meters at once: the company a meter is in changes nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge import starter
from edge.forecaster import RUNGS, Lineup, Plan, forecast
from shared.calendars import Calendar

ORIGIN_US = 1_767_571_200_000_000
PLAN = Plan(step_s=3600, horizon_steps=48, quantiles=(0.1, 0.5, 0.9), calendar=Calendar(), min_history_steps=72)
HOURS = 30 * 24


def _windows(meters: int) -> NDArray[np.float32]:
    """Meters of very different variation, in no order, some with holes and one without history."""
    rng = np.random.default_rng(3)
    shape = 2 + np.sin(np.arange(HOURS) / 24 * 2 * np.pi)
    noise = rng.gamma(1, 1, (meters, HOURS)) * rng.choice([0.01, 0.3, 2.0], meters)[:, None]
    windows: NDArray[np.float32] = ((shape + noise) * rng.choice([0.1, 1, 50], meters)[:, None]).astype(np.float32)
    windows[::5, -30:-6] = np.nan
    windows[3] = np.nan
    windows[4] = 0
    return windows


def test_a_meter_is_forecast_to_the_bit_as_if_it_were_alone() -> None:
    champion = starter.load(step_s=3600).model
    windows = _windows(40)
    together = forecast(windows, ORIGIN_US, PLAN, Lineup(champion, champion))
    for row in range(len(windows)):
        alone = forecast(windows[row : row + 1], ORIGIN_US, PLAN, Lineup(champion))
        np.testing.assert_array_equal(alone.load_kw[0], together.load_kw[row])
        assert (alone.rung[0], alone.reasons[0]) == (together.rung[row], together.reasons[row])
        if alone.rung[0] == 0:
            assert together.shadow_kw is not None
            np.testing.assert_array_equal(alone.load_kw[0], together.shadow_kw[row])


def test_history_begins_when_a_meter_came_into_use_and_decides_on_the_rung() -> None:
    windows = np.repeat(_windows(8)[1:3], 2, axis=0)
    windows[0, :-96] = 0  # four days of use
    windows[1, :-48] = 0
    windows[2, :-96] = np.nan  # the same, never seen before
    windows[3, :-48] = np.nan
    made = forecast(windows, ORIGIN_US, PLAN, Lineup(starter.load(step_s=3600).model))
    assert made.history_steps.tolist() == [96, 48, 96, 48]
    assert [RUNGS[code] for code in made.rung] == ["champion", "profile_mean"] * 2
    assert "less than 72 h of history" in made.reasons[1]
