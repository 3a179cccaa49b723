"""What the edge's shell does without a broker."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from edge import runtime
from edge.bootstrap import build
from edge.effects import KeepArtifacts, SaveArtifact, Tick
from edge.runtime import Runtime
from edge.store import Store
from shared import params_file
from shared.clock import DAY_US, to_datetime
from shared.errors import StateError
from shared.manifest import digest_of
from tests.unit.edge_harness import START_US

MINUTE_US = 60_000_000
UNTIL_ROOM_US = 30 * MINUTE_US


def test_an_edge_that_a_full_disk_holds_up_at_its_start_still_sees_how_its_clock_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = build(params_file.load(overrides=["clock=wall", f"edge.state_dir={tmp_path}", "site=desk"]))
    wall_us = START_US
    commit = Store.commit

    def later(*given: object) -> None:
        nonlocal wall_us
        if wall_us < START_US + UNTIL_ROOM_US:
            wall_us += MINUTE_US
            raise StateError("the disk is full")
        commit(*given)  # type: ignore[arg-type]

    def now() -> datetime:
        return to_datetime(wall_us)

    monkeypatch.setattr(Store, "commit", later)
    monkeypatch.setattr(runtime, "wall_now", now)
    monkeypatch.setattr(runtime, "COMMIT_RETRY_S", 0.0)
    Runtime(edge)._begin(None)
    assert (edge.node.clock.wall_us, edge.node.clock.doubt_us) == (START_US + UNTIL_ROOM_US, 0)
    wall_us += 365 * DAY_US
    edge.node.handle(Tick(caught_up=False), wall_us)
    assert edge.node.clock.doubt_us == 365 * DAY_US
    edge.store.close()


def test_an_artifact_that_found_no_room_is_saved_later_unless_nobody_wants_it_any_more(tmp_path: Path) -> None:
    edge = build(params_file.load(overrides=[f"edge.state_dir={tmp_path}", "site=desk"]))
    shell, wanted, unwanted = Runtime(edge), b"wanted", b"unwanted"
    in_its_place = tmp_path / "models"
    in_its_place.write_text("")  # no folder can be made here
    shell._carry_out([SaveArtifact(digest_of(artifact), artifact) for artifact in (wanted, unwanted)])
    shell._carry_out([KeepArtifacts(frozenset({digest_of(wanted)}))])
    in_its_place.unlink()
    shell._periodic()
    assert edge.artifacts.read(digest_of(wanted)) == wanted
    assert edge.artifacts.read(digest_of(unwanted)) is None
    edge.store.close()
