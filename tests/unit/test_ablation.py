"""The ablation: its choices, what it hides, how a cut run goes on, and what its table calls noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.ablation import chosen, main, run
from bench.ablation_choices import GROUPS, SHIPPED, Choice, all_choices, choice_from_text, members, without
from bench.ablation_results import Measured, Run, Store
from bench.ablation_sets import DataSet, Protocol, before_judged, data_set, many_windows
from bench.ablation_table import beyond_noise, changes, noise_of, table
from bench.accuracy_sets import DevelopmentSet
from central.dataset import Panel
from central.training import DEFAULT_RECIPE
from shared.errors import ExitCode
from shared.features import FEATURES

HOUR_US = 3_600_000_000
SMALL = Protocol(origins=2, spacing_h=47, before_h=24)
TINY = Choice("tiny", {"trees": 2, "patience": 0, "rows_cap": 400})


def _measured(mase: float, wql: float = 0.5, train_s: float = 4.0) -> Measured:
    return Measured(mase, wql, 0.8, train_s)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two meters of fifty days, under the name of a development set."""
    rng, hours = np.random.default_rng(0), pd.date_range("2024-01-01", periods=24 * 50, freq="1h", tz="UTC")
    rows = [
        pd.DataFrame({"meter_id": f"{m}:load", "ts": hours, "value": rng.gamma(2.0, size=len(hours))}) for m in "ab"
    ]
    made = tmp_path_factory.mktemp("data")
    pd.concat(rows).to_parquet(made / "citylearn_2022.parquet")
    return made


@pytest.fixture(scope="module")
def homes(folder: Path) -> DataSet:
    return data_set("citylearn", DevelopmentSet("citylearn_2022.parquet"), folder, SMALL)


def test_every_feature_is_in_one_group() -> None:
    counted = [sum(name in members(group) for group in GROUPS) for name in FEATURES]
    assert dict(zip(FEATURES, counted, strict=True)) == dict.fromkeys(FEATURES, 1)


def test_every_choice_is_a_change_of_the_recipe_and_the_recipe_comes_first() -> None:
    first, *others = all_choices()
    assert first == SHIPPED
    assert first.recipe(DEFAULT_RECIPE.seed) == DEFAULT_RECIPE
    for choice in others:
        assert choice.ignored or choice.recipe(1) != SHIPPED.recipe(1), choice.name


def test_a_change_is_named_by_its_text() -> None:
    choice = choice_from_text("leaves=15,half_life_days=null")
    assert choice.name == "leaves=15,half_life_days=null"
    assert choice.recipe(3).leaves == 15
    assert choice.recipe(3).seed == 3


@pytest.mark.parametrize("text", ["leafs=3", "leaves", "seed=4", "leaves=many"])
def test_a_change_of_no_field_or_value_is_refused_in_a_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--change", text])
    assert "--change" in capsys.readouterr().err


def test_groups_can_go_together() -> None:
    assert set(without(["lead", "lags"]).ignored) == {*members("lead"), *members("lags")}


def test_the_recipe_is_always_measured_and_what_is_made_up_stands_alone() -> None:
    names = [choice.name for choice in chosen(["leaves"], [TINY], [])]
    assert names[0] == SHIPPED.name
    assert names[-1] == "tiny"
    assert all("leaves" in name for name in names[1:-1])
    assert chosen([], [TINY], []) == [SHIPPED, TINY]
    assert chosen([], [], []) == all_choices()


def test_nothing_judged_is_learnt_from_and_windows_end_before_what_is_kept() -> None:
    load = np.random.default_rng(0).gamma(1.0, size=(2, 24 * 60))
    load[1, 24 * 55 :] = np.nan
    panel = Panel(["a", "b"], 0, 3600, load)
    windows = many_windows(panel, Protocol(origins=3, spacing_h=47, before_h=100))
    for meter, end in ((0, 24 * 60), (1, 24 * 55)):
        origins = np.sort(windows.origins_us[windows.meters == meter]) // HOUR_US
        assert origins.tolist() == [end - 148 - 94, end - 148 - 47, end - 148]
        known = np.isfinite(before_judged(panel, windows).load_kw[meter])
        assert np.flatnonzero(known).max() == origins[0] - 1


def test_a_set_too_short_for_the_protocol_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match="too short for 2 origins 900 h apart"):
        data_set("x", DevelopmentSet("citylearn_2022.parquet"), folder, Protocol(2, 900, 900))


def test_a_run_that_was_cut_measures_only_what_is_missing(homes: DataSet, tmp_path: Path) -> None:
    store = Store(tmp_path, SMALL)
    store.save(TINY, homes.name, 1, _measured(0.123))
    results = run([TINY], [homes], [1, 2], store, {})
    assert results[Run("tiny", homes.name, 1)] == _measured(0.123)
    assert 0.5 < results[Run("tiny", homes.name, 2)].rel_mase < 2
    assert store.load(TINY, homes.name, 2) == results[Run("tiny", homes.name, 2)]


def test_results_of_another_recipe_or_protocol_are_no_answer(tmp_path: Path) -> None:
    Store(tmp_path, SMALL).save(TINY, "homes", 1, _measured(0.5))
    assert Store(tmp_path, SMALL).load(TINY, "homes", 1) == _measured(0.5)
    assert Store(tmp_path, Protocol()).load(TINY, "homes", 1) is None
    assert Store(tmp_path, SMALL).load(Choice("tiny", {"trees": 3}), "homes", 1) is None
    assert Store(tmp_path, SMALL).load(Choice("tiny", TINY.change, members("lead")), "homes", 1) is None


def _results(name: str, ratios: list[list[float]]) -> dict[Run, Measured]:
    """Results of a choice, MASE by [set, seed]; the quantile loss is always the same."""
    return {
        Run(name, one, seed): _measured(mase)
        for one, by_seed in zip("ab", ratios, strict=True)
        for seed, mase in enumerate(by_seed, 1)
    }


def test_changes_are_against_the_recipe_of_the_same_seed_and_the_last_is_the_mean_of_sets() -> None:
    results = _results("the recipe", [[0.5, 1.0], [1.0, 1.0]]) | _results("x", [[0.6, 1.1], [1.0, 1.2]])
    np.testing.assert_allclose(changes(results, "x", "ab", [1, 2])[..., 0], [[20, 0, 10], [10, 20, 15]])


def test_a_seed_that_is_not_measured_on_all_sets_is_left_out() -> None:
    results = _results("the recipe", [[0.5, 1.0], [1.0, 1.0]]) | _results("x", [[0.6, 1.1], [1.0]])
    assert len(changes(results, "x", "ab", [1, 2])) == 1
    assert len(changes(results, "y", "ab", [1, 2])) == 0


def test_noise_is_the_rest_after_the_means_of_choices_and_of_seeds() -> None:
    one, same, other = (np.array(values)[:, None, None] for values in ([0.0, 4.0], [5.0, 9.0], [5.0, 11.0]))
    assert noise_of([one, same])[0, 0] == pytest.approx(0)
    assert noise_of([one, other, one[:1]])[0, 0] == pytest.approx(np.sqrt(2 * 4 * 0.5**2))
    three = [np.array(values)[:, None, None] for values in ([0.0, 0.0, 0.0], [0.0, 0.0, 3.0])]
    assert noise_of(three)[0, 0] == pytest.approx(np.sqrt(2 * 3 / 2))
    assert noise_of([one, other, *three])[0, 0] == pytest.approx(np.sqrt(2 * (1 + 3) / 3))
    assert np.isnan(noise_of([one])).all()


@pytest.mark.parametrize(
    ("by_seed", "noise", "counts"),
    [([2.0, 2.2, 1.8], 1.0, True), ([2.0, 2.2, 1.8], 1.2, False), ([9.0, -0.1, 9.0], 1.0, False)],
)
def test_a_change_counts_beyond_three_standard_errors_if_all_seeds_agree(
    by_seed: list[float], noise: float, counts: bool
) -> None:
    assert beyond_noise(np.array(by_seed)[:, None], np.array([noise])).tolist() == [counts]


def test_the_table_holds_means_spreads_what_counts_and_what_a_change_must_exceed() -> None:
    results = (
        _results("the recipe", [[0.5, 0.5], [0.8, 0.8]])
        | _results("worse", [[0.6, 0.6], [0.8, 0.8]])
        | _results("noise", [[0.505, 0.495], [0.8, 0.8]])
        | _results("half", [[0.5], [0.8]])
    )
    lines = table(results, ["the recipe", "worse", "noise", "half", "never"], ["a", "b"], [1, 2]).splitlines()
    assert lines[2] == (
        "| the recipe, over seasonal naive | 0.500 / 0.500 | 0.800 / 0.500 | 0.650 / 0.500 | 0.800 | 4.0 s |"
    )
    assert lines[3].startswith("| worse | **+20.0 ± 0.0** / +0.0 ± 0.0 | +0.0 ± 0.0 /")
    assert lines[4].startswith("| noise | +0.0 ± 1.4 /")
    assert lines[5].startswith("| half (1 of 2 seeds) | +0.0 / +0.0 |")
    assert lines[6].startswith("| a change must exceed | 3.00 / 0.00 | 0.00 / 0.00 |")
    assert len(lines) == 7


def test_the_command_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == ExitCode.FAILED
    told = capsys.readouterr()
    assert "pjm is left out: pjm_zones.parquet is not in" in told.err
    assert "needs the folder" in told.out


def test_the_command_measures_a_change_against_what_it_knows_of_the_recipe(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "ablation", SMALL).save(SHIPPED, "citylearn", 1, _measured(0.9))
    protocol = ["--origins", "2", "--before", "24", "--seeds", "1", "--out", str(tmp_path)]
    change = "trees=2,patience=0,rows_cap=400"
    assert main(["--data", str(folder), "--sets", "citylearn,pjm", "--change", change, *protocol]) == ExitCode.OK
    told = capsys.readouterr()
    assert "| the recipe, over seasonal naive | 0.900 / 0.500 |" in told.out
    assert f"| {change} |" in told.out
    assert "pjm is left out" in told.err
