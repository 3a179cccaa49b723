"""The bench of the starter at finer steps, at toy size: what it judges, by whom, and its table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import starter_steps
from central.starter import OpenSet
from central.training import Recipe
from shared.errors import ExitCode

SETS = (OpenSet("lcl_households", "CC BY 4.0", "nobody"), OpenSet("citylearn_2022", "MIT", "nobody else"))
RECIPE = Recipe(trees=5, rows_cap=2_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of two meters and seven weeks: half-hours that see-saw within the hour, and hours."""
    found = tmp_path_factory.mktemp("open")
    for number, (of, minutes) in enumerate(zip(SETS, (30, 60), strict=True)):
        ts = pd.date_range("2026-01-05", periods=49 * 1440 // minutes, freq=f"{minutes}min", tz="UTC")
        noise = np.random.default_rng(number).normal(0, 0.3, (2, len(ts)))
        shape = 3 + np.sin(ts.hour.to_numpy() / 24 * 2 * np.pi) + 0.5 * (ts.minute.to_numpy() == 30)
        frames = [pd.DataFrame({"meter_id": f"m{m}", "ts": ts, "value": shape + noise[m]}) for m in range(2)]
        pd.concat(frames).to_parquet(found / f"{of.stem}.parquet")
    return found


def test_each_set_finer_than_an_hour_is_judged_at_every_history(folder: Path) -> None:
    rows = starter_steps.run(folder, sets=SETS, recipe=RECIPE)
    assert [(row.unseen, row.step_s, row.history_d) for row in rows] == [
        ("lcl_households", 1800, days) for days in starter_steps.HISTORIES_D
    ]
    assert all(np.isfinite([*row.starter, *row.simple]).all() for row in rows)
    mase, wql, coverage = rows[-1].starter
    assert mase < 1.0
    assert wql < 0.1
    assert 0.5 < coverage < 1.0


def test_the_table_has_a_line_a_row() -> None:
    row = starter_steps.Row("a_set", 900, 5, 9, (0.5, 0.25, 0.8), (1.0, 0.5, 0.75))
    assert starter_steps.table([row]).split("\n")[2:] == [
        "| a_set | 15 min | 5 d | 0.500 / 0.250 / 0.800 | 1.000 / 0.500 / 0.750 |"
    ]


def test_a_set_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert starter_steps.main([str(tmp_path)]) == ExitCode.FAILED
    assert "lcl_households.parquet: is not there" in capsys.readouterr().err
