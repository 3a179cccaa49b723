"""The ladder below the model."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.baselines import NO_HISTORY, RUNGS, fallback_forecast, seasonal_naive, seasonal_naive_forecast

LEADS = np.arange(1, 49, dtype=np.int64)
QUANTILES = (0.1, 0.5, 0.9)


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
    windows = _weekly(4)
    windows[1, :-48] = np.nan  # two days of history
    windows[2, :-2] = np.nan  # two hours
    windows[3] = np.nan
    kw, rungs = fallback_forecast(windows, LEADS, QUANTILES)
    assert [RUNGS[rung] for rung in rungs[:3]] == ["seasonal_naive_168", "seasonal_naive_24", "flat"]
    assert rungs[3] == NO_HISTORY
    assert np.isnan(kw[3]).all()
    assert kw[2, :, 1].tolist() == [float(windows[2, -2:].mean())] * 48


def test_a_perfectly_weekly_load_has_no_spread() -> None:
    kw, _ = fallback_forecast(_weekly(), LEADS, QUANTILES)
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
    kw, rungs = fallback_forecast(windows, LEADS, QUANTILES)
    assert np.isfinite(kw).all()
    assert (np.diff(kw, axis=2) >= 0).all()
    assert (rungs >= 0).all()
