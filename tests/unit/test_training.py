"""What a training may look at, when it stops, and what its recipe changes."""

from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import (
    all_pairs,
    forecast_windows,
    judged_windows,
    measure,
    model_forecaster,
    naive_forecaster,
)
from central.samples import Rows, Sampling, split_by_time, training_rows
from central.training import DEFAULT_RECIPE, UTC_CALENDAR, Recipe, TrainedModel, train
from shared.params import TrainingParams

HOUR_US = 3_600_000_000
CUTOFF_US = 24 * 60 * HOUR_US
SMALL = Recipe(trees=160, rows_cap=20_000, leaves=7, outer_leaves=7, patience=3, learning_rate=0.4)


def _panel(meters: int = 6, days: int = 70, level: float = 2.0) -> Panel:
    """Daily shapes with noise, of which the level drifts from hour to hour."""
    rng = np.random.default_rng(5)
    hours = np.arange(24 * days)
    daily = np.sin(hours * 2 * np.pi / 24) + level
    noise = rng.normal(size=(meters, len(hours)))
    drift = np.cumsum(0.1 * noise, axis=1) * 0.3
    return Panel([f"m{i}" for i in range(meters)], 0, 3600, daily + drift + 0.3 * noise)


def _text(model: TrainedModel) -> list[str]:
    return [booster.model_to_string() for booster in model.boosters]


def _trees(model: TrainedModel) -> list[int]:
    return [booster.num_trees() for booster in model.boosters]


@pytest.fixture(scope="module")
def early() -> TrainedModel:
    return train(_panel(), until_us=CUTOFF_US, recipe=SMALL)


def test_nothing_after_the_cutoff_moves_trees_or_their_number(early: TrainedModel) -> None:
    panel = _panel()
    panel.load_kw[:, 24 * 60 :] = 1e6
    assert _text(train(panel, until_us=CUTOFF_US, recipe=SMALL)) == _text(early)


def test_early_stopping_takes_fewer_trees_than_allowed_and_no_patience_all_of_them(early: TrainedModel) -> None:
    assert min(_trees(early)) < SMALL.trees
    assert all(100 <= trees <= SMALL.trees for trees in _trees(early))
    few = Recipe(trees=12, rows_cap=5_000, patience=0)
    assert _trees(train(_panel(), until_us=CUTOFF_US, recipe=few)) == [12, 12, 12]


def test_too_few_rows_to_judge_by_are_all_learnt_from() -> None:
    recipe = Recipe(trees=15, rows_cap=3_000, patience=1)
    assert _trees(train(_panel(), until_us=CUTOFF_US, recipe=recipe)) == [15, 15, 15]


def test_the_final_trees_have_learnt_from_all_rows(early: TrainedModel) -> None:
    assert early.trained_rows > 19_000
    assert all(tree["num_leaves"] >= 1 for tree in early.boosters[1].dump_model()["tree_info"])
    counted = early.boosters[1].dump_model()["tree_info"][0]["tree_structure"]["internal_count"]
    assert counted == early.trained_rows


def test_no_target_learnt_from_lies_at_or_after_the_first_origin_judged_by() -> None:
    origins_us = np.sort(np.random.default_rng(0).integers(0, 1000, 500)) * HOUR_US
    rows = Rows(np.zeros((500, 1), dtype=np.float32), np.arange(500.0), np.ones(500), origins_us)
    earlier, latest = split_by_time(rows, share=0.2, gap_us=48 * HOUR_US)
    assert earlier.origin_us.max() + 48 * HOUR_US <= latest.origin_us.min()
    assert 90 <= len(latest) <= 110
    assert len(earlier) + len(latest) < 500


def test_an_ignored_feature_is_in_no_tree() -> None:
    ignored = ("lag_168h", "recent_1", "carried")
    model = train(_panel(), until_us=CUTOFF_US, recipe=Recipe(trees=20, rows_cap=5_000), ignored=ignored)
    assert [model.importances[name] for name in ignored] == [0.0, 0.0, 0.0]
    assert model.importances["lead_h"] >= 0


def _rows(load_kw: NDArray[np.float64], **weighting: float) -> Rows:
    panel = Panel([f"m{i}" for i in range(len(load_kw))], 0, 3600, load_kw)
    sampling = Sampling(rows_cap=6000, dropout=0.0, **weighting)  # type: ignore[arg-type]
    until_us = load_kw.shape[1] * HOUR_US
    return training_rows(
        panel, until_us=until_us, rng=np.random.default_rng(0), sampling=sampling, calendar=UTC_CALENDAR
    )


def test_balanced_meters_weigh_the_same_in_sum_however_long_their_history() -> None:
    load = _panel(meters=2, days=60).load_kw
    load[1, : 24 * 50] = np.nan
    plain, balanced = _rows(load), _rows(load, meter_balance=1.0)
    assert np.ptp(plain.weight) == 0
    assert balanced.weight.mean() == pytest.approx(1.0)
    sums = [balanced.weight[balanced.weight == weight].sum() for weight in np.unique(balanced.weight)]
    assert len(sums) == 2
    assert sums[0] == pytest.approx(sums[1])


def test_weighted_peaks_count_up_to_ten_times_what_a_trough_does() -> None:
    rows = _rows(_panel(meters=2, level=0.9).load_kw, peak_weight=1.0)
    assert rows.weight.max() / rows.weight.min() == pytest.approx(10.0)


def test_a_window_of_zeros_makes_no_giant_target() -> None:
    load = np.zeros((1, 24 * 60))
    load[0, ::200] = 5.0
    assert np.abs(_rows(load).target).max() <= 20.0


def test_net_load_that_changes_sign_is_forecast_better_than_by_seasonal_naive() -> None:
    panel = _panel(level=0.0)
    model = train(panel, until_us=CUTOFF_US, recipe=Recipe(trees=60, rows_cap=12_000, patience=0))
    windows = judged_windows(panel, *all_pairs(panel, CUTOFF_US + np.arange(0, 8 * 24, 13) * HOUR_US))
    ours = forecast_windows(panel, windows, model_forecaster(model, UTC_CALENDAR))
    naive = forecast_windows(panel, windows, naive_forecaster(model.quantiles, season_h=168))
    assert (ours[..., 1] < 0).mean() > 0.1
    scores = [measure(windows, forecast, model.quantiles, slice(None))["mase"] for forecast in (ours, naive)]
    assert scores[0] < 0.8 * scores[1]


def test_outer_quantiles_have_leaves_of_their_own() -> None:
    recipe = Recipe(trees=5, rows_cap=5_000, leaves=16, outer_leaves=4)
    model = train(_panel(), until_us=CUTOFF_US, recipe=recipe)
    leaves = [max(t["num_leaves"] for t in b.dump_model()["tree_info"]) for b in model.boosters]
    assert leaves == [4, 16, 4]


def test_the_parameters_defaults_are_the_recipe() -> None:
    params = TrainingParams()
    shared = {field.name for field in fields(Recipe)} & set(TrainingParams.model_fields) - {"seed", "half_life_days"}
    assert shared >= {"trees", "patience", "learning_rate", "leaves", "outer_leaves", "meter_balance", "peak_weight"}
    assert {name: getattr(params, name) for name in shared} == {name: getattr(DEFAULT_RECIPE, name) for name in shared}
    assert (params.rows, params.threads) == (DEFAULT_RECIPE.rows_cap, DEFAULT_RECIPE.num_threads)
    assert (params.half_life_days or None) == DEFAULT_RECIPE.half_life_days
