"""A model tried out: opened, its golden rows, and a full batch of rows like them, timed.

Invariants: the rows drawn are a function of the claim and the budget, so that a verdict can be had again.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.random import default_rng

from edge.claims import Claim, Rows, judge_golden, judge_interface
from edge.proving.confinement import Memory
from edge.proving.dialogue import Budget, Proof
from edge.proving.graphs import judge_graph
from edge.proving.protobuf import parse
from edge.sessions import Session, interface_of, one_line, open_session, run
from shared.errors import ModelRefused
from shared.refusals import Cause

SEED: Final = 7
HOLED: Final = 0.3  # of the cells of every fourth row, as in the golden rows


def try_out(artifact: bytes, claim: Claim, budget: Budget, memory: Memory) -> Proof:
    """Return what it costs. Raises ModelRefused with the first check that it failed, MemoryError or TimeoutError."""
    judge_graph(parse(artifact), claim)
    session = open_session(artifact)
    judge_interface(interface_of(session), claim)
    judge_golden(_computed(session, claim, claim.golden_rows(), budget.seconds), claim)
    rows = drawn_rows(claim.golden_rows(), budget.rows)
    before_s = time.process_time()
    output = _computed(session, claim, rows, budget.seconds)
    seconds = time.process_time() - before_s
    _judge_output(output)
    return _within(budget, Proof(round(seconds, 4), memory.peak()))


def drawn_rows(golden: Rows, count: int) -> Rows:
    """Rows [count, F]: each cell near one of its column's, every fourth row with holes; the first has nothing else."""
    rng = default_rng(SEED)
    columns = np.arange(golden.shape[1])
    rows = golden[rng.integers(len(golden), size=(count, len(columns))), columns]
    rows += rng.standard_normal(rows.shape, dtype=np.float32) * (0.1 + 0.5 * _spread(golden))
    rows[::4][rng.random(rows[::4].shape, dtype=np.float32) < HOLED] = np.nan
    rows[:1], rows[1:2] = np.nan, 0.0
    return rows


def _spread(golden: Rows) -> Rows:
    known = np.nan_to_num(golden)
    spread: Rows = known.max(axis=0) - known.min(axis=0)
    return spread


def _computed(session: Session, claim: Claim, rows: Rows, seconds: float) -> Rows:
    try:
        output: Rows = run(session, claim, rows, seconds)
    except (MemoryError, TimeoutError):
        raise
    except ValueError as error:
        raise ModelRefused(Cause.OTHER_GRAPH, f"of {len(rows)} rows {one_line(error)}") from error
    except Exception as error:
        raise ModelRefused(Cause.GOLDEN_ROWS, f"it fails on {len(rows)} rows: {one_line(error)}") from error
    return output


def _judge_output(output: Rows) -> None:
    """What it says of rows that are not golden must be numbers, too, in the order of the quantiles."""
    if unfit := int((~np.isfinite(output)).any(axis=1).sum()):
        raise ModelRefused(
            Cause.GOLDEN_ROWS, f"no finite number for {unfit} of {len(output)} rows like the golden ones"
        )
    if crossed := int((np.diff(output, axis=1) < 0).any(axis=1).sum()):
        raise ModelRefused(
            Cause.GOLDEN_ROWS, f"quantiles cross in {crossed} of {len(output)} rows like the golden ones"
        )


def _within(budget: Budget, proof: Proof) -> Proof:
    if proof.seconds > budget.seconds:
        raise ModelRefused(
            Cause.TOO_SLOW, f"{proof.seconds:.2f} s for {budget.rows} rows, {budget.seconds:g} s are allowed"
        )
    if proof.memory_bytes > budget.memory_bytes:
        raise ModelRefused(
            Cause.TOO_MUCH_MEMORY,
            f"held {proof.memory_bytes / 2**20:.0f} MiB, {budget.memory_bytes / 2**20:.0f} MiB are allowed",
        )
    return proof
