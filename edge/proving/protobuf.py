"""An artifact as protobuf: parsed with onnx's message classes and nothing else of onnx."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

from shared.errors import ModelRefused
from shared.refusals import Cause

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_BYTES: Final = 268_435_456  # whatever edge.max_model_bytes says


def parse(artifact: bytes) -> ModelProto:
    """The message; raises ModelRefused where it is none, or holds fields that this edge's onnx does not know.

    What onnx does not know might mean something to onnxruntime, and nobody would have looked at it.
    """
    messages = onnx_messages()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

    if len(artifact) > MAX_BYTES:
        raise ModelRefused(Cause.TOO_COMPLEX, f"{len(artifact)} bytes, more than {MAX_BYTES}")
    model: ModelProto = messages.ModelProto()
    try:
        model.ParseFromString(artifact)
    except DecodeError as error:
        raise ModelRefused(Cause.NOT_ONNX, "not an ONNX model: its protobuf cannot be read") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        raise ModelRefused(Cause.NOT_ONNX, "it holds fields that are not of ONNX")
    if not model.HasField("graph"):
        raise ModelRefused(Cause.NOT_ONNX, "not an ONNX model: it holds no graph")
    return model


def onnx_messages() -> ModuleType:
    """The generated module of onnx, without running the package around it: that takes another 0.15 s and 25 MB.

    So this process, which ends after one proof, knows `onnx` as an empty package.
    """
    if "onnx" not in sys.modules:
        spec = importlib.util.find_spec("onnx")
        if spec is None:
            raise ImportError("onnx is not installed")
        sys.modules["onnx"] = importlib.util.module_from_spec(spec)
    from onnx import onnx_ml_pb2

    return onnx_ml_pb2
