"""An edge at a desk that models are desired, delivered and failed at, and what it says of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edge.effects import ChunkArrived, DesiredArrived, ForecastsConfirmed
from shared.clock import HOUR_US, to_datetime
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.messages import Desired
from shared.refusals import Cause
from tests.small_model import small_manifest
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

DESIRED = "metercast/desk/models/desired"
SETTINGS = ("calendar.zone=Europe/London", "edge.publish_shadow=true")


def with_eight_days(folder: Path) -> Path:
    """The state folder, made there, of an edge with eight days of one meter."""
    desk = EdgeAtDesk(folder, settings=SETTINGS)
    desk.send(*[("m1", reading(hour, 1.0 + hour % 24)) for hour in range(24 * 8)])
    hour = START_US // HOUR_US
    desk.tell(ForecastsConfirmed(tuple((0, hour + h) for h in range(1, 24 * 8 + 1))))
    desk.send(("m1", reading(24 * 8, 1.0)))
    desk.store.close()
    return desk.folder


def going_on_from(state: Path, folder: Path) -> EdgeAtDesk:
    """An edge that goes on from a copy of a state folder."""
    desk = EdgeAtDesk(Path(shutil.copytree(state, folder)), settings=SETTINGS)
    desk.tick()
    return desk


def want(desk: EdgeAtDesk, champion: Manifest | None, challenger: Manifest | None = None) -> list[Any]:
    return desk.tell(DesiredArrived(DESIRED, Desired(champion=champion, challenger=challenger).encode()))


def deliver(desk: EdgeAtDesk, manifest: Manifest, chunks: list[bytes]) -> None:
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))


def install(desk: EdgeAtDesk, manifest: Manifest, chunks: list[bytes]) -> None:
    want(desk, manifest)
    deliver(desk, manifest, chunks)


def fail(desk: EdgeAtDesk, role: str) -> None:
    """Let a model fail as in a round."""
    desk.node.models.fail(role, ModelRefused(Cause.FAILED_RUNNING, "test"), to_datetime(START_US))
    desk.tick()


def last_report(desk: EdgeAtDesk) -> dict[str, Any]:
    return desk.of_topic("models/reported")[-1]


def next_forecast(desk: EdgeAtDesk) -> dict[str, Any]:
    hour = (desk.node.clock.latest_us - START_US) // HOUR_US + 1
    desk.send(("m1", reading(hour, 1.0 + hour % 24)))
    return desk.of_topic("forecasts/m1")[-1]


def big(version: int = 1) -> tuple[Manifest, list[bytes]]:
    """A model of several chunks."""
    manifest, chunks = small_manifest(version=version, trees=240)
    assert len(chunks) > 2
    return manifest, chunks
