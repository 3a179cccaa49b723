"""`central backtest` from end to end on a few real households, and its arguments."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from central import backtest_command as command
from central.backtest import backtest
from central.backtest_options import BacktestOptions
from central.dataset import Panel
from central.evaluation import all_pairs, judged_score, judged_windows, naive_forecaster
from central.training import Recipe
from shared.errors import DataFileError

HOUSEHOLDS = Path(__file__).parents[2] / "demo" / "data" / "london_households.parquet"
MEASURES = {
    "mase", "smape", "wape", "rel_mae_24", "rel_mae_168", "wql", "coverage_80", "coverage_80_raw", "width_80",
    "peak_hour_error",
}  # fmt: skip
SMALL = Recipe(trees=20, rows_cap=10_000)
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six households over ten weeks, one of which stops three days early."""
    rows = pd.read_parquet(HOUSEHOLDS)
    meters = sorted(rows["meter_id"].unique())[:6]
    rows = rows[rows["meter_id"].isin(meters) & (rows["ts"] < pd.Timestamp("2013-03-12", tz="UTC"))]
    rows = rows[(rows["meter_id"] != meters[0]) | (rows["ts"] < pd.Timestamp("2013-03-09", tz="UTC"))]
    path = tmp_path_factory.mktemp("readings") / "households.parquet"
    rows.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def result(readings: Path) -> dict[str, Any]:
    return backtest(BacktestOptions(readings, aggregate="sum", zone="Europe/London", own_ends=True), SMALL)


def test_the_result_has_the_keys_of_the_contract(result: dict[str, Any]) -> None:
    assert set(result) == {
        "overall", "by_lead", "seasonal_naive_24", "seasonal_naive_168", "meters", "origins", "train_s", "forecast_ms"
    }  # fmt: skip
    for measured in (result["overall"], result["seasonal_naive_24"], result["seasonal_naive_168"]):
        assert set(measured) == MEASURES
        assert all(math.isfinite(value) for value in measured.values())
    assert [(bucket["from"], bucket["to"]) for bucket in result["by_lead"]] == [
        (1, 6), (7, 12), (13, 24), (25, 36), (37, 48)
    ]  # fmt: skip
    assert set(result["by_lead"][0]) == MEASURES | {"from", "to"}


def test_the_model_beats_seasonal_naive_on_real_households(result: dict[str, Any]) -> None:
    assert (result["meters"], result["origins"]) == (6, 8)
    assert result["overall"]["rel_mae_168"] < 0.9
    assert result["overall"]["wql"] < result["seasonal_naive_168"]["wql"]
    assert 0.6 < result["overall"]["coverage_80"] < 0.95


def test_seasonal_naive_is_its_own_measure(result: dict[str, Any]) -> None:
    assert result["seasonal_naive_168"]["rel_mae_168"] == 1.0
    assert result["seasonal_naive_24"]["rel_mae_24"] == 1.0


def test_the_last_window_ends_at_the_latest_end_or_at_each_meters_own(readings: Path) -> None:
    own, common = (
        backtest(BacktestOptions(readings, aggregate="sum", origins=1, own_ends=ends), Recipe(trees=2, rows_cap=2000))
        for ends in (True, False)
    )
    assert (own["meters"], common["meters"]) == (6, 5)  # one household had stopped before the last window


def test_mase_is_the_mean_over_origins_then_over_meters() -> None:
    hours = 24 * 21
    load = np.tile(np.arange(24.0), (2, 21)) + np.array([[0.0], [5.0]])
    load += (np.arange(hours) // 24)[None, :] * np.array([[1.0], [2.0]])  # rises by 1 and by 2 kW a day
    panel = Panel(["a", "b"], 0, 3600, load)
    origins = np.array([24 * 15, 24 * 19], dtype=np.int64) * HOUR_US
    score = judged_score(
        panel,
        naive_forecaster((0.1, 0.5, 0.9), season_h=168),
        judged_windows(panel, *all_pairs(panel, origins)),
        (0.1, 0.5, 0.9),
    )
    assert score.mase == pytest.approx(7.0)  # a week late on a daily rise, whatever its size
    assert (score.windows, score.meters) == (4, 2)


def test_the_command_prints_json_and_writes_the_forecasts(
    readings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = tmp_path / "forecasts.parquet"
    given = [
        "--readings",
        str(readings),
        "--aggregate",
        "sum",
        "--origins",
        "2",
        "--spacing",
        "24h",
        "--horizon",
        "24h",
    ]
    assert command.main(parser.parse_args([*given, "--json", "--out", str(out)])) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [bucket["to"] for bucket in printed["by_lead"]] == [6, 12, 24]
    rows = pd.read_parquet(out)
    assert list(rows.columns) == ["meter_id", "origin", "lead", "quantile", "value"]
    assert (rows["lead"].min(), rows["lead"].max(), set(rows["quantile"])) == (1, 24, {0.1, 0.5, 0.9})
    assert len(rows) == rows[["meter_id", "origin"]].drop_duplicates().shape[0] * 24 * 3
    assert np.isfinite(rows["value"]).all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"quantiles": (0.9, 0.1)}, "--quantiles: quantiles must ascend"),
        ({"horizon_h": 72}, "expected 1h to 48h"),
        ({"origins": 0}, "at least 1"),
        ({"zone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"country": "XX"}, "XX"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataFileError, match=sentence):
        BacktestOptions(HOUSEHOLDS, **wrong)


def test_a_file_too_short_for_its_origins_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("meter_id,ts,value\na,2013-01-01T00:00:00Z,1\na,2013-01-01T01:00:00Z,2\n")
    with pytest.raises(DataFileError, match="too short for 8 origins"):
        backtest(BacktestOptions(path))


def test_calibration_moves_the_interval_and_leaves_the_median(result: dict[str, Any]) -> None:
    assert result["overall"]["coverage_80"] != result["overall"]["coverage_80_raw"]
    assert abs(result["overall"]["coverage_80"] - 0.8) < 0.12


def test_with_too_little_before_the_first_origin_calibration_begins_there(tmp_path: Path) -> None:
    hours = pd.date_range("2013-01-01", periods=4 * 24, freq="h", tz="UTC")
    rows = pd.DataFrame({"meter_id": "a", "ts": hours, "value": 1.0 + np.arange(len(hours)) % 24})
    rows.to_parquet(path := tmp_path / "days.parquet")
    made = backtest(BacktestOptions(path, origins=2, spacing_h=24, horizon_h=24), Recipe(trees=2, rows_cap=500))
    assert math.isfinite(made["overall"]["coverage_80"])


def test_what_is_forecast_without_a_model_is_calibrated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hours = pd.date_range("2013-01-01", periods=19 * 24, freq="h", tz="UTC")
    load = np.random.default_rng(4).lognormal(0, 0.8, (3, len(hours)))
    rows = pd.DataFrame(
        {"meter_id": np.repeat(list("abc"), len(hours)), "ts": np.tile(hours, 3), "value": load.ravel()}
    )
    rows.to_parquet(path := tmp_path / "days.parquet")
    made = backtest(BacktestOptions(path, origins=9), Recipe(trees=2, rows_cap=500))
    assert "no model" in capsys.readouterr().err
    assert made["overall"]["coverage_80"] != made["overall"]["coverage_80_raw"]
