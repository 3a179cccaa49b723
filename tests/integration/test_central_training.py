"""A training from the record to the registry, as the command a person types, on a small synthetic record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from central.cli import main
from central.explain_command import tell
from central.explained import as_json
from central.export import OnnxForecaster
from central.record import Record
from central.registry import Registry
from central.rollout_state import RolloutState
from central.runs import LoggedRun, RunRecord
from central.trainings import FLEET, Result, results_in
from central.work import WorkFolder, replace_text
from shared.calendars import Calendar
from shared.clock import HOUR_US, iso
from shared.covariates import column_names
from shared.errors import MetercastError
from shared.features import FEATURES
from shared.manifest import pack
from shared.messages import COVARIATE_COLUMNS, Uplink, columns_of
from shared.params import Params
from tests.integration.small_trainings import DAYS, METERS, START_US, arguments, central, fill
from tests.processes import ROOT, environment


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("central")
    fill(Record(str(folder / "record")))
    line = [sys.executable, "-m", "central", *arguments(folder, "train")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    results = list(results_in(folder / "trainings"))
    assert len(results) == 1
    return folder, results[0][1]


def test_a_training_leaves_a_result_that_says_what_it_rests_on(trained: tuple[Path, Result]) -> None:
    _, result = trained
    assert (result.outcome, result.version, result.meters) == ("accepted", 1, METERS)
    assert result.record_version == METERS
    assert result.until == iso(START_US + DAYS * 24 * HOUR_US)
    assert result.mase is not None
    assert result.mase_naive is not None
    assert result.mase < result.mase_naive
    assert result.trained_rows > 1000


def test_the_manifest_is_about_the_artifact_that_lies_beside_it(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    manifest = result.manifest
    assert manifest is not None
    packed = pack(WorkFolder(folder).artifact(manifest.sha256).read_bytes())
    assert packed.claims.items() <= manifest.model_dump().items()
    assert any(value is None for row in manifest.golden.inputs for value in row)
    assert (manifest.zone, manifest.country) == ("UTC", "")


def test_the_registry_holds_the_run_the_version_and_the_alias(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    registry = Registry("", folder / "mlflow")
    assert registry.aliases(FLEET) == {"candidate": 1}
    run = registry._client().get_run(result.run_id)
    assert run.data.metrics["mase"] == pytest.approx(result.mase)
    assert {"lead_1_to_6h.mase", "meters_small.mase", "naive.mase"} <= run.data.metrics.keys()
    assert run.data.params["record_version"] == str(METERS)
    files = [info.path for info in registry._client().list_artifacts(result.run_id, "model")]
    assert files == ["model/manifest.json", "model/model.onnx"]


def test_the_registrys_aliases_are_set_and_taken_away(trained: tuple[Path, Result], tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "central")
    shutil.copytree(trained[0], work.root)
    assert central(work.root, "models", "aliases", "1", "0", "0").returncode == 0
    assert Registry("", work.mlflow).aliases(FLEET) == {"champion": 1}
    assert central(work.root, "models", "aliases", "0", "1", "0").returncode == 0
    assert Registry("", work.mlflow).aliases(FLEET) == {"challenger": 1}


def test_models_lists_what_was_accepted(trained: tuple[Path, Result]) -> None:
    folder, _ = trained
    listed = json.loads(central(folder, "models", "--json").stdout)
    assert [(row["version"], row["role"], row["reason"]) for row in listed] == [(1, "past", "command")]


def test_approving_what_does_not_wait_is_refused_in_a_sentence(trained: tuple[Path, Result]) -> None:
    refused = central(trained[0], "models", "approve", "1")
    assert refused.returncode == 1
    assert refused.stderr.strip() == "central: models: version 1 does not wait for approval; waiting: none"


def test_a_champion_is_judged_only_on_what_came_after_its_own_training(
    trained: tuple[Path, Result], tmp_path: Path
) -> None:
    work = WorkFolder(tmp_path / "central")
    shutil.copytree(trained[0], work.root)
    (training, first), *_ = results_in(work.trainings)
    replace_text(work.rollout, RolloutState(champion=first.manifest).model_dump_json(by_alias=True))
    assert central(work.root, "train").returncode == 0
    again = list(results_in(work.trainings))[-1][1]
    assert again.mase_champion is None
    assert again.reasons[-1] == "it was not judged against the champion: only 0 windows are new to that"
    training.finish(first.model_copy(update={"until": iso(START_US + (DAYS - 4) * 24 * HOUR_US)}))
    assert central(work.root, "train").returncode in (0, 4)
    compared = list(results_in(work.trainings))[-1][1]
    assert compared.mase_champion is not None
    assert any("of the champion" in reason for reason in compared.reasons)


@pytest.mark.parametrize("command", ["train", "run"])
@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("training__scope", "site", "training.scope: site is not built yet; only fleet"),
        ("calendar__country", "ZZ", "calendar.country: unknown country for holidays: 'ZZ'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    command: str, setting: str, value: str, sentence: str, tmp_path: Path
) -> None:
    refused = central(tmp_path, command, **{setting: value})
    assert refused.returncode == 2
    assert refused.stderr.strip() == f"central: {sentence}"


def test_a_model_that_misses_the_criteria_is_logged_and_not_registered(trained: tuple[Path, Result]) -> None:
    folder, _ = trained
    done = central(folder, "train", training__criteria__max_vs_naive="0.01")
    assert done.returncode == 4, done.stderr
    assert "is above 0.01 times" in done.stdout
    result = list(results_in(folder / "trainings"))[-1][1]
    assert (result.outcome, result.version, result.manifest) == ("rejected", None, None)
    assert Registry("", folder / "mlflow")._client().get_run(result.run_id).data.tags["outcome"] == "rejected"


def test_a_training_from_a_record_with_covariates_makes_a_model_that_names_them(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    fill(record)
    warmth = np.sin(np.arange(DAYS * 24) / 9).round(3).tolist()
    rows = [("warmth", START_US, START_US, 3600.0, warmth, "", START_US)]
    rows += [("seldom", START_US, START_US, 3600.0, [1.0], "", START_US)]
    kinds = {"covariates": columns_of(COVARIATE_COLUMNS, rows)}
    at = iso(START_US + DAYS * 24 * HOUR_US)
    record.append([Uplink(site="s", epoch="other", seq=1, at=at, kinds=kinds)])
    done = central(tmp_path, "train")
    assert done.returncode == 0, done.stderr
    ((_, result),) = list(results_in(tmp_path / "trainings"))
    assert result.outcome == "accepted"
    assert result.manifest is not None
    assert result.manifest.features == [*FEATURES, *column_names(("warmth",))]
    assert len(result.manifest.golden.inputs[0]) == len(FEATURES) + 3


def test_training_on_an_empty_record_is_refused_in_a_sentence(tmp_path: Path) -> None:
    Record(str(tmp_path / "record")).create()
    done = central(tmp_path, "train")
    assert done.returncode == 1
    assert done.stderr.strip() == "central: train: the record is empty"


def test_a_registry_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("http://127.0.0.1:9", tmp_path)
    with pytest.raises(MetercastError, match=r"mlflow http://127\.0\.0\.1:9: cannot prepare"):
        registry.prepare()


def test_aliases_move_from_version_to_version(tmp_path: Path) -> None:
    registry = Registry("", tmp_path)
    run = RunRecord(name="r", params={"a": 1}, metrics={"m": 0.5}, tags={}, started_ms=0, files={"model/x": b"x"})
    logged = [registry.log(run, finished_ms=1) for _ in range(2)]
    assert all(isinstance(one, LoggedRun) for one in logged)
    versions = [registry.register("fleet", one, "model", tags={}) for one in logged]
    assert versions == [1, 2]
    registry.alias("fleet", "champion", 1)
    registry.alias("fleet", "champion", 2)
    registry.alias("fleet", "challenger", 1)
    assert registry.aliases("fleet") == {"champion": 2, "challenger": 1}
    registry.drop_alias("fleet", "challenger")
    assert registry.aliases("fleet") == {"champion": 2}


@pytest.fixture(scope="module")
def serving(trained: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Params:
    work = WorkFolder(tmp_path_factory.mktemp("serving") / "central")
    shutil.copytree(trained[0], work.root)
    replace_text(work.rollout, RolloutState(champion=trained[1].manifest).model_dump_json(by_alias=True))
    return Params.model_validate({"central": {"work_dir": str(work.root)}})


def test_a_champions_forecast_is_taken_apart_as_json(serving: Params) -> None:
    origin = iso(START_US + (DAYS - 3) * 24 * HOUR_US)
    told = as_json(tell(serving, "s", "m1", origin))
    assert (told["schema"], told["site"], told["meter"], told["origin"]) == (1, "s", "m1", origin)
    assert told["model"]["version"] == 1
    assert told["note"].endswith("these are the model's own numbers, before calibration")
    assert [lead["lead"] for lead in told["leads"]] == list(range(1, 49))
    for lead in told["leads"]:
        for parts in lead["quantiles"].values():
            total = lead["base_kw"] + parts["mean_kw"] + sum(parts["contributions_kw"].values()) + parts["floor_kw"]
            assert total == pytest.approx(parts["forecast_kw"], abs=1e-6)
            assert parts["calibrated_kw"] is None
        assert lead["published"] is None


def test_an_explanation_rests_on_what_was_known_at_its_origin(serving: Params) -> None:
    origin_us = START_US + (DAYS - 3) * 24 * HOUR_US
    told = tell(serving, "s", "m1", iso(origin_us))
    assert np.isfinite(told.window).all()
    artifact = OnnxForecaster(
        WorkFolder(serving.central.work_dir).artifact(told.champion.sha256).read_bytes(), calendar=Calendar()
    )
    served = artifact(told.window[None], np.array([origin_us]), np.arange(1, 49))[0]
    np.testing.assert_allclose(told.explanation.forecast_kw, served, rtol=1e-3, atol=1e-4)


def test_the_latest_origin_is_explained_to_a_person(serving: Params, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "s", "m0", "--set", f"central.work_dir={serving.central.work_dir}"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"s/m0 at {iso(START_US + DAYS * 24 * HOUR_US)}, version 1 (run ")
    assert "1–6 h" in text
    assert "sent: what the edge's calibration had learned of this meter is not in the record" in text
    assert "│" in text


def test_the_latest_origin_is_none_whose_last_interval_is_still_open(serving: Params) -> None:
    end_us = START_US + DAYS * 24 * HOUR_US
    assert tell(serving, "s", "m0", None, now_us=end_us).origin_us == end_us
    assert tell(serving, "s", "m0", None, now_us=end_us - 1).origin_us == end_us - HOUR_US
    replayed = serving.model_copy(update={"clock": "event"})
    assert tell(replayed, "s", "m0", None, now_us=2 * end_us).origin_us == end_us - HOUR_US


def test_a_meter_whose_history_is_too_short_for_a_model_is_told_so(serving: Params) -> None:
    short = "; with 48h of history, under forecast.min_history of 3d, another rung serves it"
    assert tell(serving, "s", "m0", iso(START_US + 48 * HOUR_US)).served.note.endswith(short)
    assert "min_history" not in tell(serving, "s", "m0", iso(START_US + 72 * HOUR_US)).served.note


@pytest.mark.parametrize(
    ("site", "meter", "origin", "sentence"),
    [
        ("nowhere", "m0", None, "explain: the record knows no site 'nowhere'; it knows s"),
        ("s", "m9", None, "explain: the record knows no meter 'm9' of site s; it knows m0, m1, m2, m3"),
        ("s", "m0", "2013-03-01T00:00:00Z", "--origin 2013-03-01T00:00:00Z: outside the record of s/m0, "),
        ("s", "m0", "2013-03-20T00:10:00Z", "--origin 2013-03-20T00:10:00Z: not on the grid of 3600 s steps"),
        ("s", "m0", "tomorrow", "--origin: ts 'tomorrow' is not an ISO 8601 instant"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(
    serving: Params, site: str, meter: str, origin: str | None, sentence: str
) -> None:
    with pytest.raises(MetercastError) as refused:
        tell(serving, site, meter, origin)
    assert str(refused.value).startswith(sentence)


def test_no_champion_or_one_of_other_features_is_not_explained(trained: tuple[Path, Result], tmp_path: Path) -> None:
    none = Params.model_validate({"central": {"work_dir": str(trained[0])}})
    with pytest.raises(MetercastError, match="explain: no champion serves yet"):
        tell(none, "s", "m0", None)
    assert trained[1].manifest is not None
    other = trained[1].manifest.model_copy(update={"schema_hash": "0" * 16})
    replace_text(tmp_path / "rollout.json", RolloutState(champion=other).model_dump_json(by_alias=True))
    with pytest.raises(MetercastError, match="champion 1 goes by other features than this version computes"):
        tell(Params.model_validate({"central": {"work_dir": str(tmp_path)}}), "s", "m0", None)


def test_a_tuning_shows_its_progress_and_writes_nothing_where_nothing_is_better(
    trained: tuple[Path, Result], tmp_path: Path
) -> None:
    shutil.copytree(trained[0], tmp_path / "central")
    file = tmp_path / "params.yaml"
    file.write_text("# mine\nsite: a\n")
    done = central(tmp_path / "central", "train", "--tune", "1", "--params", str(file))
    assert done.returncode in (0, 4), done.stderr
    assert "tune: trial 1 of 1: wql 0." in done.stderr
    assert "nothing is better than the recipe in force by more than noise" in done.stderr
    assert file.read_text() == "# mine\nsite: a\n"
    assert (tmp_path / "central" / "tuning.db").exists()
