"""A site with a model that serves, and somebody who can write to its broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.manifest import Manifest
from shared.messages import Desired
from tests.conftest import Broker
from tests.integration.edge_process import SITE, EdgeProcess, Watcher, origin, reading, wait_for
from tests.small_model import in_a_month, small_manifest

METER = "m1"
HISTORY_H = 80  # enough for a model to serve


@dataclass
class Site:
    """One edge process at one broker; hours pass when the test says so."""

    edge: EdgeProcess
    watcher: Watcher
    hour: int = 0
    silent: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, broker: Broker, folder: Path, *settings: str, history_h: int = HISTORY_H) -> Site:
        """A running edge with some days of one meter, and no model."""
        edge = EdgeProcess(folder, broker.port, settings=settings)
        edge.start()
        site = cls(edge, Watcher(broker.port))
        site.watcher.send(METER, [reading(hour, 1.0 + hour % 24) for hour in range(history_h)])
        site.hour = history_h
        site.watcher.wait(f"forecasts/{METER}", lambda seen: seen[-1]["origin"] == origin(history_h), "the history")
        return site

    def end(self) -> None:
        """Stop all of it."""
        if self.edge.process is not None and self.edge.process.poll() is None:
            self.edge.kill()
        self.watcher.connection.stop()

    def publish_chunks(self, sha256: str, chunks: list[bytes]) -> None:
        """Retain an artifact's chunks."""
        for number, chunk in enumerate(chunks):
            self.watcher.connection.publish(f"metercast/artifacts/{sha256}/{number}", chunk, retain=True)

    def desire(self, champion: Manifest, challenger: Manifest | None = None) -> None:
        """Retain what the site should run."""
        desired = Desired(champion=champion, challenger=challenger)
        self.watcher.connection.publish(f"metercast/{SITE}/models/desired", desired.encode(), retain=True)

    def install(self, version: int, seed: int = 1, **claims: Any) -> Manifest:
        """Bring a good model in, and wait until it serves."""
        manifest, chunks = good(version, seed, **claims)
        self.publish_chunks(manifest.sha256, chunks)
        self.desire(manifest)
        self.wait_for_champion(version)
        return manifest

    def wait_for_champion(self, version: int) -> None:
        """Wait until the edge reports it."""
        self.watcher.wait(
            "models/reported", lambda seen: (seen[-1]["champion"] or {}).get("version") == version, f"version {version}"
        )

    def refusal(self, version: int, reason: str) -> dict[str, Any]:
        """The refusal of a version for a reason, once it is reported."""

        def found() -> list[dict[str, Any]]:
            reports = self.watcher.of_topic("models/reported")
            refused = reports[-1]["refused"] if reports else []
            return [one for one in refused if (one["version"], one["reason"]) == (version, reason)]

        wait_for(lambda: bool(found()), f"version {version} to be refused as {reason}", self.edge.log)
        return found()[-1]

    def forecast(self) -> dict[str, Any]:
        """Let an hour pass and return its forecast."""
        self.watcher.send(METER, reading(self.hour, 1.0 + self.hour % 24))
        self.hour += 1
        topic = f"forecasts/{METER}"
        seen = self.watcher.wait(topic, lambda seen: seen[-1]["origin"] == origin(self.hour), "the next forecast")
        return seen[-1]

    def serving(self) -> int | None:
        """Which version of a model made the next forecast; None for a rung below the champion."""
        forecast = self.forecast()
        return forecast["model"]["version"] if forecast["rung"] == "champion" else None

    def missed_origins(self) -> set[str]:
        """Origins from the first forecast on that no forecast came for."""
        seen = {forecast["origin"] for forecast in self.watcher.of_topic(f"forecasts/{METER}")}
        return {origin(hour) for hour in range(1, self.hour + 1)} - seen


def good(version: int, seed: int = 1, **claims: Any) -> tuple[Manifest, list[bytes]]:
    """A model that should be taken, and its chunks."""
    return small_manifest(version=version, seed=seed, **{"expires": in_a_month(), **claims})
