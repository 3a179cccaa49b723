"""ONNX models at the edge: loaded behind checks, and run in one batch within a time.

Invariants: a predictor exists only for an artifact whose graph, schema and golden rows were checked in this process
(and, where it came over the wire, in the gate's child before: edge/gate.py); what a run returns is finite; output rows
ascend along the quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.claims import Claim, judge_golden, judge_interface
from edge.gate import Wanted, claim_of, judge_forecast
from edge.sessions import Session, interface_of, one_line, open_compact, run
from shared.covariates import covariates_of
from shared.errors import ModelRefused
from shared.heap import return_freed_memory
from shared.manifest import Manifest
from shared.refusals import Cause

RUN_SECONDS: Final = 5.0  # unless told: as edge.model_seconds


@dataclass(frozen=True, slots=True)
class Predictor:
    """A checked model: its manifest and its session."""

    manifest: Manifest
    session: Session
    claim: Claim
    seconds: float = RUN_SECONDS  # of processor time that a run may take

    @property
    def covariates(self) -> tuple[str, ...]:
        """The covariates it was trained with, whose columns it takes behind the features."""
        return covariates_of(self.manifest.features)

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantiles [N, Q] in normalised space of features [N, F], every one of them finite.

        Raises ModelRefused when the model fails, takes more than `seconds`, or gives anything else.
        """
        try:
            quantiles = run(self.session, self.claim, features, self.seconds)
        except Exception as error:
            raise ModelRefused(Cause.FAILED_RUNNING, f"the model failed to run: {one_line(error)}") from error
        if not np.isfinite(quantiles).all():
            unfit = int((~np.isfinite(quantiles)).any(axis=1).sum())
            raise ModelRefused(
                Cause.FAILED_RUNNING, f"the model gave no finite number for {unfit} of {len(quantiles)} rows"
            )
        return quantiles


def load(artifact: bytes, manifest: Manifest, wanted: Wanted, *, seconds: float = RUN_SECONDS) -> Predictor:
    """A predictor for `artifact`, or ModelRefused with the first check it failed; never another error.

    These are the checks that cost little; what a model that came from elsewhere could do to the process is for
    `edge.gate.prove` to find out, before.
    """
    try:
        judge_forecast(manifest, wanted)
        predictor = _checked(artifact, manifest, seconds)
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(Cause.CRASHED, f"the model could not be checked: {one_line(error)}") from error
    return_freed_memory()
    return predictor


def _checked(artifact: bytes, manifest: Manifest, seconds: float) -> Predictor:
    claim = claim_of(manifest)
    session = open_compact(artifact)
    judge_interface(interface_of(session), claim)
    judge_golden(run(session, claim, claim.golden_rows(), seconds), claim)
    return Predictor(manifest, session, claim, seconds)
