"""The search for a better recipe: its loop against a valley whose bottom is known, its folds on a real panel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from central.dataset import Panel
from central.folds import FOLDS, Fold, Judge, folds_before, is_better
from central.recipes import recipe_of
from central.training import Recipe
from central.tuning import SPACE, Data, Dimension, Tuning, with_training
from central.tuning_command import _hand_over
from shared.calendars import Calendar
from shared.clock import DAY_US, HOUR_US
from shared.errors import MetercastError
from shared.params import Params, TrainingParams

PARAMS = Params()
NOW = Data(record_version=7, until_us=100 * DAY_US)
WEEK_US = 7 * DAY_US
LEAVES_AND_RATE = (Dimension("leaves", 8, 127, whole=True), Dimension("learning_rate", 0.02, 0.3))


def _panel(days: int = 40) -> Panel:
    hours = np.arange(24 * days)
    rng = np.random.default_rng(1)
    load = (1 + 0.5 * np.sin(2 * np.pi * hours / 24)) * rng.gamma(9, 1 / 9, size=(2, len(hours)))
    return Panel(["a", "b"], 0, 3600, load)


@dataclass(frozen=True, slots=True)
class Valley(Judge):
    """Losses that depend on leaves and learning rate alone, the lowest at 64 and .05; noise is the origin's own."""

    depth: float = 1.0
    interrupt_at: int = -1

    def losses(self, fold: Fold, recipe: Recipe) -> NDArray[np.float64]:
        if recipe.leaves == self.interrupt_at:
            raise KeyboardInterrupt
        far = np.log(recipe.leaves / 64) ** 2 + np.log(recipe.learning_rate / 0.05) ** 2
        origins = np.random.default_rng(fold.cutoff_us % 1000 + 1).normal(1, 0.05, 6)
        return np.asarray(origins + self.depth * 0.05 * far)


def _valley(*, depth: float = 1.0, interrupt_at: int = -1) -> Valley:
    panel = _panel()
    folds = folds_before(panel, length_us=5 * DAY_US, horizon_steps=48)
    return Valley(panel, folds, (0.1, 0.5, 0.9), 48, Calendar(), depth, interrupt_at)


def _opened(path: Path, params: Params = PARAMS, now: Data = NOW) -> Tuning:
    tuning = Tuning(path / "tuning.db", params, space=LEAVES_AND_RATE)
    tuning.open(now, stale_us=WEEK_US)
    return tuning


def test_trial_0_is_the_recipe_in_force_and_the_search_finds_the_valley(tmp_path: Path) -> None:
    said: list[str] = []
    tuning = _opened(tmp_path)
    tuning.run(_valley(), 15, said.append)
    first = tuning.trials[0]
    assert (first.number, first.user_attrs["in_force"], first.params["leaves"]) == (0, True, 31)
    assert first.value == pytest.approx(np.mean([_valley().losses(f, Recipe()) for f in _valley().folds]))
    assert len(said) == 15
    assert said[0].startswith("trial 1 of 15: wql ")
    assert f"recipe in force {first.value:.5f}" in said[-1]
    outcome = tuning.outcome(_valley())
    assert outcome.best_wql < outcome.in_force_wql
    assert abs(np.log(float(outcome.values["learning_rate"] or 0) / 0.05)) < np.log(2)
    assert {key: getattr(with_training(PARAMS, outcome.values).training, key) for key in outcome.values} == dict(
        outcome.values
    )


def test_in_a_flat_landscape_nothing_is_better(tmp_path: Path) -> None:
    tuning = _opened(tmp_path)
    tuning.run(_valley(depth=0.0), 6, lambda _: None)
    assert tuning.outcome(_valley(depth=0.0)).values == {}


def test_a_study_goes_on_where_it_was_interrupted_with_the_data_it_began_on(tmp_path: Path) -> None:
    tuning = _opened(tmp_path)
    tuning.run(_valley(), 2, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        tuning.run(_valley(interrupt_at=_next_leaves(tmp_path)), 10, lambda _: None)
    assert len(tuning.trials) == 2
    again = Tuning(tmp_path / "tuning.db", PARAMS, space=LEAVES_AND_RATE)
    later = Data(record_version=9, until_us=NOW.until_us + WEEK_US - 1)
    assert again.open(later, stale_us=WEEK_US) == NOW
    again.run(_valley(), 4, lambda _: None)
    assert len(again.trials) == 4
    assert [trial.user_attrs["in_force"] for trial in again.trials] == [True, False, False, False]


def _next_leaves(tmp_path: Path) -> int:
    """What the third trial will be, from a twin of the study."""
    twin = tmp_path / "twin"
    tuning = _opened(twin)
    tuning.run(_valley(), 3, lambda _: None)
    return int(tuning.trials[2].params["leaves"])


def test_a_recipe_in_force_that_was_interrupted_is_judged_after_all(tmp_path: Path) -> None:
    tuning = _opened(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tuning.run(_valley(interrupt_at=31), 3, lambda _: None)
    tuning.run(_valley(), 1, lambda _: None)
    assert [trial.user_attrs["in_force"] for trial in tuning.trials] == [True]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("grid", {"step": "30min"}),
        ("forecast", {"quantiles": [0.05, 0.5, 0.95]}),
        ("training", {"leaves": 40}),
        ("training", {"seed": 5}),
        ("training", {"window": "60d"}),
    ],
)
def test_what_cannot_be_compared_is_never_mixed(tmp_path: Path, section: str, values: dict[str, object]) -> None:
    _opened(tmp_path).run(_valley(), 1, lambda _: None)
    assert _opened(tmp_path, Params.model_validate({section: values})).trials == []


def test_old_data_begin_a_study_of_their_own(tmp_path: Path) -> None:
    _opened(tmp_path).run(_valley(), 1, lambda _: None)
    assert _opened(tmp_path, now=Data(9, NOW.until_us + WEEK_US)).trials == []


def test_a_database_that_is_none_is_answered_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tuning.db").write_text("no database, but long enough to be looked at as one" * 100)
    with pytest.raises(MetercastError, match=r"tuning\.db: "):
        _opened(tmp_path)


def test_every_dimension_is_a_key_of_training_that_reaches_the_recipe() -> None:
    for one in SPACE:
        low, high = (with_training(PARAMS, {one.key: int(x) if one.whole else x}) for x in (one.low, one.high))
        assert recipe_of(low.training) != recipe_of(high.training), one.key
        assert one.may_be_off or one.low <= getattr(PARAMS.training, one.key) <= one.high


def test_the_default_parameters_are_the_default_recipe() -> None:
    assert replace(recipe_of(TrainingParams()), seed=Recipe().seed) == Recipe()


def test_folds_are_in_the_order_of_time_and_end_with_the_panel() -> None:
    panel = _panel()
    folds = folds_before(panel, length_us=5 * DAY_US, horizon_steps=48)
    assert [(panel.end_us - fold.cutoff_us) // DAY_US for fold in folds] == [15, 10, 5]
    assert len(folds) == FOLDS
    for fold in folds:
        origins = np.unique(fold.windows.origins_us)
        assert origins[0] == fold.cutoff_us
        assert len(origins) > 4
        assert origins[-1] < fold.cutoff_us + 5 * DAY_US


def test_nothing_at_or_after_a_folds_cutoff_is_trained_on() -> None:
    panel = _panel()
    recipe = Recipe(trees=5, rows_cap=1000)
    (fold, *_) = folds_before(panel, length_us=5 * DAY_US, horizon_steps=48)
    later = panel.load_kw.copy()
    later[:, fold.cutoff_us // HOUR_US + 24 :] *= 50
    first_only = Fold(fold.cutoff_us, replace(fold.windows))
    judges = [
        Judge(replace(panel, load_kw=load), [fold], (0.1, 0.5, 0.9), 48, Calendar()) for load in (panel.load_kw, later)
    ]
    ours, theirs = (judge.losses(first_only, recipe) for judge in judges)
    assert ours[0] == theirs[0]  # the first origin's window ends at the cutoff


def test_a_panel_too_short_for_its_folds_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="too short for 3 stretches"):
        folds_before(_panel(days=14), length_us=5 * DAY_US, horizon_steps=48)


def test_a_gain_within_noise_is_none() -> None:
    rng = np.random.default_rng(0)
    default = rng.normal(1, 0.1, 20)
    assert not is_better(default, default, horizon_h=48)
    assert not is_better(default + rng.normal(0, 0.1, 20), default, horizon_h=48)
    assert is_better(default - rng.normal(0.05, 0.01, 20), default, horizon_h=48)
    assert not is_better(np.array([np.nan, 0.1]), np.array([1.0, 1.0]), horizon_h=48)


def test_what_was_found_goes_into_the_named_file_or_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = _opened(tmp_path)
    tuning.run(_valley(), 12, logging.getLogger(__name__).info)
    outcome = tuning.outcome(_valley())
    file = tmp_path / "p.yaml"
    file.write_text("# mine\ntraining:\n  leaves: 31 # few\n")
    _hand_over(outcome, file)
    assert f"  leaves: {outcome.values['leaves']} # few" in file.read_text()
    assert capsys.readouterr().out == ""
    for unwritable in (None, tmp_path / "absent.yaml"):
        _hand_over(outcome, unwritable)
        out = capsys.readouterr().out
        assert out.startswith("training:\n  ")
        assert f"--set training.leaves={outcome.values['leaves']}" in out
