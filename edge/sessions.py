"""ONNX sessions (only home of onnxruntime at the edge): opened, looked at from outside, run within a time.

Light to import: the gate's child uses it as well as the edge.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge.claims import FLOAT32, Claim, End, Interface
from edge.watchdog import WATCHDOG
from shared.errors import ModelRefused
from shared.heap import return_freed_memory
from shared.refusals import Cause

log = logging.getLogger(__name__)

_TYPES: Final = {"tensor(float)": FLOAT32}
_OUT_OF_MEMORY: Final = ("bad_alloc", "bad allocation", "failed to allocate memory")

Session: TypeAlias = onnxruntime.InferenceSession


def open_session(artifact: bytes) -> Session:
    """A session of one thread. Raises ModelRefused where onnxruntime cannot make one, MemoryError for want of that."""
    with _refusals():
        return _session(artifact, _options())


def open_compact(artifact: bytes) -> Session:
    """As `open_session`, computes the same, and holds a fifth of the memory: for a model that stays.

    A session keeps the parsed ONNX nodes it was made of for good, and of trees these are nearly everything
    (onnxruntime issue 32047). One that is made of onnxruntime's own format has none, so the model is written in that
    first, into a file in memory. Where the system has no such file, or it cannot be used, it is a plain session.
    """
    if not hasattr(os, "memfd_create"):
        return open_session(artifact)
    try:
        return _by_way_of_a_file(artifact)
    except (OSError, ModelRefused) as error:
        session = open_session(artifact)
        log.warning("model takes more memory than it should", extra={"reason": one_line(error)})
        return session


def _by_way_of_a_file(artifact: bytes) -> Session:
    """Raises OSError where the system gives no file, ModelRefused where onnxruntime cannot use it, or the artifact."""
    file = os.memfd_create("model")
    path = f"/proc/self/fd/{file}"
    try:
        with _refusals():
            writing = _options(save_model_format="ORT")
            writing.optimized_model_filepath = path
            _session(artifact, writing)
            return_freed_memory()  # what the first took, before the second takes its own
            return _session(path, _options(load_model_format="ORT"))
    finally:
        os.close(file)


def _options(**entries: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena keeps the largest batch's memory for good
    options.log_severity_level = 4
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    return options


def _session(model: bytes | str, options: onnxruntime.SessionOptions) -> Session:
    """A session of a model's bytes, which it keeps, or of its path."""
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _refusals() -> Iterator[None]:
    """What onnxruntime raises is ModelRefused, or MemoryError."""
    try:
        yield
    except Exception as error:
        if _for_want_of_memory(error):
            raise MemoryError(one_line(error)) from error
        raise ModelRefused(Cause.NOT_ONNX, f"not a model onnxruntime can load: {one_line(error)}") from error


def interface_of(session: Session) -> Interface:
    """The graph from outside."""
    inputs, outputs = (
        tuple(End(node.name, _TYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return Interface(inputs, outputs, session.get_modelmeta().custom_metadata_map)


def run(session: Session, claim: Claim, rows: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """Outputs [N, Q] of rows [N, F].

    Raises TimeoutError when it took more than `seconds` of processor time, MemoryError for want of memory, ValueError
    when the output is not such rows, else what onnxruntime raises. Between two operators it stops at once; one that
    takes longer ends first.
    """
    output = _run(session, claim.output, {claim.input: rows}, seconds)
    expected = (len(rows), len(claim.quantiles))
    if not isinstance(output, np.ndarray) or output.shape != expected or output.dtype != np.float32:
        shape = getattr(output, "shape", type(output).__name__)
        raise ValueError(f"the output is {shape}, expected {expected} of {FLOAT32}")
    return output


def _run(session: Session, output: str, feed: dict[str, NDArray[np.float32]], seconds: float) -> Any:
    options = onnxruntime.RunOptions()
    try:
        with WATCHDOG.over(seconds, lambda: setattr(options, "terminate", True)):
            (result,) = session.run([output], feed, options)
    except Exception as error:
        if options.terminate:
            raise TimeoutError(_late(seconds)) from error
        if _for_want_of_memory(error):
            raise MemoryError(one_line(error)) from error
        raise
    if options.terminate:
        raise TimeoutError(_late(seconds))
    return result


def one_line(error: Exception) -> str:
    """Its text on one line of bounded length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _late(seconds: float) -> str:
    return f"it took more than {seconds:g} s of processor time"


def _for_want_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)
