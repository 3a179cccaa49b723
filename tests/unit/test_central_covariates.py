"""Covariates centrally: recorded by issue, read from files, learned from as they were known, never a need."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from central.backtest import backtest
from central.backtest_options import BacktestOptions
from central.covariates import Covariates, issues_from_file, issues_from_record
from central.evaluation import all_pairs, forecast_windows, judged_windows, measure, model_forecaster
from central.export import OnnxForecaster, parity, to_onnx
from central.record import Record
from central.samples import Sampling, training_rows
from central.training import Recipe, TrainedModel, train
from shared.calendars import Calendar
from shared.clock import DAY_US, HOUR_US, iso
from shared.covariates import Issue, column_names
from shared.errors import DataFileError
from shared.features import FEATURES
from shared.messages import COVARIATE_COLUMNS, Uplink, columns_of
from tests.small_model import DRIVEN_BY, driven_load, driven_panel, driver

START_US = 20_000 * DAY_US
UTC = Calendar()
RECIPE = Recipe(rows_cap=12_000)


def _file(folder: Path, rows: pd.DataFrame, name: str = "covariates.parquet") -> Path:
    path = folder / name
    rows.to_parquet(path) if path.suffix == ".parquet" else rows.to_csv(path, index=False)
    return path


def _hours(values: list[float], name: str = "sun", *, start_h: int = 0, step_h: float = 1) -> pd.DataFrame:
    instants_us = [START_US + round((start_h + step_h * at) * HOUR_US) for at in range(len(values))]
    return pd.DataFrame({"name": name, "ts": pd.to_datetime(instants_us, unit="us", utc=True), "value": values})


def _at(known: Covariates, origin_h: int, lead: int, name: str = "sun") -> float:
    columns = known.columns((name,), np.array([START_US + origin_h * HOUR_US]), np.array([lead]))
    return float(columns[0, 0, 0])


def _known(issues: list[Issue]) -> Covariates:
    return Covariates.by_site({"": issues}, [""], HOUR_US)


@pytest.mark.parametrize("name", ["covariates.parquet", "covariates.csv"])
def test_a_file_without_issue_times_is_known_from_ever(tmp_path: Path, name: str) -> None:
    rows = pd.concat([_hours([1.0, 2.0, 3.0]), _hours([7.0, 8.0], "wind", start_h=2)])
    known = _known(issues_from_file(_file(tmp_path, rows, name)))
    assert known.names == ("sun", "wind")
    assert [_at(known, -100, 100 + lead) for lead in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert _at(known, 2, 2, "wind") == 8.0


def test_a_file_with_issue_times_is_known_as_it_was_issued(tmp_path: Path) -> None:
    early = _hours([1.0, 2.0, 3.0]).assign(issued_at=iso(START_US - HOUR_US))
    late = _hours([20.0, 30.0], start_h=1).assign(issued_at=iso(START_US + HOUR_US))
    known = _known(issues_from_file(_file(tmp_path, pd.concat([late, early]))))
    assert np.isnan(_at(known, -2, 3))
    assert [_at(known, 0, lead) for lead in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert [_at(known, 1, lead) for lead in (0, 1, 2)] == [1.0, 20.0, 30.0]


def test_a_file_of_quarter_hours_with_a_hole_is_read_in_its_parts(tmp_path: Path) -> None:
    rows = pd.concat([_hours([1.0, 3.0, 5.0, 7.0], step_h=0.25), _hours([9.0] * 4, start_h=3, step_h=0.25)])
    known = _known(issues_from_file(_file(tmp_path, rows)))
    assert (_at(known, 0, 1), _at(known, 0, 4)) == (4.0, 9.0)
    assert np.isnan(_at(known, 0, 2))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,ts\nsun,2024-01-01", "has no column value"),
        ("name,ts,value\na b,2024-01-01,1", "'a b' is no name of a covariate"),
        ("name,ts,value\nsun,someday,1", "someday"),
        ("name,ts,value\nsun,2024-01-01T00:00:07Z,1", "sun at 2024-01-01T00:00:07Z: start and step"),
        ("name,ts,value\nsun,2024-01-01T00:00:00Z,1e99", "beyond"),
        ("name,ts,value\n", "holds no values"),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_in_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "covariates.csv"
    path.write_text(content)
    with pytest.raises(DataFileError, match=rf"covariates\.csv: .*{sentence}"):
        issues_from_file(path)


def _uplink(seq: int, *issues: tuple[str, int, int, list[float | None]], epoch: str = "e") -> Uplink:
    rows = [(name, issued, start, 3600.0, values, "", START_US + seq) for name, issued, start, values in issues]
    kinds = {"covariates": columns_of(COVARIATE_COLUMNS, rows)}
    return Uplink(site="north", epoch=epoch, seq=seq, at=iso(START_US), kinds=kinds)


def test_the_record_holds_every_issue_once_and_of_copies_the_last(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    assert record.covariates().num_rows == 0  # of a version that knew none
    record.create()
    first = ("sun", START_US, START_US, [1.0, None])
    record.append([_uplink(1, first, ("sun", START_US + HOUR_US, START_US, [2.0, 3.0]))])
    record.append([_uplink(1, first), _uplink(1, first)][:1])  # sent again
    record.append([_uplink(2, ("sun", START_US, START_US, [5.0, None]))])  # corrected
    rows = record.covariates()
    assert rows["values"].to_pylist() == [[5.0, None], [2.0, 3.0]]
    (issues,) = issues_from_record(rows).values()
    assert [one.key for one in issues] == [(START_US, START_US), (START_US + HOUR_US, START_US)]
    assert record.covariates(site="south").num_rows == 0


def test_columns_that_do_not_fit_stay_in_the_record_as_json(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    kinds = {"covariates": {"name": ["sun"], "values": ["warm"]}}
    record.append([Uplink(site="north", epoch="e", seq=1, at=iso(START_US), kinds=kinds)])
    assert record.covariates().num_rows == 0
    assert record._read("other")["kind"].to_pylist() == ["covariates"]


def test_what_an_edge_of_another_version_took_and_is_no_issue_here_is_left_out() -> None:
    row = {"site": "a", "name": "sun", "issued_us": START_US, "start_us": START_US + 7, "step_s": 3600.0,
           "values": [1.0], "unit": ""}  # fmt: skip
    for wrong in ({}, {"step_s": 1e305}, {"start_us": START_US, "name": "a b"}, {"start_us": START_US, "step_s": 7.0}):
        assert issues_from_record(pa.Table.from_pylist([row | wrong])) == {}
    assert list(issues_from_record(pa.Table.from_pylist([row | {"start_us": START_US}]))) == ["a"]


def test_a_sites_meters_see_their_own_sites_covariates() -> None:
    def told(value: float) -> list[Issue]:
        return [Issue("sun", START_US, START_US, HOUR_US, np.array([value]))]

    sites = ["south", "north", "nowhere", "south"]
    known = Covariates.by_site({"north": told(1.0), "south": told(2.0)}, sites, HOUR_US)
    columns = known.columns(("sun",), np.full(4, START_US), np.array([1]))[:, 0, 0]
    np.testing.assert_array_equal(columns, [2.0, 1.0, np.nan, 2.0])
    chosen = known.of(np.array([1, 0])).columns(("sun",), np.full(2, START_US), np.array([[1], [1]]))
    assert chosen[:, 0, 0].tolist() == [1.0, 2.0]


def test_of_what_was_hardly_known_nothing_is_learned() -> None:
    often = Issue("often", 0, START_US, HOUR_US, np.zeros(24 * 60))
    late = Issue("late", START_US + 59 * DAY_US, START_US, HOUR_US, np.zeros(24 * 60))
    known = _known([often, late]).worth_learning(START_US, START_US + 60 * DAY_US, HOUR_US)
    assert known.names == ("often",)


def test_training_rows_hold_what_was_issued_by_their_origin() -> None:
    """Each day's issue says its own number: a row of an origin says the origin's day, whatever came later."""
    panel = driven_panel(days=40, told=False)
    issues = [
        Issue("day", panel.start_us + day * DAY_US, panel.start_us - DAY_US, HOUR_US, np.full(24 * 60, float(day)))
        for day in range(40)
    ]
    panel = replace(panel, covariates=Covariates.by_site({"": issues}, [""] * 4, HOUR_US))
    sampling = Sampling(rows_cap=4_000, dropout=0.0, covariate_dropout=0.0)
    rows = training_rows(panel, until_us=panel.end_us, rng=np.random.default_rng(1), sampling=sampling, calendar=UTC)
    said = rows.x[:, len(FEATURES)]
    history = np.round(rows.x[:, FEATURES.index("history_share")] * 720).astype(int)
    early = history < 720  # these windows begin with the panel: their length says the origin
    assert early.sum() > 500
    np.testing.assert_array_equal(said[early], history[early] // 24)


def test_dropout_takes_all_columns_of_a_name_from_a_whole_sample_and_none_without_it() -> None:
    panel = driven_panel()
    width = len(FEATURES) + 3
    for chance, low, high in ((0.0, 0.0, 0.0), (0.3, 0.4, 0.6)):
        sampling = Sampling(rows_cap=4_000, dropout=0.0, covariate_dropout=chance)
        rows = training_rows(
            panel, until_us=panel.end_us, rng=np.random.default_rng(1), sampling=sampling, calendar=UTC
        )
        assert rows.x.shape[1] == width
        lost = np.isnan(rows.x[:, len(FEATURES)])
        assert low <= lost.mean() <= high
        assert np.isnan(rows.x[lost, len(FEATURES) :]).all()


def test_covariates_leave_the_features_of_a_row_as_they_are() -> None:
    sampling = Sampling(rows_cap=800)
    one, other = (
        training_rows(panel, until_us=panel.end_us, rng=np.random.default_rng(1), sampling=sampling, calendar=UTC)
        for panel in (driven_panel(told=False), driven_panel(told=True))
    )
    assert one.x.tobytes() == other.x[:, : len(FEATURES)].tobytes()


@pytest.fixture(scope="module")
def models() -> dict[bool, TrainedModel]:
    """A model trained with the covariate and one never given it, on the first 50 of 60 days."""
    return {
        told: train(driven_panel(told=told), until_us=START_US + 50 * DAY_US, recipe=RECIPE) for told in (True, False)
    }


def _mase(model: TrainedModel, *, told: bool) -> float:
    panel = driven_panel(told=told)
    origins_us = np.arange(START_US + 50 * DAY_US, panel.end_us - 2 * DAY_US, 11 * HOUR_US, dtype=np.int64)
    windows = judged_windows(panel, *all_pairs(panel, origins_us))
    forecast = forecast_windows(panel, windows, model_forecaster(model, UTC))
    return measure(windows, forecast, model.quantiles, slice(None))["mase"]


def test_a_covariate_that_drives_the_load_is_learned_from(models: dict[bool, TrainedModel]) -> None:
    assert models[True].features == (*FEATURES, *column_names((DRIVEN_BY,)))
    assert _mase(models[True], told=True) < 0.6 * _mase(models[False], told=True)


def test_a_covariate_that_is_absent_does_no_harm(models: dict[bool, TrainedModel]) -> None:
    assert _mase(models[True], told=False) < 1.05 * _mase(models[False], told=False)


def test_a_model_trained_without_covariates_ignores_them(models: dict[bool, TrainedModel]) -> None:
    assert _mase(models[False], told=True) == _mase(models[False], told=False)


def test_the_graph_takes_covariates_as_lightgbm_does(models: dict[bool, TrainedModel]) -> None:
    graph, panel = to_onnx(models[True]), driven_panel()
    origins_us = np.array([START_US + 50 * DAY_US])
    windows = judged_windows(panel, *all_pairs(panel, origins_us))
    ours = forecast_windows(panel, windows, OnnxForecaster(graph, calendar=UTC))
    theirs = forecast_windows(panel, windows, model_forecaster(models[True], UTC))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    rows = np.random.default_rng(1).normal(size=(200, len(models[True].features))).astype(np.float32)
    rows[::3, -3:] = np.nan
    parity(graph, models[True], rows)


def test_a_name_with_a_colon_can_be_learned_from() -> None:
    panel = driven_panel(days=30)
    known = panel.covariates
    assert known is not None
    renamed = replace(known, names=("a:b",), sites=tuple({"a:b": own[DRIVEN_BY]} for own in known.sites))
    model = train(replace(panel, covariates=renamed), until_us=panel.end_us, recipe=Recipe(trees=5, rows_cap=2_000))
    assert model.covariates == ("a:b",)
    assert set(model.importances) == set(model.features)


def test_the_backtest_takes_a_file_of_covariates_and_says_which_it_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = 24 * 50
    ts = pd.to_datetime(START_US + np.arange(hours) * HOUR_US, unit="us", utc=True)
    readings = pd.concat(
        pd.DataFrame({"meter_id": f"m{scale}", "ts": ts, "value": driven_load(START_US, hours, scale)})
        for scale in (1.0, 3.0)
    )
    path = _file(tmp_path, readings, "readings.parquet")
    covariates = _file(tmp_path, pd.DataFrame({"name": DRIVEN_BY, "ts": ts, "value": driver(START_US, hours)}))
    small = Recipe(trees=30, rows_cap=6_000)
    without, with_ = (
        backtest(BacktestOptions(path, origins=3, covariates=chosen), small)["overall"]["mase"]
        for chosen in (None, covariates)
    )
    assert with_ < 0.7 * without
    assert f"covariates: {DRIVEN_BY}" in capsys.readouterr().err
    elsewhere = _file(tmp_path, _hours([1.0] * 48, start_h=-9_000), "elsewhere.parquet")
    with pytest.raises(DataFileError, match=r"elsewhere\.parquet: says next to nothing .*: sun"):
        backtest(BacktestOptions(path, covariates=elsewhere), small)
