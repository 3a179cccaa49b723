"""Panels from files and from the record, and what training may see."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.dataset import Panel, Sampling, panel_from_file, panel_from_record, spoil, training_rows
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.features import FEATURES
from shared.grid import GridRules

HOUR_US = 3_600_000_000
RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)


def _half_hours(values: list[float], meter: str = "a") -> pd.DataFrame:
    ts = pd.date_range("2013-01-01", periods=len(values), freq="30min", tz="UTC")
    return pd.DataFrame({"meter_id": meter, "ts": ts, "value": values})


def _panel(hours: int = 24 * 40, meters: int = 3) -> Panel:
    load = np.random.default_rng(0).gamma(1.0, size=(meters, hours))
    return Panel([f"m{i}" for i in range(meters)], 0, 3600, load)


def test_half_hours_become_hours_by_mean_or_sum(tmp_path: Path) -> None:
    path = tmp_path / "readings.parquet"
    _half_hours([1.0, 3.0, 5.0, 5.0]).to_parquet(path)
    assert panel_from_file(path).load_kw.tolist() == [[2.0, 5.0]]
    assert panel_from_file(path, aggregate="sum").load_kw.tolist() == [[4.0, 10.0]]


def test_csv_reads_like_parquet(tmp_path: Path) -> None:
    rows = _half_hours([1.0, 3.0, 5.0, 5.0])
    rows.to_csv(tmp_path / "readings.csv", index=False)
    assert panel_from_file(tmp_path / "readings.csv").load_kw.tolist() == [[2.0, 5.0]]


def test_an_interval_with_under_half_its_readings_is_missing(tmp_path: Path) -> None:
    ts = pd.date_range("2013-01-01", periods=12, freq="15min", tz="UTC").delete([5, 6, 7, 9, 10])
    path = tmp_path / "readings.parquet"
    pd.DataFrame({"meter_id": "a", "ts": ts, "value": 1.0}).to_parquet(path)
    assert np.isnan(panel_from_file(path).load_kw).tolist() == [[False, True, False]]


def test_a_reading_listed_twice_counts_once(tmp_path: Path) -> None:
    rows = _half_hours([1.0, 3.0])
    path = tmp_path / "readings.parquet"
    pd.concat([rows, rows]).to_parquet(path)
    assert panel_from_file(path, aggregate="sum").load_kw.tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("meter_id,ts\na,2013-01-01", "has no column value"), ("meter_id,ts,value\na,yesterday-ish,1", "yesterday-ish")],
)
def test_a_file_that_cannot_be_used_is_answered_in_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "readings.csv"
    path.write_text(content)
    with pytest.raises(DataFileError, match=sentence):
        panel_from_file(path)


def test_a_missing_file_and_a_false_parquet_are_answered_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "false.parquet").write_bytes(b"no parquet")
    for name in ("false.parquet", "absent.parquet"):
        with pytest.raises(DataFileError, match=name):
            panel_from_file(tmp_path / name)


def test_record_rows_become_kw_by_unit_kind_and_period() -> None:
    rows = _half_hours([0.5, 1.0, 2.0, 2.0]).assign(unit="kWh", kind="energy", period_s=1800)
    watts = _half_hours([500.0, 1500.0], "b").assign(unit="W", kind="power", period_s=np.nan)
    panel = panel_from_record(pd.concat([rows, watts], ignore_index=True), RULES)
    assert panel.meters == ["a", "b"]
    assert panel.load_kw[0].tolist() == [1.5, 4.0]
    assert panel.load_kw[1, 0] == 1.0


def test_meters_of_two_sites_stay_apart() -> None:
    rows = pd.concat([_half_hours([1.0, 1.0]).assign(site=site) for site in ("north", "south")], ignore_index=True)
    panel = panel_from_record(rows.assign(unit="kWh", kind="energy", period_s=1800), RULES)
    assert panel.meters == ["north/a", "south/a"]


def test_windows_and_truth_are_missing_outside_the_panel() -> None:
    panel = _panel(hours=48)
    at = np.array([24 * HOUR_US], dtype=np.int64)
    window = panel.windows(np.array([1]), at)[0]
    assert np.isnan(window[:-24]).all()
    assert window[-24:].tolist() == panel.load_kw[1, :24].astype(np.float32).tolist()
    truth = panel.truth(np.array([1]), at, np.array([1, 24, 25]))[0]
    assert truth[:2].tolist() == panel.load_kw[1, [24, 47]].tolist()
    assert np.isnan(truth[2])


@settings(max_examples=15, deadline=None)
@given(cutoff=st.integers(100, 24 * 39), seed=st.integers(0, 2**32 - 1))
def test_no_training_row_knows_anything_after_the_cutoff(cutoff: int, seed: int) -> None:
    panel = _panel()
    changed = panel.load_kw.copy()
    changed[:, cutoff:] = 1e6
    ours, theirs = (
        training_rows(
            Panel(panel.meters, 0, 3600, load),
            until_us=cutoff * HOUR_US,
            rng=np.random.default_rng(seed),
            sampling=Sampling(rows_cap=500),
            calendar=Calendar(),
        )
        for load in (panel.load_kw, changed)
    )
    assert np.array_equal(ours.x, theirs.x, equal_nan=True)
    assert np.array_equal(ours.target, theirs.target)


def test_recent_rows_weigh_more_when_a_half_life_is_asked_for() -> None:
    rows = training_rows(
        _panel(),
        until_us=24 * 40 * HOUR_US,
        rng=np.random.default_rng(0),
        sampling=Sampling(rows_cap=4000, half_life_days=7.0),
        calendar=Calendar(),
    )
    assert rows.weight.mean() == pytest.approx(1.0)
    assert rows.weight.max() / rows.weight.min() > 2 ** (30 / 7)


def test_training_meets_every_feature_of_the_load_missing() -> None:
    rows = training_rows(
        _panel(), until_us=24 * 40 * HOUR_US, rng=np.random.default_rng(0), sampling=Sampling(), calendar=Calendar()
    )
    always = {"mean_672h", "mean_over_scale", "history_share", "stale_h", "lead_h", "hour", "weekday", "hour_of_week"}
    always |= {"free_day", "holiday", "holiday_lag_168h", "free_day_latest"}
    met = {name for name, share in zip(FEATURES, np.isnan(rows.x).mean(axis=0), strict=True) if share > 0}
    assert met >= set(FEATURES) - always


def test_a_panel_without_history_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="no training rows"):
        training_rows(
            _panel(hours=20),
            until_us=20 * HOUR_US,
            rng=np.random.default_rng(0),
            sampling=Sampling(),
            calendar=Calendar(),
        )


def test_spoiling_only_takes_values_away() -> None:
    windows = np.random.default_rng(0).normal(size=(50, 720)).astype(np.float32)
    spoilt = spoil(windows, np.random.default_rng(1), 0.9, steps_per_day=24)
    kept = np.isfinite(spoilt)
    assert 0.2 < kept.mean() < 0.95
    assert np.array_equal(spoilt[kept], windows[kept])
