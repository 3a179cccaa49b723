"""Which models run here: what central wants, what was fetched, checked, swapped in or refused.

Invariants: a model serves only after digest, schema, graph and golden rows were checked; one that fails leaves the
running one untouched and the reason is reported; a swap happens between two forecast rounds, in one assignment.

The place of signatures, version order and expiry is `_judge`; of the child process that measures a model, `load`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from edge.effects import Effect, KeepArtifacts, Publish, SaveArtifact, Subscribe, Unsubscribe
from edge.inference import Predictor
from edge.starter import Starter
from shared.errors import ModelRefused
from shared.manifest import CHUNK_BYTES, Manifest, unpack
from shared.messages import Desired, Refusal, Reported, Running
from shared.refusals import Cause
from shared.topics import SiteTopics, artifact_chunks

log = logging.getLogger(__name__)

ROLES: Final = ("champion", "challenger")
REFUSALS_KEPT: Final = 20
LoadModel = Callable[[bytes, Manifest], Predictor]


@dataclass(slots=True)
class Transfer:
    """An artifact on its way: its manifest and the chunks so far."""

    manifest: Manifest
    chunks: dict[int, bytes] = field(default_factory=dict)


class Models:
    """The champion, the challenger, and what is on its way to become one."""

    def __init__(
        self,
        topics: SiteTopics,
        load: LoadModel,
        read_artifact: Callable[[str], bytes | None],
        *,
        max_bytes: int,
        starter: Starter | None = None,
    ) -> None:
        self.starter = starter  # of this release, for meters that no champion serves
        self._topics = topics
        self._load = load
        self._read_artifact = read_artifact
        self._max_bytes = max_bytes
        self._running: dict[str, Predictor] = {}
        self._since: dict[str, str] = {}
        self._wanted: dict[str, Manifest] = {}
        self._transfers: dict[str, Transfer] = {}
        self._refused: dict[str, Refusal] = {}
        self.swaps = 0
        self.refusals = 0

    @property
    def champion(self) -> Predictor | None:
        """The model whose forecasts are published."""
        return self._running.get("champion")

    @property
    def challenger(self) -> Predictor | None:
        """The model that forecasts in the shadow."""
        return self._running.get("challenger")

    def resume(self, fact: str, now: datetime) -> None:
        """Take up the models of an earlier run from disk; one that no longer passes is refused, not served."""
        try:
            kept = {
                role: (Manifest.model_validate(entry["manifest"]), str(entry["since"]))
                for role, entry in json.loads(fact).items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("the models of the last run cannot be read", extra={"reason": str(error).splitlines()[0]})
            return
        for role, (manifest, since) in kept.items():
            artifact = self._read_artifact(manifest.sha256)
            if artifact is None:
                continue
            try:
                self._running[role] = self._load(artifact, manifest)
                self._since[role] = since
                self._wanted[role] = manifest
            except ModelRefused as reason:
                self._refuse(manifest, reason, now)

    def fact(self) -> str:
        """What `resume` needs."""
        kept = {
            role: {"manifest": model.manifest.model_dump(mode="json", by_alias=True), "since": self._since[role]}
            for role, model in self._running.items()
        }
        return json.dumps(kept, allow_nan=False)

    def on_desired(self, desired: Desired, now: datetime) -> list[Effect]:
        """Begin what it takes to run the desired models; returns what to do."""
        effects: list[Effect] = []
        for role, manifest in zip(ROLES, (desired.champion, desired.challenger), strict=True):
            effects += self._want(role, manifest, now)
        named = {manifest.sha256 for manifest in self._wanted.values()}
        for sha256 in [sha256 for sha256 in self._transfers if sha256 not in named]:
            del self._transfers[sha256]
            effects.append(Unsubscribe(artifact_chunks(self._topics.root, sha256)))
        return [*effects, self._keep(), self.report()]

    def _want(self, role: str, manifest: Manifest | None, now: datetime) -> list[Effect]:
        if manifest is None:
            self._wanted.pop(role, None)
            self._running.pop(role, None)
            return []
        self._wanted[role] = manifest
        running = self._running.get(role)
        if running is not None and running.manifest == manifest:
            return []
        try:
            self._judge(manifest)
            return self._take_local(role, manifest, now) or self._fetch(manifest)
        except ModelRefused as reason:
            del self._wanted[role]
            self._refuse(manifest, reason, now)
            return []

    def _judge(self, manifest: Manifest) -> None:
        """What can be said before a byte of the artifact is fetched; raises ModelRefused."""
        size = max(manifest.size, manifest.compressed_size)
        if size > self._max_bytes:
            raise ModelRefused(Cause.TOO_LARGE, f"size is {size} bytes, edge.max_model_bytes is {self._max_bytes}")
        if manifest.chunks != math.ceil(manifest.compressed_size / CHUNK_BYTES):
            raise ModelRefused(
                Cause.BAD_CHUNKS, f"{manifest.chunks} chunks do not make {manifest.compressed_size} bytes"
            )
        if manifest.sites and self._topics.site not in manifest.sites:
            raise ModelRefused(Cause.OTHER_SITE, f"meant for other sites than {self._topics.site}")

    def _take_local(self, role: str, manifest: Manifest, now: datetime) -> list[Effect]:
        """Install from disk where the artifact is already here."""
        artifact = self._read_artifact(manifest.sha256)
        if artifact is None:
            return []
        self._install(role, self._load(artifact, manifest), now)
        return [SaveArtifact(manifest.sha256, artifact)]

    def _fetch(self, manifest: Manifest) -> list[Effect]:
        self._transfers.setdefault(manifest.sha256, Transfer(manifest))
        return [Subscribe(artifact_chunks(self._topics.root, manifest.sha256))]

    def on_chunk(self, sha256: str, number: int, payload: bytes, now: datetime) -> list[Effect]:
        """Take one chunk; with the last one the artifact is checked and swapped in, or refused."""
        transfer = self._transfers.get(sha256)
        if transfer is None or number >= transfer.manifest.chunks or not 0 < len(payload) <= CHUNK_BYTES:
            return []
        transfer.chunks[number] = payload
        if len(transfer.chunks) < transfer.manifest.chunks:
            return []
        del self._transfers[sha256]
        done: list[Effect] = [Unsubscribe(artifact_chunks(self._topics.root, sha256))]
        try:
            artifact = unpack(transfer.manifest, [transfer.chunks[n] for n in range(transfer.manifest.chunks)])
            self._install_wherever_wanted(sha256, artifact, now)
        except ModelRefused as reason:
            self._refuse(transfer.manifest, reason, now)
            return [*done, self.report()]
        return [*done, SaveArtifact(sha256, artifact), self._keep(), self.report()]

    def _install_wherever_wanted(self, sha256: str, artifact: bytes, now: datetime) -> None:
        for role, manifest in list(self._wanted.items()):
            if manifest.sha256 == sha256:
                self._install(role, self._load(artifact, manifest), now)

    def _install(self, role: str, model: Predictor, now: datetime) -> None:
        self._running[role] = model
        self._since[role] = now.isoformat().replace("+00:00", "Z")
        self._refused.pop(model.manifest.sha256, None)
        self.swaps += role == "champion"

    def _refuse(self, manifest: Manifest, refused: ModelRefused, now: datetime) -> None:
        self.refusals += 1
        self._refused.pop(manifest.sha256, None)
        at = now.isoformat().replace("+00:00", "Z")
        self._refused[manifest.sha256] = Refusal(
            sha256=manifest.sha256, version=manifest.version, reason=refused.cause, detail=str(refused), at=at
        )
        for oldest in list(self._refused)[:-REFUSALS_KEPT]:
            del self._refused[oldest]

    def stalled(self) -> list[Effect]:
        """Ask again for the artifacts that have not all come."""
        return [Subscribe(artifact_chunks(self._topics.root, sha256)) for sha256 in self._transfers]

    def report(self) -> Publish:
        """What runs and what was refused, retained."""
        running = {
            role: Running(
                name=model.manifest.name,
                version=model.manifest.version,
                sha256=model.manifest.sha256,
                since=self._since[role],
            )
            for role, model in self._running.items()
        }
        reported = Reported(
            champion=running.get("champion"),
            challenger=running.get("challenger"),
            refused=list(self._refused.values()),
        )
        return Publish(self._topics.reported, reported.encode(), retain=True)

    def _keep(self) -> KeepArtifacts:
        named = [*self._wanted.values(), *(model.manifest for model in self._running.values())]
        return KeepArtifacts(frozenset(manifest.sha256 for manifest in named))
