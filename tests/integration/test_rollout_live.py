"""A model that passes the gate and forecasts badly: taken back by its own live scores, without a person.

Real edge, real central, real broker; the models are handed to central as a training hands them, and hours pass when the
test says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from central.trainings import Result, Training
from central.work import WorkFolder, replace_bytes
from shared.manifest import Golden
from tests.bad_models import biased_model
from tests.integration.plant import SITE, Watcher, edge_at, origin, reading
from tests.mosquitto import Broker
from tests.processes import NO_TRACKING_SERVER, CentralProcess
from tests.small_model import KEY, manifest_of, small_model
from tests.waiting import wait_for

METERS = ("m1", "m2", "m3")
HISTORY_H = 21 * 24
CANARY_H = 48


class Fleet:
    """One site and its central."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.edge, self.watcher = edge_at(broker.port, folder / "edge"), Watcher(broker.port)
        key = folder / "key.pem"
        key.touch(mode=0o600)
        key.write_bytes(KEY.pem())
        settings = (f"keys.private={key}", f"rollout.canary_time={CANARY_H}h", "training.min_history=300d")
        self.central = CentralProcess(
            folder / "central", broker.port, (NO_TRACKING_SERVER, "drift.agreement=1", *settings)
        )
        self.work = WorkFolder(self.central.folder)
        self.hour = 0

    def accept(self, artifact: bytes, golden: Golden, version: int) -> None:
        """Leave what a training leaves whose model was accepted."""
        manifest = manifest_of(artifact, golden, version)
        replace_bytes(self.work.artifact(manifest.sha256), artifact)
        training = Training(self.work.trainings / f"2026-{version}")
        training.folder.mkdir(parents=True)
        made: dict[str, Any] = {"reasons": ["test"], "started_at": "2026-01-01T00:00:00Z", "until": origin(0)}
        training.finish(
            Result(id=training.id, reason="command", outcome="accepted", version=version, manifest=manifest, **made)
        )

    def pass_hours(self, count: int) -> None:
        """Every meter reports so many hours; waits until all are forecast."""
        for meter in METERS:
            hours = range(self.hour, self.hour + count)
            self.watcher.send(meter, [reading(hour, load_kwh(meter, hour)) for hour in hours])
        self.hour += count
        for meter in METERS:
            topic = f"forecasts/{meter}"
            self.watcher.wait(topic, lambda seen: seen[-1]["origin"] == origin(self.hour), "forecasts")

    def await_recorded(self) -> None:
        """Wait until central has what the edge has sent."""
        wait_for(lambda: self.edge.metric("metercast_outbox_batches") == 0.0, "central to record", self.central.log)

    def champion(self) -> int:
        """Which version the edge says it runs."""
        reports = self.watcher.of_topic("models/reported")
        return (reports[-1]["champion"] or {"version": 0})["version"] if reports else 0

    def await_champion(self, version: int) -> None:
        self.watcher.wait("models/reported", lambda _: self.champion() == version, f"version {version}")

    def journal(self, event: str) -> list[dict[str, Any]]:
        """What central noted of one kind."""
        lines = self.work.journal.read_text().splitlines() if self.work.journal.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]


def load_kwh(meter: str, hour: int) -> float:
    """A day's shape with some noise, the same whenever it is asked for."""
    noise = np.random.default_rng([hour, METERS.index(meter)]).normal(0, 0.1)
    return round(float(2 + np.sin(2 * np.pi * (hour % 24) / 24) + noise), 3)


@pytest.fixture
def fleet(broker: Broker, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(broker, tmp_path)
    made.edge.start()
    made.central.spawn()
    yield made
    made.edge.kill()
    made.central.stop()
    made.watcher.stop()


def test_a_model_that_forecasts_badly_is_stepped_back_within_the_canary_time_without_a_person(fleet: Fleet) -> None:
    fleet.pass_hours(HISTORY_H)
    fleet.accept(*small_model(trees=60), version=1)
    fleet.await_champion(1)
    while not fleet.journal("passed"):  # until the first has been watched for as long as central wants
        assert fleet.hour < HISTORY_H + 60 * 24, "it is not content with the first"
        fleet.pass_hours(12)
        fleet.await_recorded()
    fleet.accept(*biased_model(by=3.0, trees=60), version=2)
    fleet.await_champion(2)
    for _ in range(CANARY_H // 4 - 1):
        fleet.pass_hours(4)
    fleet.await_champion(1)
    (stepped_back,) = fleet.journal("stepped back")
    assert (stepped_back["version"], stepped_back["to"]) == (2, 1)
    assert "its live error is" in stepped_back["reason"]
    fleet.pass_hours(1)
    forecast = fleet.watcher.of_topic("forecasts/m1")[-1]
    assert (forecast["rung"], forecast["model"]["version"]) == ("champion", 1)
    origins = {one["origin"] for one in fleet.watcher.of_topic("forecasts/m2")}
    assert {origin(hour) for hour in range(1, fleet.hour + 1)} <= origins
    assert SITE in {line["site"] for line in fleet.journal("swapped")}
