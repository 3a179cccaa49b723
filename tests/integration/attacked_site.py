"""A site with a model that serves, and somebody who can write to its broker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.manifest import Manifest
from tests.integration.plant import Watcher, edge_at, origin, reading, running_edge
from tests.mosquitto import Broker, running
from tests.processes import EdgeProcess
from tests.small_model import in_a_month, small_manifest
from tests.waiting import found, wait_for

METER = "m1"
HISTORY_H = 80  # enough for a model to serve


@dataclass
class Site:
    """One edge process at one broker; hours pass when the test says so."""

    broker: Broker
    edge: EdgeProcess
    watcher: Watcher
    hour: int = 0
    first_origin: int = 1  # whose forecast this watcher has seen, or should have

    def pass_history(self) -> None:
        """Some days of the meter, in one message; waits for the forecast at their end."""
        self.watcher.send(METER, [reading(hour, load_kwh(hour)) for hour in range(HISTORY_H)])
        self.hour = HISTORY_H
        self._wait_for_origin()

    def install(self, version: int, seed: int = 1, **claims: Any) -> Manifest:
        """Bring a good model in, and wait until it serves."""
        manifest, chunks = good(version, seed, **claims)
        self.watcher.offer(manifest, chunks)
        self.wait_for_champion(version)
        return manifest

    def champion(self) -> int | None:
        """Which version the edge reported last."""
        reports = self.watcher.of_topic("models/reported")
        return (reports[-1]["champion"] or {}).get("version") if reports else None

    def wait_for_champion(self, version: int) -> None:
        """Wait until the edge reports it."""
        wait_for(lambda: self.champion() == version, f"version {version} to run", self.edge.log)

    def refusal(self, version: int, reason: str) -> dict[str, Any]:
        """The refusal of a version for a reason, once it is reported."""

        def reported() -> dict[str, Any] | None:
            reports = self.watcher.of_topic("models/reported")
            refused = reports[-1]["refused"] if reports else []
            return next((one for one in refused if (one["version"], one["reason"]) == (version, reason)), None)

        return found(reported, f"version {version} to be refused as {reason}", self.edge.log)

    def forecast(self) -> dict[str, Any]:
        """Let an hour pass and return its forecast."""
        self.watcher.send(METER, reading(self.hour, load_kwh(self.hour)))
        self.hour += 1
        return self._wait_for_origin()

    def serving(self) -> int | None:
        """Which version of a model made the next forecast; None for a rung below the champion."""
        forecast = self.forecast()
        return forecast["model"]["version"] if forecast["rung"] == "champion" else None

    def missed_origins(self) -> set[str]:
        """Origins that no forecast came for."""
        seen = {forecast["origin"] for forecast in self.watcher.of_topic(f"forecasts/{METER}")}
        return {origin(hour) for hour in range(self.first_origin, self.hour + 1)} - seen

    def _wait_for_origin(self) -> dict[str, Any]:
        topic, wanted = f"forecasts/{METER}", origin(self.hour)
        return self.watcher.wait(topic, lambda seen: seen[-1]["origin"] == wanted, f"the forecast at {wanted}")[-1]


@contextmanager
def site_at(broker: Broker, folder: Path, *settings: str) -> Iterator[Site]:
    """A running edge with a history and no model."""
    with running_edge(broker.port, folder, *settings) as edge:
        watcher = Watcher(broker.port)
        try:
            site = Site(broker, edge, watcher)
            site.pass_history()
            yield site
        finally:
            watcher.stop()


def prepare(folder: Path) -> None:
    """What a site that runs version 1 keeps on its disks: the edge's state and the broker's; nothing runs any more."""
    with running(folder / "mosquitto") as broker, site_at(broker, folder / "edge") as site:
        site.install(1)
        assert site.serving() == 1
        assert not site.missed_origins()
        assert site.edge.stop() == 0
        site.watcher.leave()


@contextmanager
def copied(prepared: Path, folder: Path, *settings: str) -> Iterator[Site]:
    """The prepared site, brought up again at a broker of its own."""
    shutil.copytree(prepared, folder)
    with running(folder / "mosquitto") as broker:
        edge, watcher = edge_at(broker.port, folder / "edge", *settings), Watcher(broker.port)
        try:
            edge.start()
            yield Site(broker, edge, watcher, hour=HISTORY_H + 1, first_origin=HISTORY_H + 1)
        finally:
            edge.kill()
            watcher.stop()


def load_kwh(hour: int) -> float:
    """What the meter measures in an hour."""
    return 1.0 + hour % 24


def good(version: int, seed: int = 1, **claims: Any) -> tuple[Manifest, list[bytes]]:
    """A model that should be taken, and its chunks."""
    return small_manifest(version=version, seed=seed, **{"expires": in_a_month(), **claims})


def wait_until_said(site: Site, what: str) -> None:
    """Wait until the edge's log says something."""
    wait_for(lambda: site.edge.times_said(what), f"the log to say {what!r}", site.edge.log)
