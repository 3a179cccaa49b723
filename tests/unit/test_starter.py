"""The starter: how it is made, what it takes to ship, and how an edge serves by it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from central import starter as making
from central.cli import main
from central.starter_judging import HISTORIES_D, SIMPLE, STARTER, Line, min_history_d, objections, table
from central.training import Recipe
from edge import starter as shipping
from edge.forecaster import RUNGS, Lineup, Plan, forecast
from edge.starter import Starter
from shared.calendars import Calendar
from shared.errors import DataFileError, ExitCode, MetercastError, ModelRefused

ORIGIN_US = 1_767_571_200_000_000
PLAN = Plan(step_s=3600, horizon_steps=48, quantiles=(0.1, 0.5, 0.9), calendar=Calendar(), min_history_steps=72)
SETS = (
    making.OpenSet("first", "CC BY 4.0", "nobody", aggregate="sum", zone="Europe/London", country="GB"),
    making.OpenSet("second", "MIT", "nobody else", endings=(":load",)),
)
RECIPE = Recipe(trees=5, rows_cap=2_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two open sets of two meters and six weeks: a daily shape with noise, larger on working days."""
    found = tmp_path_factory.mktemp("open")
    for number, (stem, minutes) in enumerate((("first", 30), ("second", 60))):
        ts = pd.date_range("2026-01-05", periods=42 * 1440 // minutes, freq=f"{minutes}min", tz="UTC")
        rng = np.random.default_rng(number)
        shape = 2 + np.sin(ts.hour.to_numpy() / 24 * 2 * np.pi) + (ts.day_of_week < 5)
        frames = [
            pd.DataFrame({"meter_id": f"m{m}:load", "ts": ts, "value": (m + 1) * shape + rng.normal(0, 0.3, len(ts))})
            for m in range(2)
        ]
        pd.concat([*frames, frames[0].assign(meter_id="m9:pv", value=0.0)]).to_parquet(found / f"{stem}.parquet")
    return found


@pytest.fixture(scope="module")
def made(folder: Path) -> making.Made:
    return making.make(folder, sets=SETS, recipe=RECIPE)


@pytest.fixture(scope="module")
def shipped() -> Starter:
    return shipping.load(step_s=3600)


def _lines(own: float, *, from_d: int = 1, below: float = 2.0) -> list[Line]:
    """Lines on which the starter's measures are `own` from a history on and `below` before it; all others' are 1."""

    def scores(value: float) -> dict[str, float | None]:
        return {"mase": value, "wql": value, "coverage_80": 0.8}

    simple = {who: scores(1.0) for who in SIMPLE}
    return [Line("a_set", d, 1, 1, simple | {STARTER: scores(own if d >= from_d else below)}) for d in HISTORIES_D]


def _windows(*hours: int) -> NDArray[np.float32]:
    """A window for each number of hours of history: a daily shape with noise."""
    rng = np.random.default_rng(1)
    windows = (2 + np.sin(np.arange(720) / 24 * 2 * np.pi) + rng.normal(0, 0.2, (len(hours), 720))).astype(np.float32)
    for row, known in enumerate(hours):
        windows[row, : 720 - known] = np.nan
    return windows


def test_the_same_folder_gives_the_same_bytes(folder: Path, made: making.Made, tmp_path: Path) -> None:
    again = making.make(folder, sets=SETS, recipe=RECIPE)
    for where, one in (("a", made), ("b", again)):
        making.write(making.Made(one.artifact, one.manifest, one.sources, one.lines, 7, ()), tmp_path / where)
    for name in (shipping.MODEL_FILE, shipping.MANIFEST_FILE, shipping.JUDGED_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_the_command_writes_passes_the_edges_gate(made: making.Made, tmp_path: Path) -> None:
    making.write(making.Made(made.artifact, made.manifest, made.sources, made.lines, 2, ()), tmp_path)
    starter = shipping.load(step_s=3600, folder=tmp_path)
    assert starter.min_history_steps == 48
    assert starter.model.manifest.name == making.NAME


def test_every_set_gives_as_many_rows_and_what_is_mostly_zero_none(made: making.Made) -> None:
    first, second = made.sources
    assert len(first.rows.x) == len(second.rows.x)
    assert first.panel.meters == second.panel.meters == ["m0:load", "m1:load"]
    assert np.nanmean(first.panel.load_kw[0]) > 1.5 * np.nanmean(second.panel.load_kw[0])  # half-hours are summed


def test_a_set_is_judged_by_a_model_that_has_not_seen_it(made: making.Made) -> None:
    assert {(line.left_out, line.history_d) for line in made.lines} == {
        (stem, days) for stem in ("first", "second") for days in HISTORIES_D
    }
    weekly = [line.scores["seasonal_naive_168"]["mase"] for line in made.lines if line.history_d < 5]
    assert weekly == [None] * len(weekly)  # what is older than the history is hidden


def test_a_starter_behind_seasonal_naive_after_a_week_is_refused_and_nothing_written(
    made: making.Made, tmp_path: Path
) -> None:
    assert objections(_lines(0.9, from_d=7)) == ()
    reasons = objections(_lines(0.9, from_d=14, below=1.0))
    assert "on a_set with 7 d of history its mase is 1.000, seasonal_naive_168's 1.000" in reasons
    refused = making.Made(made.artifact, made.manifest, made.sources, made.lines, 7, reasons)
    with pytest.raises(MetercastError, match="no starter was written: on a_set with 7 d"):
        making.write(refused, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_least_history_is_where_the_starter_stops_being_worse_than_the_simple_rungs() -> None:
    assert min_history_d(_lines(0.9)) == 1
    assert min_history_d(_lines(0.9, from_d=5)) == 5
    assert min_history_d(_lines(1.01)) is None  # within the tolerance, but no better over all sets
    assert min_history_d([*_lines(0.9), *_lines(1.01)]) == 1
    assert min_history_d([*_lines(0.9), *_lines(1.01, from_d=3, below=1.03)]) == 3


def test_a_folder_without_a_set_is_answered_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataFileError, match=r"first\.parquet: is not there"):
        making.make(tmp_path, sets=SETS)
    assert main(["train", "--starter", f"DATA={tmp_path}"]) not in (ExitCode.OK, ExitCode.REJECTED)
    assert "lcl_households.parquet: is not there" in capsys.readouterr().err


def test_the_document_holds_the_table_of_what_ships() -> None:
    judged = making.shipped_lines()
    document = making.DOCUMENT.read_text(encoding="utf-8")
    assert making.with_table(document, judged) == document
    assert table(judged).count("\n") == 1 + 3 * len(HISTORIES_D)
    assert objections(judged) == ()


def test_the_shipped_starter_passes_the_gate_and_is_small(shipped: Starter) -> None:
    assert shipped.model.manifest.size <= making.MAX_BYTES
    assert shipped.min_history_steps == 24 * (min_history_d(making.shipped_lines()) or 0)


def test_without_a_champion_the_starter_serves_who_has_the_history_and_the_reason_says_so(shipped: Starter) -> None:
    least = shipped.min_history_steps
    made = forecast(_windows(720, least, least - 1, 30), ORIGIN_US, PLAN, Lineup(starter=shipped))
    assert [RUNGS[code] for code in made.rung] == ["starter", "starter", "profile_mean", "seasonal_naive_24"]
    assert made.reasons[0] == "no model of this site yet: the starter"
    assert made.reasons[3] == f"no model of this site yet, and less than the {least} h that the starter needs"
    assert np.isfinite(made.load_kw).all()
    assert (np.diff(made.load_kw, axis=2) >= 0).all()


def test_a_champion_goes_before_the_starter_and_one_that_fails_leaves_its_meters_to_it(shipped: Starter) -> None:
    champion = shipped.model  # any checked model will do
    served = forecast(_windows(720), ORIGIN_US, PLAN, Lineup(champion, starter=shipped))
    assert (RUNGS[served.rung[0]], served.reasons[0]) == ("champion", "")
    patient = Plan(3600, 48, PLAN.quantiles, PLAN.calendar, min_history_steps=721)
    early = forecast(_windows(720), ORIGIN_US, patient, Lineup(champion, starter=shipped))
    assert (RUNGS[early.rung[0]], early.reasons[0]) == ("starter", "less than 721 h of history: the starter")


def test_other_quantiles_are_interpolated_and_never_below_the_floor(shipped: Starter) -> None:
    plan = Plan(3600, 24, (0.01, 0.25, 0.5, 0.99), PLAN.calendar, 72)
    made = forecast(_windows(720), ORIGIN_US, plan, Lineup(starter=shipped))
    usual = forecast(_windows(720), ORIGIN_US, PLAN, Lineup(starter=shipped))
    assert made.load_kw.shape == (1, 24, 4)
    assert np.allclose(made.load_kw[0, :, 2], usual.load_kw[0, :24, 1])
    assert (np.diff(made.load_kw, axis=2) >= 0).all()
    assert made.load_kw.min() >= 0


def test_a_starter_of_another_step_or_with_a_changed_byte_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="step_s is 3600, this edge forecasts 2700"):
        shipping.load(step_s=2700)
    for name in (shipping.MODEL_FILE, shipping.MANIFEST_FILE, shipping.JUDGED_FILE):
        shutil.copy(shipping.FOLDER / name, tmp_path)
    packed = bytearray((tmp_path / shipping.MODEL_FILE).read_bytes())
    packed[len(packed) // 2] ^= 1
    (tmp_path / shipping.MODEL_FILE).write_bytes(packed)
    with pytest.raises(ModelRefused):
        shipping.load(step_s=3600, folder=tmp_path)
    (tmp_path / shipping.JUDGED_FILE).unlink()
    with pytest.raises(ModelRefused, match="the starter cannot be read"):
        shipping.load(step_s=3600, folder=tmp_path)
    assert shipping.shipped(step_s=2700) is None
