"""Models at the edge in whatever order desired, chunks, proofs, failures and restarts come, drawn by lot."""

import random
from pathlib import Path

import pytest

from edge.effects import ChunkArrived, DesiredArrived
from edge.models import ROLES
from shared.clock import to_datetime
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.messages import Desired
from shared.refusals import Cause
from tests.small_model import small_manifest
from tests.unit.edge_harness import START_US, EdgeAtDesk

Known = tuple[Manifest, list[bytes]]


def _want(desk: EdgeAtDesk, champion: Manifest | None, challenger: Manifest | None = None) -> None:
    payload = Desired(champion=champion, challenger=challenger).encode()
    desk.tell(DesiredArrived("metercast/desk/models/desired", payload))


def _deliver(desk: EdgeAtDesk, known: Known) -> None:
    manifest, chunks = known
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))


def _running(desk: EdgeAtDesk) -> dict[str, Manifest]:
    models = desk.node.models
    both = zip(ROLES, (models.champion, models.challenger), strict=True)
    return {role: model.manifest for role, model in both if model is not None}


def _something_happens(desk: EdgeAtDesk, lot: random.Random, first: list[Known], backs: list[Known]) -> None:
    match lot.choice(["desired", "desired", "chunks", "chunks", "proof", "proof", "failure", "restart"]):
        case "desired":
            champion, challenger = lot.choice([*first, *backs]), lot.choice([*first, None])
            _want(desk, champion[0], challenger[0] if challenger else None)
        case "chunks":
            _deliver(desk, lot.choice(first))
        case "proof" if desk.asked:
            desk.prove()
        case "failure" if lot.random() < 0.6 and _running(desk):
            role = lot.choice(sorted(_running(desk)))
            desk.node.models.fail(role, ModelRefused(Cause.FAILED_RUNNING, "test"), to_datetime(START_US))
            for effect in desk.node.models.tell_changes():
                desk.carry_out(effect, START_US)
        case "restart":
            desk.asked.clear()
            desk.restart()


@pytest.mark.parametrize("seed", range(10))
def test_what_runs_is_on_disk_what_failed_does_not_run_and_a_newer_one_always_gets_through(
    tmp_path: Path, seed: int
) -> None:
    desk, lot = EdgeAtDesk(tmp_path / "edge", proves=False), random.Random(seed)
    # Version 4 is the artifact of version 1 again.
    first = [small_manifest(version=version, seed=model) for version, model in ((1, 1), (2, 2), (3, 3), (4, 1))]
    backs = [
        small_manifest(version=version, seed=model, step_back_from=newest)
        for version, model, newest in ((1, 1, 2), (2, 2, 3), (1, 1, 4))
    ]
    for _ in range(120):
        _something_happens(desk, lot, first, backs)
        failed = {refusal.sha256 for refusal in desk.node.models.refused.failed}
        for manifest in _running(desk).values():
            assert desk.artifacts.read(manifest.sha256)
            assert manifest.sha256 not in failed
    newest = small_manifest(version=9, seed=4)
    _want(desk, newest[0])
    _deliver(desk, newest)
    while desk.asked:
        desk.prove()
    assert _running(desk) == {"champion": newest[0]}
    assert desk.node.models.underway.transfers == []
