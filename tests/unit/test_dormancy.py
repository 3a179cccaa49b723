"""What counts as a meter's use, and what lies before it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared import dormancy
from shared.dormancy import known_in_use

DAYS = 30
SUN = np.maximum(0.0, np.sin((np.arange(24) - 6) * np.pi / 12))


def _window(*daily_kw: float) -> NDArray[np.float32]:
    """A window [1, 720] of days of sunshine, of which these are the last, and zeros before."""
    peaks = np.zeros(DAYS)
    peaks[DAYS - len(daily_kw) :] = daily_kw
    return (peaks[:, None] * SUN).reshape(1, -1).astype(np.float32)


def _dormant_hours(window: NDArray[np.float32]) -> int:
    used = known_in_use(window, 24)[0]
    assert (used == np.logical_or.accumulate(used)).all()
    return int((~used).sum())


def _dormant_days(window: NDArray[np.float32]) -> int:
    """Days up to the first morning; the sun is up from seven."""
    hours = _dormant_hours(window)
    assert hours % 24 == (7 if hours else 0)
    return hours // 24


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
    assert _dormant_days(_window(5.0, 4.0, 4.0)) == 27
    by_seven = np.concatenate([np.zeros((1, 17), np.float32), _window(5.0, 4.0, 4.0)[:, :-17]], axis=1)
    assert _dormant_hours(by_seven) == 17 + 27 * 24 + 7  # two days to the hour
    assert _dormant_hours(np.concatenate([np.zeros((1, 1), np.float32), by_seven[:, :-1]], axis=1)) == 0
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


@pytest.mark.parametrize("hours_since", range(25, 72))
def test_a_test_of_a_whole_day_is_no_use_whenever_it_was(hours_since: int) -> None:
    window = np.zeros((1, 720), np.float32)
    window[0, 720 - hours_since :][:24] = 3.0
    assert known_in_use(window, 24).all()


@pytest.mark.parametrize("days", [(5.0, 5.0, 0.0), (5.0, 0.0, 0.0, 0.0), (0.3, 5.0, 0.3)])
def test_the_verdict_is_the_same_at_every_hour_of_the_day(days: tuple[float, ...]) -> None:
    # with days that end at the window's end, the first is awake on 2 days of 3 at midnight, on all of them at noon
    load = np.concatenate([_window(*days * 4)[0]] + [_window(*days)[0, -24 * len(days) :]] * 2)
    windows = np.lib.stride_tricks.sliding_window_view(load, 24 * DAYS)
    verdicts = {bool(known_in_use(window[None], 24).all()) for window in windows}
    assert len(verdicts) == 1


def test_the_closer_look_is_given_to_every_window_that_needs_it() -> None:
    rng = np.random.default_rng(5)
    peaks = np.where(np.arange(36) < rng.integers(6, 36, (200, 1)), rng.choice([0.0, 0.2], (200, 36)), 5.0)
    loads = ((peaks * rng.random(peaks.shape))[:, :, None] * SUN).reshape(200, -1)
    for first in range(0, 145, 29):
        windows = loads[:, first : first + 24 * DAYS]
        size, known = np.abs(windows), np.isfinite(windows)
        assert np.array_equal(known_in_use(windows, 24), dormancy._since_use(size, known, 24))


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
