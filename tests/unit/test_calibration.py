"""Online calibration: what a state learns from truths, and what it does to a forecast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from shared.calibration import FACTOR_AT_MOST, STATE, States, calibrated, fresh, learned, log_factors

KNOTS = (1, 6, 24, 48)
LEADS = np.arange(1, 49, dtype=np.int64)
QUANTILES = (0.1, 0.3, 0.5, 0.9)
OUTER = (0.1, 0.9)
Z_90 = 1.2815515655446004

loads = st.floats(-1e4, 1e4, width=32)
forecasts = arrays(np.float64, (2, len(LEADS), len(QUANTILES)), elements=loads).map(lambda kw: np.sort(kw, axis=2))
any_states = arrays(np.float32, (2, len(KNOTS), STATE), elements=st.floats(-100, 100, width=32))


def moved(load_kw: NDArray[np.float64], states: States, floor_kw: float = -np.inf) -> NDArray[np.float64]:
    floors = np.full(len(load_kw), floor_kw)
    return calibrated(load_kw, states, leads=LEADS, knots=KNOTS, quantiles=QUANTILES, floor_kw=floors)


def tracked(truth: NDArray[np.float64], low: float, high: float, *, step_s: int = 3600) -> NDArray[np.bool_]:
    """Forecast 0 between low and high at lead 1, learn each of the truths [T, N], and tell which were covered."""
    states = fresh(truth.shape[1], 1)
    covered = np.zeros(truth.shape, dtype=bool)
    said = np.tile([low, 0.0, high], (truth.shape[1], 1, 1))
    floor_kw = np.full(truth.shape[1], -np.inf)
    for t, truths in enumerate(truth):
        issued = calibrated(said, states, leads=LEADS[:1], knots=(1,), quantiles=(0.1, 0.5, 0.9), floor_kw=floor_kw)
        covered[t] = (issued[:, 0, 0] <= truths) & (truths <= issued[:, 0, 2])
        states[:, 0] = learned(states[:, 0], truths, issued[:, 0], outer=OUTER, step_s=step_s)
    return covered


@given(forecasts)
def test_a_fresh_state_changes_nothing(load_kw: NDArray[np.float64]) -> None:
    assert np.array_equal(moved(load_kw, fresh(2, len(KNOTS))), load_kw)


@given(forecasts, any_states, st.sampled_from([0.0, -np.inf]))
def test_whatever_the_state_quantiles_ascend_above_the_floor(
    load_kw: NDArray[np.float64], states: States, floor_kw: float
) -> None:
    result = moved(load_kw, states, floor_kw)
    assert np.isfinite(result).all()
    assert (np.diff(result, axis=2) >= 0).all()
    assert (result >= floor_kw).all()


@given(forecasts, any_states)
def test_the_median_stays_and_widths_change_by_a_bounded_factor(load_kw: NDArray[np.float64], states: States) -> None:
    result = moved(load_kw, states)
    assert np.array_equal(result[..., 2], load_kw[..., 2])
    was, now = load_kw[..., 3] - load_kw[..., 2], result[..., 3] - result[..., 2]
    assert (now <= FACTOR_AT_MOST * was + 1e-6).all()
    assert (now >= was / FACTOR_AT_MOST - 1e-6).all()


@settings(max_examples=25)
@given(arrays(np.float64, (60, 3), elements=st.sampled_from([-1e9, 0.0, 1e9, np.nan])))
def test_factors_are_bounded_whatever_comes_true(truth: NDArray[np.float64]) -> None:
    states = fresh(3, 1)[:, 0]
    for truths in np.tile(truth, (12, 1)):
        states = learned(states, truths, np.tile([-1.0, 0.0, 1.0], (3, 1)), outer=OUTER)
    assert np.isfinite(states).all()
    assert (np.abs(log_factors(states)) <= np.log(FACTOR_AT_MOST)).all()
    assert (np.abs(states[:, :2]) <= np.log(FACTOR_AT_MOST) + 1e-6).all()


@given(any_states)
def test_a_truth_or_a_forecast_that_is_missing_changes_nothing(states: States) -> None:
    before = states[:, 0]
    issued, hole = np.tile([-1.0, 0.0, 1.0], (2, 1)), np.full((2, 3), np.nan)
    assert np.array_equal(learned(before, np.full(2, np.nan), issued, outer=OUTER), before)
    assert np.array_equal(learned(before, np.zeros(2), hole, outer=OUTER), before)


def test_a_truth_above_widens_above_and_narrows_below() -> None:
    below, above = log_factors(learned(fresh(1, 1)[:, 0], np.array([9.0]), np.array([[-1.0, 0.0, 1.0]]), outer=OUTER))[
        0
    ]
    assert above > 0 > below


def test_meters_learn_apart() -> None:
    states = learned(fresh(2, 1)[:, 0], np.array([9.0, 0.0]), np.tile([-1.0, 0.0, 1.0], (2, 1)), outer=OUTER)
    alone = learned(fresh(1, 1)[:, 0], np.array([0.0]), np.array([[-1.0, 0.0, 1.0]]), outer=OUTER)
    assert np.array_equal(states[1:], alone)


def test_leads_of_the_first_day_lie_between_scored_ones_and_the_second_runs_half_as_steeply_to_its_own() -> None:
    states = fresh(1, len(KNOTS))
    states[0, :, 1] = np.log([1.0, 2.0, 4.0, 3.0])
    width = moved(np.tile([-2.0, -1.0, 0.0, 1.0], (1, len(LEADS), 1)), states)[0, :, 3]
    assert width[[0, 5, 23, 47]] == pytest.approx([1.0, 2.0, 4.0, 3.0])
    assert width[11] == pytest.approx(np.exp(np.log(2.0) + 0.5 * np.log(2.0)))  # 12 h: half-way from 6 to 24, in log
    assert (np.diff(width[:24]) > 0).all()
    assert width[24:30] == pytest.approx(3.0 * np.sqrt(2.0 / 4.0))  # what an hour ahead needs says nothing of 25
    assert width[29:] == pytest.approx(3.0 * np.sqrt(width[5:24] / 4.0))


@pytest.mark.parametrize("knots", [(1,), (1, 6), (1, 6, 24), (4, 24, 96, 192)])
def test_whatever_leads_are_scored_they_keep_their_factors(knots: tuple[int, ...]) -> None:
    states = fresh(1, len(knots))
    states[0, :, 1] = np.log(2.0 + np.arange(len(knots)))
    leads = np.arange(1, knots[-1] + 1, dtype=np.int64)
    said = np.tile([-1.0, 0.0, 1.0], (1, len(leads), 1))
    floors = np.full(1, -np.inf)
    result = calibrated(said, states, leads=leads, knots=knots, quantiles=(0.1, 0.5, 0.9), floor_kw=floors)
    assert result[0, np.array(knots) - 1, 2] == pytest.approx(2.0 + np.arange(len(knots)))


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_in_the_long_run_four_of_five_truths_are_covered_whatever_the_model_says(spread: float) -> None:
    truth = spread * np.random.default_rng(3).normal(size=(10_000, 10))
    covered = tracked(truth, -Z_90, Z_90)
    assert covered[6000:].mean() == pytest.approx(0.8, abs=0.02)


def test_a_skewed_error_is_met_on_both_sides() -> None:
    truth = np.random.default_rng(4).gamma(1.0, 2.0, size=(10_000, 10)) - 1.0
    covered = tracked(truth, -0.5, 1.5)
    assert covered[6000:].mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("after", [0.75, 1.3])
def test_coverage_comes_back_within_two_weeks_of_a_change_that_the_model_half_follows(after: float) -> None:
    truth = np.random.default_rng(5).normal(size=(2600, 20))
    truth[1500:] *= after
    covered = tracked(truth, -Z_90, Z_90)
    assert abs(covered[1500 : 1500 + 48].mean() - 0.8) > 0.05  # the change was one
    assert covered[1500 + 14 * 24 : 1500 + 42 * 24].mean() == pytest.approx(0.8, abs=0.05)


def test_errors_that_last_for_days_are_covered_in_the_long_run() -> None:
    rng = np.random.default_rng(6)
    truth = np.zeros((6000, 10))
    for t in range(1, len(truth)):
        truth[t] = 0.97 * truth[t - 1] + 0.25 * rng.normal(size=10)
    covered = tracked(truth, -Z_90, Z_90)
    assert covered[1500:].mean() == pytest.approx(0.8, abs=0.02)


def test_four_truths_an_hour_teach_as_much_as_one() -> None:
    issued = np.array([[-1.0, 0.0, 1.0]])
    hourly = quarterly = fresh(1, 1)[:, 0]
    for hour in range(200):
        truth = np.array([5.0 if hour % 4 == 0 else 0.0])
        hourly = learned(hourly, truth, issued, outer=OUTER)
        for _ in range(4):
            quarterly = learned(quarterly, truth, issued, outer=OUTER, step_s=900)
    assert log_factors(quarterly) == pytest.approx(log_factors(hourly), abs=0.01)
    assert quarterly[0, -1] == pytest.approx(200)
