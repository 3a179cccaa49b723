"""How long a deviation lasts, and what is left of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.persistence import MAX_PERSISTENCE, carried, decay, persistence


def _autoregression(phi: float, count: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = np.zeros(count)
    for i, shock in enumerate(rng.normal(size=count - 1), start=1):
        values[i] = phi * values[i - 1] + shock
    return values


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_coefficient_of_an_autoregression_is_found(phi: float) -> None:
    assert persistence(_autoregression(phi)[None], 1)[0] == pytest.approx(phi, abs=0.03)


def test_the_coefficient_is_found_between_gaps() -> None:
    values = _autoregression(0.8)
    values[np.random.default_rng(1).random(len(values)) < 0.3] = np.nan
    assert persistence(values[None], 1)[0] == pytest.approx(0.8, abs=0.03)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([1, 4, 24]), share=st.floats(0, 1))
def test_persistence_is_within_its_bounds_or_unknown(seed: int, steps: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    deviations = np.cumsum(rng.normal(size=(3, 100)), axis=1)
    deviations[rng.random(deviations.shape) < share] = np.nan
    found = persistence(deviations, steps)
    assert ((np.isnan(found)) | ((found >= 0) & (found <= MAX_PERSISTENCE))).all()


def test_of_nothing_or_of_rounding_alone_persistence_is_unknown() -> None:
    nothing, rounding = np.full(50, np.nan), np.tile([1e-16, -1e-16], 25)
    assert np.isnan(persistence(np.stack([nothing, rounding, np.zeros(50)]), 1)).all()


@pytest.mark.parametrize("steps_per_hour", [1, 2, 4])
def test_decay_is_a_power_of_the_lead_in_hours(steps_per_hour: int) -> None:
    leads = np.array([1, 2, 5, 48]) * steps_per_hour
    assert np.allclose(decay(np.array([0.8]), leads, steps_per_hour), 0.8 ** np.array([[1, 2, 5, 48]]))


def test_rows_with_leads_of_their_own_decay_like_rows_with_shared_ones() -> None:
    per_hour, leads = np.array([0.9, 0.4, np.nan]), np.array([[1, 7], [3, 2], [5, 6]])
    shared = decay(per_hour, np.arange(1, 8), 1)
    assert np.array_equal(decay(per_hour, leads, 1), np.take_along_axis(shared, leads - 1, axis=1))
    assert np.array_equal(decay(np.array([0.5]), leads, 1), 0.5**leads)


def test_nothing_is_left_of_a_deviation_that_is_not_known() -> None:
    left = carried(np.array([np.nan, 2.0, 2.0]), decay(np.array([0.5, np.nan, 0.5]), np.array([1, 2]), 1))
    assert left.tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 0.5]]
