"""What a manifest claims of a graph, without the manifest: numbers and names that the gate's child judges by as well.

Invariants: pure, and light to import (no pydantic), since the child process pays for every import of a proof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelRefused
from shared.refusals import Cause

FLOAT32: Final = "float32"

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Claim:
    """Ends of the graph, what its metadata must say, and its golden rows; None stands for NaN."""

    input: str
    output: str
    features: list[str]
    schema_hash: str
    step_s: int
    horizon_steps: int
    quantiles: list[float]
    golden_inputs: list[list[float | None]]
    golden_outputs: list[list[float]]
    absolute: float
    relative: float

    def golden_rows(self) -> Rows:
        """The rows [n, F] to run; raises ModelRefused where they do not fit the features."""
        if len(self.golden_inputs) != len(self.golden_outputs) or any(
            len(row) != len(self.features) for row in self.golden_inputs
        ):
            raise ModelRefused(Cause.GOLDEN_ROWS, "the golden rows do not fit the feature list")
        cells = [[np.nan if cell is None else cell for cell in row] for row in self.golden_inputs]
        return np.array(cells, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class End:
    """An input or output of a graph; a dimension is a number, or the name or None of one that is open."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As a refusal names it."""
        return f"{self.name[:40]}: {self.type} {list(self.shape[:4])}"


@dataclass(frozen=True, slots=True)
class Interface:
    """A graph from outside: its ends and its metadata."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    metadata: Mapping[str, str]


def judge_interface(interface: Interface, claim: Claim) -> None:
    """Raise ModelRefused where the graph is not, from outside, what was claimed."""
    for kind, ends, name, width in (
        ("input", interface.inputs, claim.input, len(claim.features)),
        ("output", interface.outputs, claim.output, len(claim.quantiles)),
    ):
        if not (len(ends) == 1 and _is_rows_of(ends[0], name, width)):
            found = ", ".join(map(str, ends[:4])) or "none"
            raise ModelRefused(
                Cause.OTHER_GRAPH, f"expected one {kind} {name}: {FLOAT32} [rows, {width}], the graph has {found}"
            )
    for key, expected in _metadata_of(claim).items():
        stated = _told(interface.metadata.get(key), key)
        if stated != expected:
            raise ModelRefused(
                Cause.OTHER_GRAPH, f"the graph's {key} is {str(stated)[:100]}, the manifest's {str(expected)[:100]}"
            )


def judge_golden(actual: Rows, claim: Claim) -> None:
    """Raise ModelRefused where the outputs of the golden rows [n, Q] are not those claimed, within the tolerance."""
    expected = np.array(claim.golden_outputs, dtype=np.float64)
    if actual.shape != expected.shape:
        raise ModelRefused(Cause.GOLDEN_ROWS, f"golden rows give {actual.shape}, expected {expected.shape}")
    apart = np.abs(actual - expected)
    off = ~(apart <= claim.absolute + claim.relative * np.abs(expected))
    if off.any():
        worst = np.max(apart, initial=0.0, where=np.isfinite(apart))
        missing = f", {unfit} of them no number" if (unfit := int((~np.isfinite(actual)).sum())) else ""
        raise ModelRefused(Cause.GOLDEN_ROWS, f"{int(off.sum())} golden outputs differ, by up to {worst:.3g}{missing}")


def _is_rows_of(end: End, name: str, width: int) -> bool:
    open_rows = len(end.shape) == 2 and not isinstance(end.shape[0], int)
    return end.name == name and end.type == FLOAT32 and open_rows and end.shape[1] == width


def _metadata_of(claim: Claim) -> dict[str, Any]:
    return {
        "features": claim.features,
        "schema_hash": claim.schema_hash,
        "step_s": claim.step_s,
        "horizon_steps": claim.horizon_steps,
        "quantiles": claim.quantiles,
    }


def _told(text: str | None, key: str) -> Any:
    """A value of the metadata: JSON, but for the hash; what cannot be read stays the text that it is."""
    if text is None or key == "schema_hash":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
