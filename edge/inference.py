"""ONNX models at the edge (only home of onnxruntime): loading behind checks, and one batched run.

Invariants: a predictor exists only for an artifact whose graph, schema and golden rows were checked; output rows ascend
along the quantiles.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shared.covariates import covariates_of, schema_hash_of
from shared.errors import ModelRefused
from shared.manifest import INPUT, OUTPUT, Golden, Manifest
from shared.refusals import Cause


@dataclass(frozen=True, slots=True)
class Predictor:
    """A checked model: its manifest and its session."""

    manifest: Manifest
    session: onnxruntime.InferenceSession

    @property
    def covariates(self) -> tuple[str, ...]:
        """The covariates it was trained with, whose columns it takes behind the features."""
        return covariates_of(self.manifest.features)

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantiles [N, Q] in normalised space of features [N, F]; raises ModelRefused when the model fails to run."""
        try:
            (output,) = self.session.run([OUTPUT], {INPUT: features})
        except Exception as error:
            raise ModelRefused(Cause.FAILED_RUNNING, f"the model failed to run: {_one_line(error)}") from error
        quantiles: NDArray[np.float32] = output
        return quantiles


def load(artifact: bytes, manifest: Manifest, *, step_s: int, horizon_steps: int, quantiles: list[float]) -> Predictor:
    """A predictor for `artifact`, or ModelRefused with the first check it failed; never another error."""
    try:
        _check_schema(manifest, step_s=step_s, horizon_steps=horizon_steps, quantiles=quantiles)
        session = _open(artifact)
        _check_graph(session, manifest)
        predictor = Predictor(manifest, session)
        _check_golden(predictor, manifest.golden)
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(Cause.CRASHED, f"the model could not be checked: {_one_line(error)}") from error
    _return_freed_memory()
    return predictor


def _check_schema(manifest: Manifest, *, step_s: int, horizon_steps: int, quantiles: list[float]) -> None:
    try:
        schema_hash = schema_hash_of(covariates_of(manifest.features))
    except ValueError as error:
        raise ModelRefused(Cause.UNKNOWN_FEATURES, str(error)) from error
    if manifest.schema_hash != schema_hash:
        raise ModelRefused(
            Cause.UNKNOWN_FEATURES, f"feature schema {manifest.schema_hash} is not this edge's {schema_hash}"
        )
    for name, theirs, ours in (
        ("step_s", manifest.step_s, step_s),
        ("horizon_steps", manifest.horizon_steps, horizon_steps),
        ("quantiles", manifest.quantiles, quantiles),
    ):
        if theirs != ours:
            raise ModelRefused(Cause.OTHER_FORECAST, f"{name} is {theirs}, this edge forecasts {ours}")


def _open(artifact: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena keeps the largest batch's memory for good
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelRefused(Cause.NOT_ONNX, f"not a model onnxruntime can load: {_one_line(error)}") from error


def _check_graph(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    inputs = [(node.name, node.type) for node in session.get_inputs()]
    outputs = [(node.name, node.type) for node in session.get_outputs()]
    if inputs != [(INPUT, "tensor(float)")] or outputs != [(OUTPUT, "tensor(float)")]:
        raise ModelRefused(
            Cause.OTHER_GRAPH, f"expected {INPUT} → {OUTPUT} of float, the graph has {inputs} → {outputs}"
        )
    shape = session.get_inputs()[0].shape
    if len(shape) != 2 or shape[1] != len(manifest.features):
        raise ModelRefused(
            Cause.OTHER_GRAPH,
            f"the graph takes rows of shape {shape}, the manifest names {len(manifest.features)} features",
        )
    stated = session.get_modelmeta().custom_metadata_map.get("schema_hash")
    if stated != manifest.schema_hash:
        raise ModelRefused(
            Cause.OTHER_GRAPH, f"the graph's schema_hash is {stated}, the manifest's {manifest.schema_hash}"
        )


def _check_golden(predictor: Predictor, golden: Golden) -> None:
    width = len(predictor.manifest.features)
    if any(len(row) != width for row in golden.inputs) or len(golden.inputs) != len(golden.outputs):
        raise ModelRefused(Cause.GOLDEN_ROWS, "the golden rows do not fit the feature list")
    rows = np.array([[np.nan if cell is None else cell for cell in row] for row in golden.inputs], dtype=np.float32)
    actual = predictor.run(rows)
    expected = np.array(golden.outputs, dtype=np.float64)
    if actual.shape != expected.shape:
        raise ModelRefused(Cause.GOLDEN_ROWS, f"golden rows give {actual.shape}, expected {expected.shape}")
    off = ~(np.abs(actual - expected) <= golden.absolute + golden.relative * np.abs(expected))
    if off.any():
        worst = float(np.nanmax(np.abs(actual - expected))) if np.isfinite(actual).any() else float("nan")
        raise ModelRefused(Cause.GOLDEN_ROWS, f"{int(off.sum())} golden outputs differ, by up to {worst:.3g}")


def _return_freed_memory() -> None:
    """Give what parsing the model took back to the system: malloc would keep 7 MB a model for good."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other systems return memory by themselves
    if trim is not None:
        trim(0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
