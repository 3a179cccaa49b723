"""What is said between the edge and the process that tries a model out: one line and the artifact in, one line back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

from edge.claims import Claim
from shared.errors import ModelRefused
from shared.refusals import Cause

MAX_ANSWER_BYTES: Final = 4096
MAX_TASK_BYTES: Final = 4_194_304  # a claim of 256 golden rows stays far below


@dataclass(frozen=True, slots=True)
class Budget:
    """What a full batch of `rows` feature rows may cost."""

    rows: int
    seconds: float  # of processor time
    memory_bytes: int  # beyond what the process held before it was given the artifact


@dataclass(frozen=True, slots=True)
class Proof:
    """What trying a model out showed."""

    seconds: float  # of processor time, of a full batch
    memory_bytes: int  # most that the process held, beyond what it held before it was given the artifact


@dataclass(frozen=True, slots=True)
class Task:
    """What to try out: the claim, the budget, the artifact's size, and whose child this is."""

    claim: Claim
    budget: Budget
    size: int
    parent: int

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


def read_task(stream: BinaryIO) -> Task:
    """Read a task's line; raises EOFError when the edge was gone before it was all said."""
    line = stream.readline(MAX_TASK_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError("the task was cut short")
    said = json.loads(line)
    return Task(Claim(**said["claim"]), Budget(**said["budget"]), said["size"], said["parent"])


def read_artifact(stream: BinaryIO, task: Task) -> bytes:
    """Read the artifact that follows; raises EOFError when it was cut short."""
    artifact = stream.read(task.size)
    if len(artifact) != task.size:
        raise EOFError("the artifact was cut short")
    return artifact


def encode_answer(answer: Proof | ModelRefused) -> bytes:
    """One line of JSON."""
    if isinstance(answer, Proof):
        return json.dumps(asdict(answer)).encode() + b"\n"
    return json.dumps({"cause": answer.cause, "detail": str(answer)[:1000]}).encode() + b"\n"


def decode_answer(line: bytes) -> Proof:
    """The proof, or ModelRefused as it was answered; raises ValueError where it is no answer at all."""
    try:
        said: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
        if set(said) == {"cause", "detail"}:
            raise ModelRefused(Cause(said["cause"]), str(said["detail"]))
        return Proof(seconds=float(said["seconds"]), memory_bytes=int(said["memory_bytes"]))
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no answer: {line[:100]!r}") from error
