"""What the demo makes of a run: scores, summary, sentences and the picture, on a small made-up run."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from demo.archive import LEADS
from demo.fans import choose_fans
from demo.picture import draw, moments
from demo.progress import Progress
from demo.scores import Hindsight, mase
from demo.summary import Outcome, Recorded, read_export, summarize, write_summary
from demo.telling import broken, sentences
from tests.unit.demo_run import RETRAINED, SCENARIO, play

ISSUE_KEYS = {
    "meters", "readings_published", "readings_recorded", "dead_letters", "forecasts_published", "fallback_forecasts",
    "drift_events", "models", "mase_seasonal_naive", "mase_before_retrain", "mase_after_retrain", "coverage_80",
    "missed_forecasts", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return play()


def test_the_summary_holds_every_promised_key_and_is_plain_json(outcome: Outcome, tmp_path: Path) -> None:
    summary = summarize(outcome)
    write_summary(summary, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary.keys() >= ISSUE_KEYS
    assert {"version", "trained_rows", "mase", "pushed_at", "swapped_at"} <= summary["models"][0].keys()


def test_the_summary_counts_what_was_on_the_wire(outcome: Outcome) -> None:
    summary = summarize(outcome)
    assert summary["meters"] == 6
    assert summary["forecasts_published"] == 6 * SCENARIO.hours
    assert summary["missed_forecasts"] == 0
    assert [model["version"] for model in summary["models"]] == [1, 2]
    assert summary["models"][1]["swapped_at"] == "2013-03-27T00:00:00Z"


def test_old_and_new_model_are_judged_on_the_same_hours_after_the_swap(outcome: Outcome) -> None:
    verdict = outcome.verdict()
    assert verdict is not None
    assert verdict.changed.origins == SCENARIO.hours - RETRAINED - LEADS + 1
    assert verdict.changed.mase_new < verdict.changed.mase_old


def test_mase_agrees_with_the_definition_computed_by_hand(outcome: Outcome) -> None:
    verdict, kw = outcome.verdict(), outcome.hindsight.kw
    assert verdict is not None
    of_meters = []
    for load in kw[outcome.changed]:
        of_origins = []
        for origin in range(RETRAINED, SCENARIO.hours - LEADS + 1):
            error = np.nanmean(np.abs(load[origin : origin + LEADS] - 0.1))
            of_origins.append(error / np.nanmean(np.abs(load[24:origin] - load[: origin - 24])))
        of_meters.append(np.mean(of_origins))
    assert verdict.changed.mase_old == pytest.approx(np.mean(of_meters), rel=1e-6)


def test_seasonal_naive_is_the_value_a_week_before() -> None:
    hindsight = Hindsight.of(np.arange(400.0)[None, :])
    assert hindsight.naive[0, 200, 0] == 200 - 168
    assert hindsight.naive[0, 200, 47] == 247 - 168
    assert hindsight.truth[0, 200, 47] == 247


def test_a_forecast_with_under_half_of_its_truth_counts_for_nothing() -> None:
    kw = np.random.default_rng(1).uniform(1, 2, (1, 400))
    hindsight = Hindsight.of(kw)
    scaled = hindsight.scaled_errors(np.ones((1, 401, LEADS)))
    assert np.isfinite(scaled[0, 400 - LEADS // 2])
    assert np.isnan(scaled[0, 400 - LEADS // 2 + 1])
    assert np.isnan(mase(scaled, np.zeros_like(scaled, bool)))


def test_without_a_retrain_the_figures_are_null_and_the_sentences_say_so(outcome: Outcome) -> None:
    summary = summarize(replace(outcome, retrain=None))
    assert summary["mase_after_retrain"] is None
    assert "no retrained model took over" in sentences(summary)[-1]


def test_a_lost_reading_is_told_loudly(outcome: Outcome) -> None:
    lost = replace(outcome, recorded=Recorded(outcome.recorded.readings - 2, 0))
    assert any("2 NOT accounted for" in line for line in sentences(summarize(lost)))


def test_a_run_that_kept_its_promises_is_not_broken(outcome: Outcome) -> None:
    assert broken(summarize(outcome)) == ""


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"readings_recorded": 0, "readings_published": 5, "dead_letters": 2}, "5 readings published are not 0 + 2"),
        ({"readings_recorded": 6, "readings_published": 5, "dead_letters": 0}, "5 readings published are not 6 + 0"),
        ({"missed_forecasts": 3}, "3 forecasts missed"),
        ({"models_refused": 1}, "1 models refused"),
        ({"mase_after_retrain": None}, "no retrained model took over"),
    ],
)
def test_each_broken_promise_is_named(outcome: Outcome, figures: dict[str, object], said: str) -> None:
    assert said in broken(summarize(outcome) | figures)
    assert "\n" not in broken(summarize(outcome) | figures | {"missed_forecasts": 9, "models_refused": 9})


def test_a_new_model_that_is_no_better_is_told_and_breaks_nothing(outcome: Outcome) -> None:
    summary = summarize(outcome)
    assert "NOT better" not in sentences(summary)[-1]
    summary["changed_meters"] |= {"mase_new": summary["changed_meters"]["mase_old"]}
    assert "NOT better" in sentences(summary)[-1]
    assert broken(summary) == ""


def test_the_picture_renders_and_marks_every_moment(outcome: Outcome, tmp_path: Path) -> None:
    draw(outcome, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")
    assert [mark.text for mark in moments(outcome)] == ["v1 takes over", "cars arrive", "drift seen", "v2 takes over"]


def test_the_picture_renders_without_a_retrain(outcome: Outcome, tmp_path: Path) -> None:
    draw(replace(outcome, retrain=None), tmp_path / "loop.png")
    assert (tmp_path / "loop.png").stat().st_size > 10_000


def test_the_fans_show_one_changed_household_before_and_after(outcome: Outcome) -> None:
    before, after = choose_fans(outcome)
    assert "v1" in before.title
    assert "v2" in after.title
    assert len(after.truth_kw) == 72 + LEADS
    assert before.charging
    assert after.charging


def test_dead_letters_of_one_id_count_once(tmp_path: Path) -> None:
    pd.DataFrame({"ts": [1, 2]}).to_parquet(tmp_path / "readings.parquet")
    dead = pd.DataFrame({"id": ["a", "a", "b"], "count": [1, 1, 5]})
    dead.to_parquet(tmp_path / "dead.parquet")
    assert read_export(tmp_path / "readings.parquet", tmp_path / "dead.parquet") == Recorded(2, 6)


def test_without_a_terminal_progress_writes_no_control_characters() -> None:
    out = StringIO()
    progress = Progress(out)
    progress.now("half way")
    progress.step("done")
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
