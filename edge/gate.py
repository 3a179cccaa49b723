"""The gate's door: an artifact is tried out in a process of its own, which may be killed (see edge/proving).

Invariants: `prove` returns a proof or raises ModelRefused, whatever the artifact does to the process; the process is
gone when it returns, and when the edge is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.aside import Ended, ask
from edge.claims import Claim
from edge.proving.dialogue import MAX_ANSWER_BYTES, Budget, Proof, Task, decode_answer
from shared.covariates import covariates_of, schema_hash_of
from shared.errors import ModelRefused
from shared.manifest import INPUT, OUTPUT, Manifest
from shared.refusals import Cause

__all__ = ["Budget", "Proof", "Wanted", "claim_of", "judge_forecast", "prove", "verdict"]

# By the wall, for a process that yields to everything else: it is stopped by the processor time that it takes long
# before, and a machine that is busy is no fault of a model.
PATIENCE_SECONDS: Final = 120.0
PATIENCE_PER_SECOND: Final = 10.0  # and for every second that a full batch may take

_COMMAND: Final = (sys.executable, "-s", "-P", "-B", "-m", "edge.proving")
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this edge forecasts, and a model must forecast too."""

    step_s: int
    horizon_steps: int
    quantiles: tuple[float, ...]


def judge_forecast(manifest: Manifest, wanted: Wanted) -> None:
    """Raise ModelRefused where the manifest claims another forecast than this edge publishes, or other features."""
    try:
        schema_hash = schema_hash_of(covariates_of(manifest.features))
    except ValueError as error:
        raise ModelRefused(Cause.UNKNOWN_FEATURES, str(error)) from error
    if manifest.schema_hash != schema_hash:
        raise ModelRefused(
            Cause.UNKNOWN_FEATURES, f"feature schema {manifest.schema_hash} is not this edge's {schema_hash}"
        )
    for name, theirs, ours in (
        ("step_s", manifest.step_s, wanted.step_s),
        ("horizon_steps", manifest.horizon_steps, wanted.horizon_steps),
        ("quantiles", manifest.quantiles, list(wanted.quantiles)),
    ):
        if theirs != ours:
            raise ModelRefused(Cause.OTHER_FORECAST, f"{name} is {theirs}, this edge forecasts {ours}")


def claim_of(manifest: Manifest) -> Claim:
    """What the manifest says that can be held against the graph."""
    return Claim(
        input=INPUT,
        output=OUTPUT,
        features=manifest.features,
        schema_hash=manifest.schema_hash,
        step_s=manifest.step_s,
        horizon_steps=manifest.horizon_steps,
        quantiles=manifest.quantiles,
        golden_inputs=manifest.golden.inputs,
        golden_outputs=manifest.golden.outputs,
        absolute=manifest.golden.absolute,
        relative=manifest.golden.relative,
    )


def prove(artifact: bytes, manifest: Manifest, wanted: Wanted, budget: Budget) -> Proof:
    """Return what the model costs; raises ModelRefused with the first check that it failed. Blocks.

    The process ends with the thread that called this, if that ends first.
    """
    judge_forecast(manifest, wanted)
    task = Task(claim_of(manifest), budget, len(artifact), os.getpid())
    patience_s = PATIENCE_SECONDS + PATIENCE_PER_SECOND * budget.seconds
    return verdict(_tried_out(_COMMAND, [task.encode(), artifact], patience_s), patience_s)


def _tried_out(command: Sequence[str], request: Sequence[bytes], patience_s: float) -> Ended:
    try:
        return ask(command, request, environment=_environment(), seconds=patience_s, most_bytes=MAX_ANSWER_BYTES)
    except OSError as error:
        raise ModelRefused(Cause.CRASHED, f"no process to try it out in: {error.strerror}") from error


def verdict(ended: Ended, patience_s: float) -> Proof:
    """What the end of the process means; raises ModelRefused unless it answered with a proof."""
    if ended.overdue:
        raise ModelRefused(Cause.TOO_SLOW, f"killed: it was not done after {patience_s:g} s")
    if ended.code == -signal.SIGXCPU:
        raise ModelRefused(Cause.TOO_SLOW, "stopped: it took more processor time than loading and two batches may")
    if ended.code < 0 and len(ended.said) <= MAX_ANSWER_BYTES:
        raise ModelRefused(Cause.CRASHED, f"the process that tried it out ended by {_name_of(-ended.code)}")
    if ended.code > 0:
        raise ModelRefused(Cause.CRASHED, f"the process that tried it out ended with code {ended.code}")
    try:
        return decode_answer(ended.said)
    except ValueError as error:
        raise ModelRefused(Cause.CRASHED, "the process that tried it out gave no answer that can be read") from error


def _name_of(number: int) -> str:
    """The signal's name; SIGKILL is often the system's, short of memory."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name}, as where memory runs out" if name == "SIGKILL" else name


def _environment() -> dict[str, str]:
    """Nothing of the edge's own (it may hold secrets) but where libraries are found."""
    found = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
    packages = str(Path(__file__).resolve().parents[1])
    return {**found, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": packages, "LC_ALL": "C.UTF-8"}
