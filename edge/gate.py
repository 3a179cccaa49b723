"""The gate's door: an artifact is tried out in a process of its own, which may be killed."""

from __future__ import annotations

from dataclasses import dataclass

from shared.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this edge forecasts, and a model must forecast too."""

    step_s: int
    horizon_steps: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a full batch of `rows` feature rows may cost."""

    rows: int
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What trying a model out showed."""

    seconds: float  # of a full batch
    memory_bytes: int  # most that the process held


def prove(artifact: bytes, manifest: Manifest, wanted: Wanted, budget: Budget) -> Proof:
    """Return what the model costs; raises ModelRefused with the first check that it failed. Blocks."""
    raise NotImplementedError
