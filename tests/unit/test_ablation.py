"""The ablation: its groups cover the features, what it hides, and its table."""

from pathlib import Path

import numpy as np
import pytest

from bench.ablation import GROUPS, Measured, before_judged, main, many_windows, members, table, variants
from central.dataset import Panel
from central.training import Recipe
from shared.errors import ExitCode
from shared.features import FEATURES

HOUR_US = 3_600_000_000


def test_every_feature_is_in_one_group() -> None:
    counted = [sum(name in members(group) for group in GROUPS) for name in FEATURES]
    assert dict(zip(FEATURES, counted, strict=True)) == dict.fromkeys(FEATURES, 1)


def test_every_choice_is_a_change_of_the_recipe() -> None:
    for fields, ignored in list(variants().values())[1:]:
        assert ignored or Recipe(**fields) != Recipe()


def test_nothing_judged_is_learnt_from_and_windows_end_before_what_is_kept() -> None:
    load = np.random.default_rng(0).gamma(1.0, size=(2, 24 * 60))
    load[1, 24 * 55 :] = np.nan
    panel = Panel(["a", "b"], 0, 3600, load)
    windows = many_windows(panel, origins=3, spacing_h=47, before_h=100)
    for meter, end in ((0, 24 * 60), (1, 24 * 55)):
        origins = np.sort(windows.origins_us[windows.meters == meter]) // HOUR_US
        assert origins.tolist() == [end - 148 - 94, end - 148 - 47, end - 148]
        known = np.isfinite(before_judged(panel, windows).load_kw[meter])
        assert np.flatnonzero(known).max() == origins[0] - 1


def test_the_table_has_a_row_for_each_variant_and_means() -> None:
    found = {"the recipe": [Measured(0.5, 0.6, 0.8, 3.0), Measured(0.7, 0.8, 0.7, 5.0)]}
    assert table(["a", "b"], found).splitlines()[-1] == (
        "| the recipe | 0.500 / 0.600 | 0.700 / 0.800 | 0.6000 / 0.7000 | 0.750 | 4 s |"
    )


def test_a_folder_without_data_is_answered_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == ExitCode.FAILED
    assert "holds no Parquet files" in capsys.readouterr().err
