"""What counts as a meter's use, and what lies before it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.dormancy import known_in_use

DAYS = 30
SUN = np.maximum(0.0, np.sin((np.arange(24) - 6) * np.pi / 12))


def _window(*daily_kw: float) -> NDArray[np.float32]:
    """A window [1, 720] of days of sunshine, of which these are the last, and zeros before."""
    peaks = np.zeros(DAYS)
    peaks[DAYS - len(daily_kw) :] = daily_kw
    return (peaks[:, None] * SUN).reshape(1, -1).astype(np.float32)


def _dormant_days(window: NDArray[np.float32]) -> int:
    used = known_in_use(window, 24)[0].reshape(DAYS, 24)
    assert (used.all(axis=1) | ~used.any(axis=1)).all()
    return int((~used.all(axis=1)).sum())


def test_what_a_plant_showed_before_it_was_connected_is_not_its_use() -> None:
    assert _dormant_days(_window(*[5.0] * 8)) == 22
    assert _dormant_days(-_window(*[5.0] * 8)) == 22  # feed-in is use as well


def test_a_standby_load_or_a_test_of_an_hour_is_no_use_yet() -> None:
    window = _window(*[5.0] * 8)
    window[0, : 22 * 24] += 0.01
    window[0, 300] += 1.0
    assert _dormant_days(window) == 22


@pytest.mark.parametrize(("in_it", "why"), [(24, "six days of rest may be a holiday"), (1, "one day may be a test")])
def test_too_little_of_either_is_kept_whole(in_it: int, why: str) -> None:
    assert _dormant_days(_window(*[5.0] * in_it)) == 0, why


def test_two_days_of_use_after_a_week_of_nothing_are_enough() -> None:
    assert _dormant_days(_window(5.0, 4.0)) == 28
    assert _dormant_days(_window(*[5.0] * 23)) == 7


def test_a_meter_that_rests_every_now_and_then_keeps_its_rest() -> None:
    weekends = [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 5.0] * 3
    assert _dormant_days(_window(*weekends)) == 0


def test_a_day_of_snow_since_the_beginning_is_no_new_beginning() -> None:
    assert _dormant_days(_window(5.0, 4.0, 0.0, 5.0, 5.0, 5.0)) == 24


def test_a_meter_at_zero_throughout_is_in_use() -> None:
    assert _dormant_days(_window()) == 0


def test_missing_days_are_no_evidence_of_rest() -> None:
    window = _window(*[5.0] * 8)
    window[0, : 16 * 24] = np.nan  # six days of zeros are left
    assert np.array_equal(known_in_use(window, 24), np.isfinite(window))


def test_shorter_steps_tell_the_same_days() -> None:
    hourly = _window(*[5.0] * 8)
    fine = known_in_use(np.repeat(hourly, 4, axis=1), 96)
    assert np.array_equal(fine, np.repeat(known_in_use(hourly, 24), 4, axis=1))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), awake=st.floats(0, 1), missing=st.sampled_from([0.0, 0.3]), rest=st.integers(0, 29)
)
def test_what_is_cut_off_is_a_beginning_and_is_cut_off_once(seed: int, awake: float, missing: float, rest: int) -> None:
    rng = np.random.default_rng(seed)
    windows = (np.repeat(rng.random((5, DAYS)) < awake, 24, axis=1) * rng.gamma(1.0, size=(5, 720))).astype(np.float32)
    windows[:, : 24 * rest] = 0.0
    windows[rng.random(windows.shape) < missing] = np.nan
    known, there = known_in_use(windows, 24), np.isfinite(windows)
    cut = there & ~known
    ends = np.where(cut.any(axis=1), 720 - cut[:, ::-1].argmax(axis=1), 0)
    assert not (known & (np.arange(720) < ends[:, None])).any()
    assert np.array_equal(known_in_use(np.where(known, windows, np.float32(np.nan)), 24), known)
    alone = np.concatenate([known_in_use(windows[row : row + 1], 24) for row in range(5)])
    assert np.array_equal(alone, known)
    assert (known.any(axis=1) == there.any(axis=1)).all()
