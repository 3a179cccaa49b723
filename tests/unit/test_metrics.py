"""Measures against numbers computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import metrics


def test_mase_is_mae_over_the_scale_and_nan_over_nothing() -> None:
    actual, median = np.array([[1.0, 2.0], [1.0, np.nan]]), np.array([[2.0, 4.0], [1.5, 9.0]])
    assert metrics.mase(actual, median, np.array([3.0, 2.0])).tolist() == [0.5, 0.25]
    assert math.isnan(metrics.mase(actual, median, np.array([3.0, 0.0]))[1])


def test_smape_counts_zero_over_zero_as_zero() -> None:
    assert metrics.smape(np.array([0.0, 1.0]), np.array([0.0, 3.0])) == 50.0  # (0 + 200·2/4)/2


def test_wape_is_absolute_error_over_absolute_load() -> None:
    assert metrics.wape(np.array([-1.0, 3.0, np.nan]), np.array([0.0, 2.0, 5.0])) == 0.5


def test_pinball_weighs_a_miss_from_below_by_the_quantile() -> None:
    assert metrics.pinball(np.array([3.0, 1.0]), np.array([1.0, 3.0]), 0.9).tolist() == pytest.approx([1.8, 0.2])


def test_wql_of_equal_quantiles_is_wape() -> None:
    actual = np.array([1.0, 2.0, 5.0])
    forecast = np.full((3, 3), 2.0)
    assert metrics.wql(actual, forecast, (0.1, 0.5, 0.9)) == pytest.approx(metrics.wape(actual, forecast[:, 1]))


def test_wql_of_modelled_deciles_is_the_mean_of_their_losses() -> None:
    actual, forecast = np.array([2.0]), np.arange(1.0, 10.0)[None, :]
    by_hand = [
        2 * max(q * (2.0 - f), (q - 1) * (2.0 - f)) / 2.0 for q, f in zip(metrics.DECILES, range(1, 10), strict=True)
    ]
    assert metrics.wql(actual, forecast, metrics.DECILES) == pytest.approx(sum(by_hand) / 9)


def test_quantiles_of_a_normal_are_met_by_interpolation_in_normal_score_space() -> None:
    # .1 and .9 of a standard normal are ∓1.2816, .25 is −.6745
    wanted = metrics.at_quantiles(np.array([[-1.2815515655446004, 0.0, 1.2815515655446004]]), (0.1, 0.5, 0.9), (0.25,))
    assert wanted[0, 0] == pytest.approx(-0.6744897501960817)


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_modelled_quantiles_come_back_exactly(values: list[float]) -> None:
    forecast = np.sort(np.array([values]))
    assert metrics.at_quantiles(forecast, (0.1, 0.5, 0.9), (0.1, 0.5, 0.9)).tolist() == forecast.tolist()


def test_coverage_counts_the_bounds_as_inside_and_missing_truth_nowhere() -> None:
    actual = np.array([1.0, 2.0, 3.0, np.nan])
    assert metrics.coverage(actual, np.full(4, 1.0), np.full(4, 2.0)) == pytest.approx(2 / 3)


def test_width_is_relative_to_the_load() -> None:
    assert metrics.width(np.array([1.0, -3.0]), np.array([0.0, 0.0]), np.array([1.0, 3.0])) == 1.0


def test_the_peak_hour_error_is_in_hours_and_of_whole_days() -> None:
    actual = np.array([[0.0, 5.0, 1.0, 2.0], [9.0, 0.0, 0.0, np.nan]])
    median = np.array([[0.0, 1.0, 1.0, 7.0], [0.0, 0.0, 0.0, 9.0]])
    assert metrics.peak_hour_error(actual, median, step_s=1800) == 1.0
