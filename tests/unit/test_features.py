"""What features may know, and that they mean what their names say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.baselines import fallback_forecast
from shared.calendars import Calendar
from shared.features import FEATURES, Matrix, feature_matrix, to_load, to_target, window_steps

LONDON = Calendar("Europe/London", "GB")
LEADS = np.arange(1, 49, dtype=np.int64)
HOUR_US = 3_600_000_000
ORIGIN_US = 1_383_000_000_000_000 // HOUR_US * HOUR_US  # 2013-10-28, the day after the autumn change


def _windows(rows: int, seed: int = 0, missing: float = 0.05) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    daily = 1 + np.sin(np.arange(720) * 2 * np.pi / 24)
    windows = (daily * rng.gamma(2.0, size=(rows, 720))).astype(np.float32)
    windows[rng.random(windows.shape) < missing] = np.nan
    return windows


def _origins(rows: int) -> NDArray[np.int64]:
    return ORIGIN_US + np.arange(rows, dtype=np.int64) % 30 * HOUR_US


def _same(left: Matrix, right: Matrix) -> bool:
    return (
        np.array_equal(left.x, right.x, equal_nan=True)
        and np.array_equal(left.base, right.base, equal_nan=True)
        and np.array_equal(left.scale, right.scale)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 300), missing=st.sampled_from([0.0, 0.05, 0.9]))
def test_a_batch_equals_its_rows_one_by_one_bit_for_bit(seed: int, rows: int, missing: float) -> None:
    windows, origins = _windows(rows, seed, missing), _origins(rows)
    batch = feature_matrix(windows, origins, LEADS, calendar=LONDON)
    for row in np.random.default_rng(seed).integers(rows, size=3):
        part = slice(row, row + 1)
        alone = feature_matrix(windows[part], origins[part], LEADS, calendar=LONDON)
        ours = Matrix(batch.x.reshape(rows, 48, -1)[row], batch.base[part], batch.scale[part], batch.floor[part])
        assert _same(ours, alone)


def test_leads_of_ones_own_give_the_same_rows_as_shared_leads() -> None:
    windows, origins = _windows(3), _origins(3)
    shared = feature_matrix(windows, origins, LEADS, calendar=LONDON).x.reshape(3, 48, -1)
    leads = np.array([[1, 24, 25], [7, 8, 48], [48, 2, 30]], dtype=np.int64)
    own = feature_matrix(windows, origins, leads, calendar=LONDON).x.reshape(3, 3, -1)
    for row in range(3):
        assert np.array_equal(own[row], shared[row, leads[row] - 1], equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(origin=st.integers(720, 900), seed=st.integers(0, 2**32 - 1))
def test_no_feature_changes_when_the_future_does(origin: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = rng.gamma(1.0, size=1000).astype(np.float32)
    other = np.concatenate([series[:origin], rng.gamma(9.0, size=1000 - origin).astype(np.float32)])
    origins = np.array([ORIGIN_US], dtype=np.int64)
    ours, theirs = (
        feature_matrix(values[None, origin - 720 : origin], origins, LEADS, calendar=LONDON)
        for values in (series, other)
    )
    assert _same(ours, theirs)


def test_a_lag_shorter_than_its_lead_is_missing() -> None:
    x = feature_matrix(_windows(1, missing=0), _origins(1), LEADS, calendar=LONDON).x
    assert np.isnan(x[:, FEATURES.index("lag_24h")]).tolist() == [False] * 24 + [True] * 24
    assert not np.isnan(x[:, FEATURES.index("lag_48h")]).any()


def test_load_is_the_inverse_of_target() -> None:
    matrix = feature_matrix(_windows(3), _origins(3), LEADS, calendar=LONDON)
    load = np.random.default_rng(1).gamma(1.0, size=(3, 48))
    back = to_load(to_target(load, matrix)[:, None], matrix)[:, :, 0]
    assert np.allclose(back, load)


def test_load_ascends_along_the_quantiles() -> None:
    matrix = feature_matrix(_windows(1), _origins(1), LEADS, calendar=LONDON)
    assert (np.diff(to_load(np.tile([0.5, -0.5, 0.0], (48, 1)), matrix), axis=2) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), level=st.sampled_from([0.0, -3.0, 1e6]))
def test_any_window_with_a_value_has_a_finite_base_and_a_scale_above_zero(
    seed: int, share: float, level: float
) -> None:
    rng = np.random.default_rng(seed)
    windows = np.full((2, 720), level, dtype=np.float32)
    windows[1] += rng.normal(size=720).astype(np.float32)
    windows[rng.random(windows.shape) < share] = np.nan
    windows[:, rng.integers(720)] = level
    matrix = feature_matrix(windows, _origins(2), LEADS, calendar=LONDON)
    assert np.isfinite(matrix.base).all()
    assert (matrix.scale > 0).all()
    assert not np.isinf(matrix.x).any()


def test_a_meter_without_a_value_has_no_base() -> None:
    matrix = feature_matrix(np.full((1, 720), np.nan, dtype=np.float32), _origins(1), LEADS, calendar=LONDON)
    assert np.isnan(matrix.base).all()


@pytest.mark.parametrize("step_s", [900, 1800])
def test_shorter_steps_see_the_same_days(step_s: int) -> None:
    per_hour = 3600 // step_s
    hourly = _windows(1, missing=0)
    windows = np.repeat(hourly, per_hour, axis=1)
    fine = feature_matrix(windows, _origins(1), LEADS * per_hour, step_s=step_s, calendar=LONDON)
    coarse = feature_matrix(hourly, _origins(1), LEADS, calendar=LONDON)
    for name in ("lag_24h", "lag_168h", "lag_167h", "mean_168h", "same_hour_q90", "lead_h", "deviation_24h"):
        j = FEATURES.index(name)
        assert np.allclose(fine.x[:, j], coarse.x[:, j], rtol=1e-4, atol=1e-5, equal_nan=True), name


def test_what_would_be_silent_nonsense_is_refused() -> None:
    windows, origins = _windows(1), _origins(1)
    with pytest.raises(ValueError, match="step of 600 s"):
        window_steps(600)
    with pytest.raises(ValueError, match="expected \\[N, 1440\\]"):
        feature_matrix(windows, origins, LEADS, step_s=1800, calendar=LONDON)
    with pytest.raises(ValueError, match="expected 1 to 48"):
        feature_matrix(windows, origins, LEADS + 1, calendar=LONDON)
    with pytest.raises(ValueError, match="do not lie on the grid"):
        feature_matrix(windows, origins + 1, LEADS, calendar=LONDON)


def test_a_meter_that_never_exported_is_not_forecast_to_export_and_one_that_did_may_be() -> None:
    windows = np.abs(np.random.default_rng(4).normal(1, 0.5, (2, 720))).astype(np.float32)
    windows[1, 5] = -0.1
    origins = np.full(2, 1_767_571_200_000_000, dtype=np.int64)
    matrix = feature_matrix(windows, origins, np.arange(1, 49), calendar=Calendar())
    load = to_load(np.full((96, 3), -50.0, dtype=np.float32), matrix)
    assert (load[0] == 0).all()
    assert (load[1] < 0).all()
    fallback, _ = fallback_forecast(windows, origins, np.arange(1, 49), (0.001, 0.5, 0.999), calendar=Calendar())
    assert fallback[0].min() >= 0


def test_what_lies_before_a_meter_came_into_use_is_missing_to_the_last_bit() -> None:
    windows = _windows(3, missing=0.02)
    windows[0, : 20 * 24] = 0.0
    windows[1, : 10 * 24] *= 0.001  # a standby load
    hidden = windows.copy()
    hidden[0, : 20 * 24] = np.nan
    hidden[1, : 10 * 24] = np.nan
    ours, theirs = (feature_matrix(of, _origins(3), LEADS, calendar=LONDON) for of in (windows, hidden))
    assert _same(ours, theirs)
    assert ours.x.reshape(3, 48, -1)[0, 0, FEATURES.index("history_share")] < 1 / 3
