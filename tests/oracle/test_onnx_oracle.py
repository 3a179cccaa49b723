"""The exported graph and LightGBM are two roads to one forecast, on real households."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import all_pairs, forecast_windows, judged_windows, model_forecaster
from central.export import OnnxForecaster, golden_rows, parity, read_metadata, to_onnx
from central.file_panel import panel_from_file
from central.training import Recipe, TrainedModel, train
from shared.calendars import Calendar
from shared.features import FEATURES, SCHEMA_HASH, feature_matrix

HOUSEHOLDS = Path(__file__).parents[2] / "demo" / "data" / "london_households.parquet"
LONDON = Calendar("Europe/London", "GB")
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_from_file(HOUSEHOLDS, aggregate="sum")


@pytest.fixture(scope="module")
def model(panel: Panel) -> TrainedModel:
    recipe = Recipe(trees=40, rows_cap=20_000)
    return train(panel, until_us=panel.start_us + 42 * DAY_US, recipe=recipe, calendar=LONDON)


@pytest.fixture(scope="module")
def graph(model: TrainedModel) -> bytes:
    return to_onnx(model)


@pytest.fixture(scope="module")
def rows(panel: Panel) -> NDArray[np.float32]:
    meters, origins = all_pairs(panel, panel.start_us + np.array([45, 50, 55], dtype=np.int64) * DAY_US)
    windows = panel.windows(meters, origins)
    return feature_matrix(windows, origins, np.arange(1, 49, dtype=np.int64), calendar=LONDON).x


def test_the_graph_equals_lightgbm_on_real_rows(graph: bytes, model: TrainedModel, rows: NDArray[np.float32]) -> None:
    assert parity(graph, model, rows) < 1e-4


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_the_graph_equals_lightgbm_with_any_feature_missing(
    graph: bytes, model: TrainedModel, rows: NDArray[np.float32], share: float
) -> None:
    holed = np.where(np.random.default_rng(3).random(rows.shape) < share, np.float32(np.nan), rows)
    assert parity(graph, model, holed) < 1e-4


def test_another_models_graph_fails_parity(panel: Panel, graph: bytes, rows: NDArray[np.float32]) -> None:
    other = train(panel, until_us=panel.start_us + 30 * DAY_US, recipe=Recipe(trees=5, rows_cap=2_000), calendar=LONDON)
    with pytest.raises(ValueError, match="differs from LightGBM"):
        parity(graph, other, rows)


def test_the_onnx_forecaster_equals_the_trained_model(panel: Panel, graph: bytes, model: TrainedModel) -> None:
    windows = judged_windows(panel, *all_pairs(panel, np.array([panel.start_us + 50 * DAY_US], dtype=np.int64)))
    ours = forecast_windows(panel, windows, OnnxForecaster(graph, calendar=LONDON))
    theirs = forecast_windows(panel, windows, model_forecaster(model, LONDON))
    assert np.abs(ours - theirs).max() < 1e-4


def test_output_ascends_and_only_standard_domains_are_used(graph: bytes, rows: NDArray[np.float32]) -> None:
    _, outputs = golden_rows(graph, rows, n=200)
    assert (np.diff(outputs, axis=1) >= 0).all()
    proto = onnx.load_model_from_string(graph)
    assert {opset.domain for opset in proto.opset_import} == {"", "ai.onnx.ml"}
    assert [tensor.name for tensor in (*proto.graph.input, *proto.graph.output)] == ["features", "quantiles"]


def test_golden_rows_hold_missing_features(graph: bytes, rows: NDArray[np.float32]) -> None:
    inputs, outputs = golden_rows(graph, rows)
    assert inputs.shape == (16, len(FEATURES))
    assert outputs.shape == (16, 3)
    assert np.isnan(inputs).any()
    assert np.isfinite(outputs).all()


def test_the_graph_says_what_it_needs(graph: bytes) -> None:
    props = read_metadata(graph)
    assert json.loads(props["features"]) == list(FEATURES)
    assert json.loads(props["quantiles"]) == [0.1, 0.5, 0.9]
    assert (props["schema_hash"], props["step_s"], props["horizon_steps"]) == (SCHEMA_HASH, "3600", "48")


def test_bytes_that_are_no_model_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="not an ONNX model"):
        OnnxForecaster(b"not a model", calendar=LONDON)
