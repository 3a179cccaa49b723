"""The model as one ONNX graph; home of skl2onnx, onnxmltools, onnx and (centrally) onnxruntime.

    features float32 [N, F] → TreeEnsembleRegressor, some for each quantile → Sum → Concat → TopK ascending
    → quantiles float32 [N, Q]

Invariants: only the domains `""` and `ai.onnx.ml`; output ascends along Q; the graph and LightGBM agree to float32 on
any input, NaN included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import compress
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes

from central.covariates import Covariates, covariate_columns_of
from central.training import Booster, Regressor, TrainedModel, as_regressor, predict, round_thresholds_down
from shared.calendars import Calendar
from shared.covariates import covariates_of, schema_hash_of, with_columns
from shared.errors import MetercastError
from shared.features import feature_matrix, to_load
from shared.manifest import INPUT, OUTPUT, Golden

OPSETS: Final = {"": 15, "ai.onnx.ml": 3}
ABSOLUTE: Final[float] = Golden.model_fields["absolute"].default
RELATIVE: Final[float] = Golden.model_fields["relative"].default

# onnxruntime takes 128 rows through a tree after the other: few trees stay in the fastest cache, and in the memory of
# the processor's branch predictor, while the rows pass (docs/benchmarks.md).
TREES_PER_NODE: Final = 10
NODES_AT_MOST: Final = 40  # for each quantile, so that a gate need not let graphs of any size in

_BLOCK: Final = 24_576  # rows to a run: 512 windows of 48 leads

update_registered_converter(
    Regressor,
    "MetercastLightGbm",
    calculate_linear_regressor_output_shapes,
    convert_lightgbm,
    options={"split": None},
)


def to_onnx(model: TrainedModel) -> bytes:
    """Return the model as ONNX, with what it needs and gives in its metadata (JSON text for lists)."""
    sums = [f"quantile_{number}" for number in range(len(model.boosters))]
    nodes = [
        *(node for booster, name in zip(model.boosters, sums, strict=True) for node in _summed(booster, name, model)),
        helper.make_node("Concat", sums, ["unsorted"], axis=1),
        helper.make_node("TopK", ["unsorted", "count"], [OUTPUT, "order"], axis=1, largest=0, sorted=1),
    ]
    count = len(sums)
    graph = helper.make_graph(
        nodes,
        "metercast",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", len(model.features)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", count])],
        [numpy_helper.from_array(np.array([count], dtype=np.int64), "count")],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="metercast")
    helper.set_model_props(proto, metadata(model))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def proven(model: TrainedModel, x: NDArray[np.float32]) -> tuple[bytes, Golden]:
    """Return the model as ONNX, shown to agree with LightGBM on rows x [N, F], and golden rows out of them.

    Raises MetercastError when it does not agree.
    """
    artifact = to_onnx(model)
    try:
        parity(artifact, model, x)
    except ValueError as error:
        raise MetercastError(f"train: {error}") from error
    inputs, outputs = golden_rows(artifact, x)
    return artifact, Golden(
        inputs=[[None if np.isnan(value) else float(value) for value in row] for row in inputs],
        outputs=[[float(value) for value in row] for row in outputs],
    )


def metadata(model: TrainedModel) -> dict[str, str]:
    """Return what travels in the graph's metadata_props and is repeated in the manifest."""
    return {
        "features": json.dumps(list(model.features)),
        "schema_hash": schema_hash_of(model.covariates),
        "step_s": str(model.step_s),
        "horizon_steps": str(model.horizon_steps),
        "quantiles": json.dumps(list(model.quantiles)),
    }


def read_metadata(onnx_bytes: bytes) -> Mapping[str, str]:
    """Return the graph's metadata_props. Raises ValueError when the bytes are no ONNX model."""
    return {prop.key: prop.value for prop in _parse(onnx_bytes).metadata_props}


def parity(onnx_bytes: bytes, model: TrainedModel, x: NDArray[np.float32]) -> float:
    """Return max |ONNX − LightGBM| over rows x [N, F]; raise ValueError beyond 1e-5 + 1e-4·|y|."""
    expected = predict(model, x)
    apart = np.abs(run(_session(onnx_bytes), x) - expected)
    wrong = int((apart > ABSOLUTE + RELATIVE * np.abs(expected)).any(axis=1).sum())
    if wrong:
        raise ValueError(
            f"the ONNX graph differs from LightGBM in {wrong} of {len(x)} rows, by up to {apart.max():.2g}"
        )
    return float(apart.max(initial=0.0))


def golden_rows(
    onnx_bytes: bytes, x: NDArray[np.float32], n: int = 16, *, seed: int = 7
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return n rows drawn from x [N, F], every fourth with more of it made NaN, and the graph's outputs [n, Q]."""
    rng = np.random.default_rng(seed)
    rows = x[rng.choice(len(x), size=n, replace=len(x) < n)].copy()
    holed = np.arange(n) % 4 == 3
    rows[holed] = np.where(rng.random((int(holed.sum()), x.shape[1])) < 0.3, np.float32(np.nan), rows[holed])
    return rows, run(_session(onnx_bytes), rows)


class OnnxForecaster:
    """An exported model as a forecaster (see central/evaluation.py), run the way the edge runs it.

    Raises ValueError when the bytes are no ONNX model, or one of other features than this code computes.
    """

    def __init__(self, onnx_bytes: bytes, *, calendar: Calendar) -> None:
        props = read_metadata(onnx_bytes)
        self._covariates = covariates_of(json.loads(props.get("features", "[]")))
        schema_hash = schema_hash_of(self._covariates)
        if props.get("schema_hash") != schema_hash:
            raise ValueError(
                f"the model's feature schema is {props.get('schema_hash')}, this code computes {schema_hash}"
            )
        self.step_s = int(props["step_s"])
        self.quantiles: tuple[float, ...] = tuple(json.loads(props["quantiles"]))
        self._calendar = calendar
        self._session = _session(onnx_bytes)

    def __call__(
        self,
        windows: NDArray[np.float32],
        origins_us: NDArray[np.int64],
        leads: NDArray[np.int64],
        covariates: Covariates | None = None,
        /,
    ) -> NDArray[np.float64]:
        """Return kW [N, L, Q] for windows [N, W] at origins [N], with what the N know ahead."""
        matrix = feature_matrix(windows, origins_us, leads, step_s=self.step_s, calendar=self._calendar)
        columns = covariate_columns_of(covariates, self._covariates, origins_us, leads)
        return to_load(run(self._session, with_columns(matrix.x, columns)), matrix)


def run(session: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs [N, Q] of rows x [N, F], in blocks."""
    blocks = [x[first : first + _BLOCK] for first in range(0, len(x), _BLOCK)] or [x]
    return np.concatenate([session.run([OUTPUT], {INPUT: block})[0] for block in blocks])


def _session(onnx_bytes: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def _parse(onnx_bytes: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(onnx_bytes)
    except DecodeError as e:
        raise ValueError("not an ONNX model") from e


def _ensemble(booster: Booster, features: int) -> dict[str, Any]:
    """Convert one booster with skl2onnx and return its TreeEnsembleRegressor's attributes by name."""
    regressor = as_regressor(round_thresholds_down(booster), features)
    inputs = [(INPUT, FloatTensorType([None, features]))]
    proto = convert_sklearn(regressor, initial_types=inputs, target_opset=OPSETS)
    (node,) = [node for node in proto.graph.node if node.op_type == "TreeEnsembleRegressor"]
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _summed(booster: Booster, name: str, model: TrainedModel) -> list[onnx.NodeProto]:
    """Return the nodes that give a booster's output [N, 1] as `name`: some trees to each, then their Sum."""
    ensemble = _ensemble(booster, len(model.features))
    trees = 1 + max(ensemble["nodes_treeids"])
    each = max(TREES_PER_NODE, math.ceil(trees / NODES_AT_MOST))
    firsts = range(0, trees, each)
    parts = [f"{name}_{first}" for first in firsts]
    nodes = [_part(ensemble, first, each, part) for first, part in zip(firsts, parts, strict=True)]
    return [*nodes, helper.make_node("Sum", parts, [name])]


def _part(ensemble: dict[str, Any], first: int, count: int, name: str) -> onnx.NodeProto:
    """Return the node of `count` of an ensemble's trees, from `first` on."""
    own = {
        kind: [first <= tree < first + count for tree in ensemble[f"{kind}_treeids"]] for kind in ("nodes", "target")
    }
    attributes: dict[str, Any] = {
        key: list(compress(values, own[key.partition("_")[0]]))
        for key, values in ensemble.items()
        if key.startswith(("nodes_", "target_"))
    }
    for kind in own:
        attributes[f"{kind}_treeids"] = [tree - first for tree in attributes[f"{kind}_treeids"]]
    return helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [name],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        **attributes,
    )
