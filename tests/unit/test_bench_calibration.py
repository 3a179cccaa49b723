"""The calibration bench at toy size: its plant, its trial, its table, its picture, and what it says is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bench import calibration
from bench.calibration import Outcome, Trial, changed_panel, table, trial
from bench.calibration_picture import draw
from central.dataset import Panel
from shared.errors import ExitCode


def said(
    windows: NDArray[np.float32], _: NDArray[np.int64], leads: NDArray[np.int64], _ahead: object = None, /
) -> NDArray[np.float64]:
    """Forecast 4.5 to 5.5 kW, whatever was."""
    return np.tile([4.5, 5.0, 5.5], (len(windows), len(leads), 1))


@pytest.fixture(scope="module")
def tried() -> Trial:
    load_kw = np.random.default_rng(2).normal(5.0, 1.0, (3, 1800))
    return trial(Panel(["a", "b", "c"], 0, 3600, load_kw), said, np.arange(30, 1750, dtype=np.int64))


def test_a_trial_is_raw_and_calibrated_at_every_lead(tried: Trial) -> None:
    assert tried.calibrated.shape == tried.raw.shape == (*tried.actual.shape, 3)
    late = tried.of(slice(1000, None))
    raw, moved = (np.nanmean(late.covered(forecast)) for forecast in (late.raw, late.calibrated))
    assert raw < 0.45
    assert moved > 0.65
    assert np.array_equal(tried.calibrated[:, 0], tried.raw[:, 0])


def test_each_meter_is_changed_in_its_turn_from_a_column_on() -> None:
    changed = changed_panel(Panel(["a", "b", "c"], 0, 3600, np.full((3, 10), 2.0)), 6).load_kw
    assert (changed[:, :6] == 2.0).all()
    assert changed[:, 6:].mean(axis=1) == pytest.approx([3.2, 1.0, 4.0])


def test_the_table_has_two_lines_a_set_and_the_picture_a_row(tried: Trial, tmp_path: Path) -> None:
    outcome = Outcome("toys", 3, tried, tried, 500)
    lines = table([outcome, outcome]).splitlines()
    assert [line.split(" | ")[3].strip() for line in lines[2:]] == ["raw", "calibrated"] * 2
    assert len({line.count("|") for line in lines}) == 1
    draw([outcome, outcome], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_sets_that_are_missing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main([str(tmp_path), "--out", str(tmp_path)]) == ExitCode.FAILED
    assert all(source.file in capsys.readouterr().err for source in calibration.SOURCES[:1])


def test_meters_that_are_mostly_missing_or_zero_are_left_out(tmp_path: Path) -> None:
    hours = pd.date_range("2020-01-01", periods=100, freq="h", tz="UTC")
    values = {"full:load": np.ones(100), "zero:load": np.zeros(100), "short:load": np.ones(20), "full:pv": np.ones(100)}
    frames = [pd.DataFrame({"meter_id": m, "ts": hours[: len(v)], "value": v}) for m, v in values.items()]
    pd.concat(frames).to_parquet(tmp_path / "toys.parquet")
    panel = calibration._panel(calibration.Source("toys", "toys.parquet", meters=":load"), tmp_path)
    assert panel.meters == ["full:load"]
