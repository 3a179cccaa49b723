"""Carrying out the rollout: artifacts and manifests onto the wire, state to disk, aliases to the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from central.jobs import Jobs
from central.journal import Journal
from central.rollout import (
    Approved,
    CandidateAccepted,
    ClearArtifact,
    Effect,
    Event,
    Promoted,
    PublishArtifact,
    PublishDesired,
    Refresh,
    Refused,
    Rollout,
    RolloutState,
    SetAliases,
    Swapped,
)
from central.telemetry import CentralMetrics
from central.work import WorkFolder, read_object, replace_text
from shared.errors import MetercastError
from shared.manifest import Manifest, pack
from shared.mqtt import Connection
from shared.topics import SiteTopics, artifact_chunk

log = logging.getLogger(__name__)

CHUNK_EXPIRY: Final = timedelta(days=30)
REFRESH_EVERY: Final = timedelta(days=7)


def load_rollout(work: WorkFolder) -> RolloutState:
    """What was rolled out when central last ran; raises MetercastError when that cannot be read."""
    content = read_object(work.rollout)
    try:
        return RolloutState() if content is None else RolloutState.model_validate(content)
    except ValidationError as error:
        raise MetercastError(f"{work.rollout}: {error.errors()[0]['msg']}") from error


class Delivery:
    """The shell of the rollout's state machine. State is on disk before anything is said."""

    def __init__(
        self,
        rollout: Rollout,
        connection: Connection,
        work: WorkFolder,
        jobs: Jobs,
        journal: Journal,
        metrics: CentralMetrics,
        *,
        root: str,
    ) -> None:
        self._rollout = rollout
        self._connection = connection
        self._work = work
        self._jobs = jobs
        self._journal = journal
        self._metrics = metrics
        self._root = root
        self._refreshed: datetime | None = None
        self._refreshed_on_connect = 0

    @property
    def champion(self) -> Manifest | None:
        """The model that all sites should run."""
        return self._rollout.state.champion

    @property
    def sites(self) -> Collection[str]:
        """Every site that was ever seen."""
        return self._rollout.state.sites

    def handle(self, event: Event, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Apply one event, keep the state, and carry out what follows; returns what was carried out."""
        before = self._rollout.state.model_dump_json(by_alias=True)
        effects = self._rollout.handle(event)
        after = self._rollout.state.model_dump_json(by_alias=True)
        if after != before:
            replace_text(self._work.rollout, after)
        for effect in effects:
            self._carry_out(effect, wall, event_us)
        self._show()
        return effects

    def refresh_when_due(self, *, wall: datetime, event_us: int | None) -> None:
        """Say everything again on each connect, and long before the chunks on the broker expire.

        A broker that was killed has forgotten what was retained since it last saved.
        """
        connects = self._connection.connects
        old = self._refreshed is None or wall - self._refreshed >= REFRESH_EVERY
        if not old and connects == self._refreshed_on_connect:
            return
        if old:
            self._refreshed = wall
        self._refreshed_on_connect = connects
        self.handle(Refresh(registry=old), wall=wall, event_us=event_us)

    def take_approvals(self, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Act on what `central models approve` left."""
        if not self._work.approvals.is_dir():
            return []
        effects: list[Effect] = []
        for path in sorted(self._work.approvals.iterdir()):
            if path.name.isdecimal():
                effects += self.handle(Approved(int(path.name)), wall=wall, event_us=event_us)
            path.unlink()
        return effects

    def accept(self, manifest: Manifest, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Take in an accepted candidate."""
        return self.handle(CandidateAccepted(manifest), wall=wall, event_us=event_us)

    def _carry_out(self, effect: Effect, wall: datetime, event_us: int | None) -> None:
        match effect:
            case PublishArtifact(sha256):
                self._publish_artifact(sha256)
            case PublishDesired(site, desired):
                self._connection.publish(SiteTopics(self._root, site).desired, desired.encode(), retain=True)
            case ClearArtifact(sha256, chunks):
                self._publish_chunks(sha256, [b""] * chunks)
            case Promoted(version, predecessor):
                self._journal.write("pushed", wall=wall, event_us=event_us, version=version, predecessor=predecessor)
            case SetAliases(version, predecessor):
                self._jobs.errand("models", "promote", str(version), *([str(predecessor)] if predecessor else []))
            case Swapped(site, version):
                self._journal.write("swapped", wall=wall, event_us=event_us, site=site, version=version)
            case Refused(site, refusal):
                self._journal.write("refused", wall=wall, event_us=event_us, site=site, **refusal.model_dump())

    def _publish_artifact(self, sha256: str) -> None:
        try:
            artifact = self._work.artifact(sha256).read_bytes()
        except OSError as error:
            log.error("artifact missing", extra={"sha256": sha256, "reason": error.strerror})
            return
        self._publish_chunks(sha256, pack(artifact).chunks)

    def _publish_chunks(self, sha256: str, chunks: Iterable[bytes]) -> None:
        for number, chunk in enumerate(chunks):
            topic = artifact_chunk(self._root, sha256, number)
            expiry_s = int(CHUNK_EXPIRY.total_seconds()) if chunk else None
            self._connection.publish(topic, chunk, retain=True, expiry_s=expiry_s)

    def _show(self) -> None:
        self._metrics.sites.set(len(self._rollout.state.sites))
        self._metrics.model_version.set(self.champion.version if self.champion else 0)
