"""Forecasts taken apart: the parts sum up, whatever the window lacks, and the pictures are pictures."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.dataset import Panel
from central.explain import booster_texts_of, explain, mean_contributions, run_files
from central.training import Recipe, TrainedModel, model_from_texts, predict, train
from shared.calendars import Calendar
from shared.features import FEATURES, feature_matrix

HOUR_US = 3_600_000_000
CALENDAR = Calendar("Europe/London", "GB")
DAYS = 40


@cache
def panel() -> Panel:
    hours = np.arange(24 * DAYS)
    rng = np.random.default_rng(3)
    shape = 1 + 0.9 * np.sin(2 * np.pi * (hours + np.arange(3)[:, None]) / 24)
    return Panel(["a", "b", "pv"], 0, 3600, shape * rng.gamma(4, 0.2, size=(3, len(hours))) - np.array([[0], [0], [1]]))


@cache
def model() -> TrainedModel:
    recipe = Recipe(trees=12, rows_cap=4000)
    return train(panel(), until_us=panel().end_us, recipe=recipe, calendar=CALENDAR)


@settings(max_examples=25, deadline=None)
@given(
    meter=st.integers(0, 2),
    origin=st.integers(40, 24 * DAYS),
    lost=st.integers(0, 36),
    shift=st.sampled_from([0.0, -1.0, 0.0001]),
)
def test_base_mean_contributions_and_floor_sum_up_to_the_forecast(
    meter: int, origin: int, lost: int, shift: float
) -> None:
    window = panel().windows(np.array([meter]), np.array([origin * HOUR_US]))[0] + np.float32(shift)
    window[len(window) - lost :] = np.nan
    shown = explain(model(), window, origin * HOUR_US, CALENDAR, 48)
    total = shown.base_kw[:, None] + shown.mean_kw + shown.parts_kw.sum(axis=2) + shown.floor_kw
    np.testing.assert_allclose(total, shown.forecast_kw, rtol=0, atol=1e-6)
    assert (np.diff(shown.forecast_kw, axis=1) >= 0).all()
    assert (shown.floor_kw >= 0).all()
    assert not shown.floor_kw.any() or shown.forecast_kw[shown.floor_kw > 0].max() == 0


def test_the_floor_is_told_where_it_lifts_a_forecast_to_zero() -> None:
    window = np.full(720, 0.0, dtype=np.float32)
    window[::24] = 0.2
    shown = explain(model(), window, 40 * 24 * HOUR_US, CALENDAR, 48)
    assert (shown.forecast_kw >= 0).all()
    assert shown.floor_kw.max() > 0


def test_a_window_without_a_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="no reading"):
        explain(model(), np.full(720, np.nan, dtype=np.float32), 0, CALENDAR, 48)


def test_a_runs_files_bring_the_model_back_and_tell_what_it_goes_by() -> None:
    at = np.full(3, panel().end_us)
    x = feature_matrix(panel().windows(np.arange(3), at), at, np.arange(1, 49), calendar=CALENDAR).x
    files = run_files(model(), x)
    boosters = {name.partition("/")[2]: content for name, content in files.items() if name.startswith("lightgbm/")}
    again = model_from_texts(booster_texts_of(boosters), features=FEATURES, step_s=3600, horizon_steps=48)
    assert again.quantiles == model().quantiles
    np.testing.assert_array_equal(predict(again, x), predict(model(), x))
    assert sum(json.loads(files["explain/importances.json"]).values()) == pytest.approx(1)
    assert list(json.loads(files["explain/shap.json"])) == list(mean_contributions(model(), x))
    assert all(files[f"explain/{name}.png"].startswith(b"\x89PNG") for name in ("importances", "shap"))


def test_what_is_no_booster_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="no LightGBM booster"):
        model_from_texts({0.5: "no booster"}, features=FEATURES, step_s=3600, horizon_steps=48)
