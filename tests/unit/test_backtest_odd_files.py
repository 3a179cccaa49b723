"""`central backtest` on what files really hold: short, constant, silent, doubled, of any scale, step and form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from central.backtest import backtest
from central.backtest_options import BacktestOptions
from central.file_panel import panel_from_file
from central.training import Recipe
from shared.errors import DataFileError

TINY = Recipe(trees=3, rows_cap=2000)


def _meter(name: str, steps: int, start: str = "2020-01-01", *, scale: float = 1.0, step: str = "1h") -> pd.DataFrame:
    """A daily swing with noise: the same for the same name."""
    ts = pd.date_range(start, periods=steps, freq=step, tz="UTC")
    hours = np.arange(steps) * (pd.Timedelta(step) / pd.Timedelta("1h"))
    noise = np.random.default_rng(len(name)).normal(size=steps)
    value = scale * (2 + np.sin(hours * 2 * np.pi / 24) + 0.3 * noise)
    return pd.DataFrame({"meter_id": name, "ts": ts, "value": value})


def _backtest(folder: Path, rows: pd.DataFrame, **options: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """The result and the forecasts of rows."""
    path, out = folder / "readings.parquet", folder / "forecasts.parquet"
    rows.to_parquet(path)
    result = backtest(BacktestOptions(path, out=out, **options), TINY)
    return result, pd.read_parquet(out)


def _odd_meters() -> list[pd.DataFrame]:
    days = 40 * 24
    third = _meter("third missing", days)
    third.loc[::3, "value"] = np.nan
    twice = _meter("twice", days)
    return [
        _meter("plain", days),
        _meter("huge", days, scale=1e7),
        _meter("tiny", days, scale=1e-5),
        _meter("constant", days).assign(value=5.0),
        _meter("zero", days).assign(value=0.0),
        _meter("never a value", days).assign(value=np.nan),
        _meter("one day", 24, "2020-02-08"),
        _meter("starts late", 9 * 24, "2020-02-01"),
        _meter("stops early", 20 * 24),
        third,
        _meter("hole", days).drop(index=range(300, 700)),
        pd.concat([twice, twice.iloc[::2]]),
    ]


@pytest.mark.parametrize("own_ends", [False, True])
def test_one_odd_meter_spoils_nothing_for_the_others(tmp_path: Path, own_ends: bool) -> None:
    result, forecasts = _backtest(tmp_path, pd.concat(_odd_meters(), ignore_index=True), own_ends=own_ends)
    assert all(math.isfinite(value) for value in result["overall"].values())
    assert np.isfinite(forecasts["value"]).all()
    told = set(forecasts["meter_id"])
    assert {"plain", "huge", "tiny", "constant", "zero", "starts late", "hole", "twice"} <= told
    assert not told & {"never a value", "one day"}  # nobody could forecast these, or judge them
    assert ("stops early" in told) == own_ends


def test_measures_over_nothing_but_zeros_are_none_of_them_invented(tmp_path: Path) -> None:
    result, forecasts = _backtest(tmp_path, _meter("zero", 40 * 24).assign(value=0.0))
    assert math.isnan(result["overall"]["mase"])
    assert result["overall"]["smape"] == 0.0
    assert (forecasts["value"] == 0.0).all()


@pytest.mark.parametrize("days", [4, 12, 21])
def test_a_file_of_some_days_is_forecast_from_the_origins_it_has(tmp_path: Path, days: int) -> None:
    result, forecasts = _backtest(tmp_path, _meter("short", days * 24), own_ends=True)
    assert result["meters"] == 1
    assert forecasts["origin"].nunique() == min(8, days // 2 - 1)


def test_without_anything_to_train_on_the_simple_rungs_forecast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, forecasts = _backtest(tmp_path, _meter("short", 72), origins=1)
    assert np.isfinite(forecasts["value"]).all()
    assert "no model" in capsys.readouterr().err


@pytest.mark.parametrize(("step_s", "step"), [(900, "15min"), (1800, "30min")])
def test_shorter_steps_have_more_leads_and_the_same_buckets_in_hours(tmp_path: Path, step_s: int, step: str) -> None:
    rows = _meter("m", 21 * 86_400 // step_s, step=step)
    result, forecasts = _backtest(tmp_path, rows, step_s=step_s, horizon_h=24, origins=2)
    assert forecasts["lead"].max() == 86_400 // step_s
    assert [bucket["to"] for bucket in result["by_lead"]] == [6, 12, 24]


@pytest.mark.parametrize(
    "quantiles", [(0.05, 0.5, 0.95), (0.5,), (0.2, 0.5, 0.6, 0.99), (0.2, 0.8), (0.9,), (0.05, 0.25, 0.75, 0.95)]
)
def test_any_set_of_quantiles_is_measured_on_the_deciles(tmp_path: Path, quantiles: tuple[float, ...]) -> None:
    result, forecasts = _backtest(tmp_path, _meter("m", 30 * 24), quantiles=quantiles, origins=2)
    overall, spanned = result["overall"], quantiles[0] <= 0.1 and quantiles[-1] >= 0.9
    assert math.isfinite(overall["wql"])
    assert [math.isfinite(overall[name]) for name in ("coverage_80", "coverage_80_raw", "width_80")] == [spanned] * 3
    assert set(forecasts["quantile"]) == set(quantiles)
    wide = forecasts.pivot(index=["meter_id", "origin", "lead"], columns="quantile", values="value").to_numpy()
    assert (np.diff(wide, axis=1) >= 0).all()


@pytest.mark.parametrize("own_ends", [False, True])
def test_training_sees_nothing_at_or_after_a_meters_first_origin(tmp_path: Path, own_ends: bool) -> None:
    rows = pd.concat([_meter("a", 40 * 24), _meter("bb", 36 * 24)], ignore_index=True)
    options: dict[str, Any] = {"own_ends": own_ends, "origins": 3, "spacing_h": 24}
    _, before = _backtest(tmp_path, rows, **options)
    first = before.groupby("meter_id")["origin"].min()
    cut = rows["meter_id"].map(first) if own_ends else pd.Series(first.min(), index=rows.index)
    changed = rows.assign(value=np.where(rows["ts"] >= cut, 1000.0 - 7 * rows["value"], rows["value"]))
    _, after = _backtest(tmp_path, changed, **options)
    at_first = before["origin"] == before["meter_id"].map(first)
    assert at_first.sum() >= 48 * 3
    assert before[at_first].equals(after[at_first])
    assert not before[~at_first].equals(after[~at_first])  # later origins do see it, in their windows


def test_a_rivals_gaps_do_not_change_what_it_is_compared_on(tmp_path: Path) -> None:
    rows = pd.concat([_meter("a", 40 * 24), _meter("new", 6 * 24, "2020-02-04")], ignore_index=True)
    both, _ = _backtest(tmp_path, rows, origins=2)
    alone, _ = _backtest(tmp_path, rows[rows["meter_id"] == "a"], origins=2)
    assert both["overall"]["rel_mae_168"] == pytest.approx(alone["overall"]["rel_mae_168"], rel=0.05)


FORMS: dict[str, Callable[[pd.Series], Any]] = {
    "ISO with Z": lambda ts: ts.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "with an offset": lambda ts: ts.dt.tz_convert("Europe/Berlin").astype(str),
    "without a zone": lambda ts: ts.dt.strftime("%Y-%m-%d %H:%M"),
    "with slashes": lambda ts: ts.dt.strftime("%Y/%m/%d %H:%M"),
    "mixed": lambda ts: ts.dt.strftime("%Y-%m-%dT%H:%MZ").where(ts.dt.hour > 3, ts.dt.strftime("%Y-%m-%d %H:%M:%S")),
    "epoch s": lambda ts: ts.dt.as_unit("s").astype("int64"),
    "epoch ms": lambda ts: ts.dt.as_unit("ms").astype("int64"),
    "epoch s with a fraction": lambda ts: ts.dt.as_unit("s").astype("int64") + 0.25,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_csv_says_its_instants_in_many_ways_and_means_the_same(tmp_path: Path, form: str) -> None:
    rows = _meter("m", 50)
    rows.assign(ts=FORMS[form](rows["ts"])).to_csv(tmp_path / "readings.csv", index=False)
    panel = panel_from_file(tmp_path / "readings.csv")
    assert panel.start_us == 1_577_836_800_000_000
    assert np.allclose(panel.load_kw[0], rows["value"])


def test_a_csv_keeps_its_meters_names(tmp_path: Path) -> None:
    rows = pd.concat([_meter(name, 3) for name in ("007", "NA", "nan")])
    rows.to_csv(tmp_path / "readings.csv", index=False)
    assert panel_from_file(tmp_path / "readings.csv").meters == ["007", "NA", "nan"]


def test_instants_may_be_the_index_of_a_parquet_file(tmp_path: Path) -> None:
    _meter("m", 5).set_index("ts").to_parquet(tmp_path / "readings.parquet")
    assert panel_from_file(tmp_path / "readings.parquet").load_kw.shape == (1, 5)


def test_a_wrong_instant_that_would_fill_the_memory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    rows = pd.concat([_meter(f"m{i}", 5) for i in range(200)], ignore_index=True)
    rows.loc[0, "ts"] = pd.Timestamp("1970-01-01", tz="UTC")
    rows.to_parquet(tmp_path / "readings.parquet")
    with pytest.raises(DataFileError, match=r"from 1970-01-01 .* is a ts wrong"):
        panel_from_file(tmp_path / "readings.parquet", step_s=900)


@pytest.mark.parametrize(
    ("column", "text", "why"),
    [("value", "abc", "column value: Unable to parse"), ("ts", "yesterday", "column ts: .* is not ISO8601 format$")],
)
def test_a_column_that_cannot_be_read_is_named(tmp_path: Path, column: str, text: str, why: str) -> None:
    _meter("a", 3).assign(**{column: text}).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(DataFileError, match=f"odd.csv: {why}"):
        panel_from_file(tmp_path / "odd.csv")


@pytest.mark.parametrize(("step_s", "told"), [(1800, True), (3600, False)])
def test_a_step_shorter_than_the_readings_are_apart_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step_s: int, told: bool
) -> None:
    _backtest(tmp_path, _meter("a", 24 * 8), origins=1, step_s=step_s)
    assert ("1 meters never have two intervals in a row" in capsys.readouterr().err) is told


def test_where_forecasts_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="is a folder"):
        backtest(BacktestOptions(tmp_path / "absent.parquet", out=tmp_path))
