"""The model as one ONNX graph; home of skl2onnx, onnxmltools, onnx and (centrally) onnxruntime (skeleton, being filled in)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from central.training import TrainedModel
from shared.calendars import Calendar

INPUT_NAME = "features"
OUTPUT_NAME = "quantiles"


def to_onnx(model: TrainedModel) -> bytes:
    """Return the model as ONNX: `features` float32 [N, F] → `quantiles` float32 [N, Q] ascending, with metadata."""
    raise NotImplementedError


def parity(onnx_bytes: bytes, model: TrainedModel, x: NDArray[np.float32]) -> float:
    """Return max |ONNX − LightGBM| over rows x [N, F]; raise ValueError beyond 1e-5 + 1e-4·|y|."""
    raise NotImplementedError


def golden_rows(onnx_bytes: bytes, x: NDArray[np.float32], n: int = 16) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return n rows of x [n, F], some with NaN, and the outputs [n, Q] the graph gave for them."""
    raise NotImplementedError


class OnnxForecaster:
    """A forecaster (see central/backtest.py) that runs an exported model the way the edge does."""

    def __init__(self, onnx_bytes: bytes, *, calendar: Calendar, step_s: int = 3600) -> None:
        raise NotImplementedError

    def __call__(
        self, windows: NDArray[np.float32], origins_us: NDArray[np.int64], leads: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return kW [N, L, Q]."""
        raise NotImplementedError
