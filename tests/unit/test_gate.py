"""The gate: a model is tried out in a process of its own, and whatever it does there, the edge gets an answer."""

from __future__ import annotations

import signal
from contextlib import suppress

import numpy as np
import pytest

from edge.aside import Ended
from edge.gate import Budget, Proof, Wanted, prove, verdict
from edge.inference import load
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause
from tests.bad_models import HAZARDS, failing_model
from tests.children import nothing_left
from tests.small_model import SAID_QUANTILES, manifest_of, small_model

WANTED = Wanted(3600, 48, SAID_QUANTILES)
BUDGET = Budget(rows=12_000, seconds=2.0, memory_bytes=400_000_000)
BY_RUNNING = {Cause.GOLDEN_ROWS, Cause.TOO_SLOW, Cause.TOO_MUCH_MEMORY}
RUN = sorted(name for name, hazard in HAZARDS.items() if hazard().cause in BY_RUNNING)
READ = sorted(set(HAZARDS) - set(RUN))


def manifest(name: str) -> Manifest:
    hazard = HAZARDS[name]()
    return manifest_of(hazard.artifact, hazard.golden)


def test_a_good_model_passes_and_its_costs_are_told() -> None:
    artifact, golden = small_model(trees=120)
    proof = prove(artifact, manifest_of(artifact, golden), WANTED, BUDGET)
    assert 0 < proof.seconds < BUDGET.seconds
    assert 1_000_000 < proof.memory_bytes < BUDGET.memory_bytes


@pytest.mark.parametrize("name", RUN)
def test_a_model_that_shows_what_it_is_only_when_it_runs_is_refused_by_its_cause(name: str) -> None:
    with nothing_left(), pytest.raises(ModelRefused) as refused:
        prove(HAZARDS[name]().artifact, manifest(name), WANTED, BUDGET)
    assert refused.value.cause == HAZARDS[name]().cause, str(refused.value)


@pytest.mark.parametrize("name", READ)
def test_a_model_that_no_forecast_needs_is_refused_by_its_cause(name: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        prove(HAZARDS[name]().artifact, manifest(name), WANTED, BUDGET)
    assert refused.value.cause == HAZARDS[name]().cause, str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", range(10))
def test_damage_gives_a_proof_or_a_refusal_and_never_anything_else(seed: int) -> None:
    chance = np.random.default_rng(seed)
    artifact, golden = small_model()
    damaged = bytearray(artifact[: chance.integers(1, len(artifact))] if seed % 3 == 0 else artifact)
    for place in chance.integers(len(damaged), size=1 + seed // 3):
        damaged[place] ^= 1 << int(chance.integers(8))
    with nothing_left(), suppress(ModelRefused):
        assert isinstance(prove(bytes(damaged), manifest_of(artifact, golden), WANTED, BUDGET), Proof)


@pytest.mark.parametrize(
    ("ended", "cause"),
    [
        (Ended(0, b"", overdue=True), Cause.TOO_SLOW),
        (Ended(-signal.SIGXCPU, b""), Cause.TOO_SLOW),
        (Ended(-signal.SIGSEGV, b""), Cause.CRASHED),
        (Ended(-signal.SIGKILL, b""), Cause.CRASHED),
        (Ended(3, b""), Cause.CRASHED),
        (Ended(0, b'{"seconds": "soon"}\n'), Cause.CRASHED),
        (Ended(0, b"Traceback"), Cause.CRASHED),
    ],
)
def test_however_the_process_ends_the_edge_has_a_sentence(ended: Ended, cause: Cause) -> None:
    with pytest.raises(ModelRefused) as refused:
        verdict(ended, 60)
    assert refused.value.cause == cause
    assert " " in str(refused.value)


def test_a_model_that_gives_no_number_later_fails_where_it_runs() -> None:
    artifact, golden = failing_model(limit=1e6)
    prove(artifact, manifest_of(artifact, golden), WANTED, BUDGET)
    model = load(artifact, manifest_of(artifact, golden), WANTED)
    rows = np.zeros((4, len(golden.inputs[0])), dtype=np.float32)
    assert model.run(rows).shape == (4, len(SAID_QUANTILES))
    rows[2] = 1e9
    with pytest.raises(ModelRefused, match="no finite number for 1 of 4 rows") as refused:
        model.run(rows)
    assert refused.value.cause == Cause.FAILED_RUNNING
