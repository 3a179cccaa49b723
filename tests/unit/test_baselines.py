"""The ladder below the model."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.baselines import (
    NO_HISTORY,
    RUNGS,
    fallback_forecast,
    profile_mean,
    seasonal_naive,
    seasonal_naive_forecast,
)
from shared.calendars import Calendar

LEADS = np.arange(1, 49, dtype=np.int64)
QUANTILES = (0.1, 0.5, 0.9)
MONDAY_US = 1_767_571_200_000_000  # 2026-01-05


def _fallback(windows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    origins_us = np.full(len(windows), MONDAY_US, dtype=np.int64)
    return fallback_forecast(windows, origins_us, LEADS, QUANTILES, calendar=Calendar())


def _weekly(rows: int = 1) -> NDArray[np.float32]:
    """A window whose value is the hour of the week, so that a season ahead is known by heart."""
    return np.tile(np.arange(720) % 168, (rows, 1)).astype(np.float32)


def test_seasonal_naive_repeats_the_week_before() -> None:
    assert seasonal_naive(_weekly(), LEADS)[0].tolist() == [(720 + lead - 1) % 168 for lead in range(1, 49)]


def test_seasonal_naive_of_a_day_uses_the_last_day_for_both_days_ahead() -> None:
    daily = seasonal_naive(_weekly(), LEADS, season_h=24)[0]
    assert daily[:24].tolist() == daily[24:].tolist() == _weekly()[0, -24:].tolist()


def test_a_missing_week_is_patched_from_the_week_before_it() -> None:
    window = _weekly()
    window[0, -168:] = np.nan
    assert seasonal_naive(window, LEADS)[0].tolist() == seasonal_naive(_weekly(), LEADS)[0].tolist()
    assert np.isnan(seasonal_naive(window, LEADS, patched=False)).all()


def test_each_rung_serves_when_the_one_above_has_nothing() -> None:
    windows = _weekly(5)
    windows[1, :-48] = np.nan  # two days of history
    windows[2, :-30] = np.nan  # a day and a quarter
    windows[3, :-2] = np.nan  # two hours
    windows[4] = np.nan
    kw, rungs = _fallback(windows)
    assert [RUNGS[rung] for rung in rungs[:4]] == ["seasonal_naive_168", "profile_mean", "seasonal_naive_24", "flat"]
    assert rungs[4] == NO_HISTORY
    assert np.isnan(kw[4]).all()
    assert kw[3, :, 1].tolist() == [float(windows[3, -2:].mean())] * 48


def test_the_profile_follows_the_type_of_day_and_weighs_recent_days_more() -> None:
    days = np.zeros((30, 24), dtype=np.float32)
    days[[5, 6, 12, 13, 19, 20, 26, 27], :] = 10.0  # weekends of a window that begins on a Monday
    tuesday_us = MONDAY_US - 5 * 86_400_000_000  # the window's last day is a Tuesday
    origins_us = np.array([tuesday_us, tuesday_us + 3 * 86_400_000_000])
    windows = np.stack([days.ravel(), np.roll(days, -3, axis=0).ravel()])
    mean, misses = profile_mean(windows, origins_us, LEADS, calendar=Calendar())
    assert (mean[0] < 2.0).all()
    assert (mean[1] > 5.0).all()
    assert misses.shape == windows.shape
    assert np.isnan(misses[:, :24]).all()  # nothing is before the first day


def test_a_miss_of_the_profile_knows_nothing_of_its_own_day_or_later() -> None:
    windows = np.random.default_rng(3).gamma(1.0, size=(1, 720)).astype(np.float32)
    changed = windows.copy()
    changed[0, 360:] += 5.0
    origins_us = np.array([MONDAY_US])
    before, after = (profile_mean(of, origins_us, LEADS, calendar=Calendar())[1] for of in (windows, changed))
    assert before[0, 24:360].tolist() == after[0, 24:360].tolist()
    assert np.allclose(before[0, 360:384] + 5.0, after[0, 360:384], atol=1e-5)


def test_the_rungs_codes_on_disk_keep_their_meaning() -> None:
    assert RUNGS == ("seasonal_naive_168", "seasonal_naive_24", "flat", "profile_mean")


def test_a_perfectly_weekly_load_has_no_spread() -> None:
    kw, _ = _fallback(_weekly())
    assert kw[0, :, 0].tolist() == kw[0, :, 2].tolist()


def test_the_spread_covers_what_the_rule_used_to_miss_by() -> None:
    noise = np.random.default_rng(1).normal(size=(40, 720)).astype(np.float32)
    kw = seasonal_naive_forecast(noise, LEADS, QUANTILES)
    width = (kw[:, 0, 2] - kw[:, 0, 0]).mean()
    assert abs(width - 2 * 1.2816 * np.sqrt(2)) < 0.15  # the difference of two normals has √2 their spread


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_any_pattern_of_missing_values_gives_finite_ascending_quantiles(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    windows = rng.gamma(1.0, size=(3, 720)).astype(np.float32)
    windows[rng.random(windows.shape) < share] = np.nan
    windows[:, rng.integers(720)] = 1.0  # any usable history
    kw, rungs = _fallback(windows)
    assert np.isfinite(kw).all()
    assert (np.diff(kw, axis=2) >= 0).all()
    assert (rungs >= 0).all()


def test_a_meter_that_came_into_use_is_served_by_the_rung_of_its_history_since() -> None:
    windows = np.repeat(_weekly() + 50.0, 3, axis=0)
    windows[0, : 720 - 15 * 24] = np.nan
    windows[1, : 720 - 15 * 24] = 0.0
    windows[2, : 720 - 2 * 24] = 0.0
    kw, rungs = _fallback(windows)
    assert np.array_equal(kw[1], kw[0])
    assert [RUNGS[rung] for rung in rungs] == ["seasonal_naive_168", "seasonal_naive_168", "profile_mean"]
    assert kw[2, :, 1].min() > 50.0
