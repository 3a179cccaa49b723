"""Which models run here: what central wants, what is on its way, is tried out, is swapped in, failed or was refused.

    desired ── admit ──► transfer ──► artifact ── Prove ──► ModelProven ──► swap ──► runs ──► fails ──► the one before

Invariants: a model serves only after it was admitted (edge/admission.py), came whole (edge/transfer.py) and was proven
aside; one that fails leaves the running one untouched; a swap is one assignment between two forecast rounds; the
champion before stays on disk; one proof is under way at a time, the newest wanted first, and an answer about a model
that is no longer wanted changes nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from edge.admission import CHAMPION, Accepted, Here, admit
from edge.effects import Effect, KeepArtifacts, KeepChunk, Prove, Publish, SaveArtifact, Subscribe, Unsubscribe
from edge.forecaster import NO_MODEL_YET, Lineup
from edge.inference import Predictor
from edge.kept import Entry, Kept
from edge.refused import Refused
from edge.starter import Starter
from edge.transfer import Offered, Transfer
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.messages import Desired, Refusal, Reported, Running
from shared.refusals import Cause
from shared.topics import SiteTopics, artifact_chunks

log = logging.getLogger(__name__)

CHALLENGER: Final = "challenger"
ROLES: Final = (CHAMPION, CHALLENGER)
LoadModel = Callable[[bytes, Manifest], Predictor]
# What manifests of one model may differ in: for whom, how long, why and in what pieces; never what it is and computes.
_PASSING: Final = {
    "created", "expires", "sites", "role", "reason", "predecessor", "step_back_from", "withdrawn", "min_edge_version",
    "compressed_size", "chunks", "chunk_sha256", "signatures",
}  # fmt: skip


class Shelf(Protocol):
    """What is on disk of artifacts."""

    def read(self, sha256: str) -> bytes | None:
        """The artifact, or None when it is not here or damaged."""

    def chunks(self, sha256: str) -> Mapping[int, bytes]:
        """The chunks that were kept of an artifact on its way."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A model that runs, and since when."""

    model: Predictor
    since: str

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.model.manifest

    @property
    def entry(self) -> Entry:
        """What is remembered of it."""
        return Entry(manifest=self.manifest, since=self.since)


class Models:
    """The champion, the challenger, and what is on its way to become one."""

    def __init__(
        self, topics: SiteTopics, here: Here, shelf: Shelf, load: LoadModel, *, starter: Starter | None = None
    ) -> None:
        self.starter = starter  # of this release, for meters that no champion serves
        self.refused = Refused()
        self.swaps = 0
        self.chunks: Counter[str] = Counter()  # that came, by what became of them
        self.unreported = False  # something changed that central was not told
        self.is_unwritten = False  # what is on disk is not what `take_fact` says
        self._topics = topics
        self._here = here
        self._shelf = shelf
        self._load = load
        self._running: dict[str, Serving] = {}
        self._ran: tuple[Serving, ...] = ()  # what ran when central last said what it wants
        self._previous: Entry | None = None
        self._accepted = Accepted()
        self._wanted: dict[str, Manifest] = {}  # by role, the newest last
        self._transfers: dict[str, Transfer] = {}  # by sha256
        self._stale: set[str] = set()  # sha256s that an earlier process was subscribed to
        self._is_untimely = False  # what is desired was refused for the time, which may be the clock's fault
        self._ready: dict[str, bytes] = {}  # by sha256: artifacts that came whole and wait for their proof
        self._proving: Prove | None = None
        self._attempts = 0
        self._is_on_trial = False  # the champion has begun its first round in this process
        self._has_run = False  # the champion has made a round in this process

    @property
    def champion(self) -> Predictor | None:
        """The model whose forecasts are published."""
        serving = self._running.get(CHAMPION)
        return serving.model if serving else None

    @property
    def challenger(self) -> Predictor | None:
        """The model that forecasts in the shadow."""
        serving = self._running.get(CHALLENGER)
        return serving.model if serving else None

    @property
    def lineup(self) -> Lineup:
        """Who forecasts: a challenger that is the champion itself would say the same again."""
        champion, challenger = self.champion, self.challenger
        same = (
            champion is not None and challenger is not None and champion.manifest.sha256 == challenger.manifest.sha256
        )
        return Lineup(champion, None if same else challenger, self.starter, self._absent)

    @property
    def _absent(self) -> str:
        failed = self.refused.failed
        if failed and failed[-1].version == self._accepted.highest:
            return f"model {failed[-1].version}: {failed[-1].detail}"
        return NO_MODEL_YET

    @property
    def transfers(self) -> int:
        """How many artifacts are on their way."""
        return len(self._transfers)

    # -- across restarts -------------------------------------------------------------------------------------------

    def resume(self, kept: Kept, now: datetime, *, failed: Refusal | None = None) -> None:
        """Load the models of an earlier process from disk; one that no longer passes is refused, not served.

        `failed`: the model that ended the processes before and was given up, to be told of.
        """
        self.refused.resume(kept.failed)
        self._accepted, self._previous = kept.order, kept.previous
        self._attempts = max(kept.attempts - 1, 0)  # less the one that this ends well
        self._stale = set(kept.transfers)
        self.is_unwritten = True
        if failed is not None:
            self.refused.counts[failed.reason] += 1
            log.error("model given up", extra={"version": failed.version, "reason": failed.detail})
        for role, entry in ((CHAMPION, kept.champion), (CHALLENGER, kept.challenger)):
            if entry is not None and not self._take_up(role, entry, now) and role == CHAMPION:
                self._take_up_previous(now)  # meanwhile: what was accepted last is so still

    def _take_up(self, role: str, entry: Entry, now: datetime) -> bool:
        """Load a model from disk and let it run; returns whether it does."""
        try:
            artifact = self._shelf.read(entry.manifest.sha256)
            if artifact is None:
                raise ModelRefused(Cause.BAD_DIGEST, "its file on disk is gone or damaged; it is fetched again")
            self._running[role] = Serving(self._load(artifact, entry.manifest), entry.since)
        except ModelRefused as reason:
            self.refused.note(entry.manifest, reason, _text(now))
            return False
        self._wanted.setdefault(role, entry.manifest)  # a newer one may be on its way
        return True

    def take_fact(self) -> str:
        """What `Kept.read` needs; it is about to be written."""
        self.is_unwritten = False
        champion, challenger = (self._running.get(role) for role in ROLES)
        return Kept(
            champion=champion.entry if champion else None,
            previous=self._previous,
            challenger=challenger.entry if challenger else None,
            attempts=self._attempts,
            highest=self._accepted.highest,
            accepted=(self._accepted.version, self._accepted.sha256),
            failed=self.refused.failed,
            transfers=sorted(self._transfers),
        ).text()

    # -- what is wanted --------------------------------------------------------------------------------------------

    def on_desired(self, desired: Desired, now: datetime, *, clock_suspect: bool = False) -> list[Effect]:
        """Begin what it takes to run the desired models; returns what to do."""
        effects: list[Effect] = []
        self._is_untimely = False
        self._ran = tuple(self._running.values())
        for role, manifest in zip(ROLES, (desired.champion, desired.challenger), strict=True):
            if manifest is not None:
                effects += self._want(role, manifest, now, clock_suspect=clock_suspect)
        if desired.challenger is None:
            self._wanted.pop(CHALLENGER, None)
            self._running.pop(CHALLENGER, None)
        effects += self._forget_unwanted()
        self.is_unwritten = True
        return [*effects, *self._prove_next(), self._keep(), self.report()]

    def _want(self, role: str, manifest: Manifest, now: datetime, *, clock_suspect: bool) -> list[Effect]:
        try:
            admit(manifest, self._here, role=role, accepted=self._order(manifest), now=now, clock_suspect=clock_suspect)
            self.refused.require_untried(manifest)
        except ModelRefused as reason:
            self.refused.note(manifest, reason, _text(now))
            self._is_untimely |= reason.cause in (Cause.EXPIRED, Cause.VALID_TOO_LONG)
            return []
        self._wanted.pop(role, None)
        if manifest.withdrawn:
            self._withdraw(role, manifest, now)
            return []
        self._wanted[role] = manifest
        for serving in (self._running.get(role), *self._ran):
            if serving is not None and _is_same_model(serving.manifest, manifest):
                self._adopt(role, serving, manifest, now)
                return []
        return self._fetch(manifest)

    def _order(self, manifest: Manifest) -> Accepted:
        """What a version is judged by: what was accepted, and what is about to be."""
        wanted, accepted = self._wanted.get(CHAMPION), self._accepted
        if wanted is None:
            return accepted
        after = accepted.after(wanted)
        if (manifest.version, manifest.sha256) == (wanted.version, wanted.sha256):
            return after
        return replace(accepted, highest=after.highest)

    def _adopt(self, role: str, serving: Serving, manifest: Manifest, now: datetime) -> None:
        """Let a model that runs already, proven as it is, run under this manifest, perhaps in another role."""
        known = replace(serving.model, manifest=manifest)
        if self._running.get(role) is not serving:
            self._install(role, known, now)
            return
        self._running[role] = replace(serving, model=known)
        self.refused.lift(manifest)
        if role == CHAMPION:
            self._accepted = replace(self._accepted, highest=self._accepted.after(manifest).highest)

    def _withdraw(self, role: str, manifest: Manifest, now: datetime) -> None:
        """Run it no more, and never again: whoever says so had to sign it."""
        serving = self._running.get(role)
        if serving is not None and serving.manifest.sha256 == manifest.sha256:
            del self._running[role]
        detail = f"version {manifest.version} was withdrawn by central"
        self.refused.fail(manifest, ModelRefused(Cause.WITHDRAWN, detail), _text(now))

    def _fetch(self, manifest: Manifest) -> list[Effect]:
        sha256 = manifest.sha256
        artifact = self._ready.get(sha256) or self._shelf.read(sha256)
        if artifact is not None:
            self._ready[sha256] = artifact
            return []
        known = self._transfers.get(sha256)
        if known is None or not known.is_of(manifest):
            self._transfers[sha256] = Transfer(manifest, asked=known.asked if known else set())
            self._transfers[sha256].resume(self._shelf.chunks(sha256))
        self._transfers[sha256].manifest = manifest  # the newest: what was claimed before is wanted no more
        return [Subscribe(one) for one in self._transfers[sha256].wanted_filters(self._topics.root)]

    def _forget_unwanted(self) -> list[Effect]:
        """Give up what was on its way for a model that is wanted no more, in this process or the one before."""
        named = {manifest.sha256 for manifest in self._wanted.values()}
        gone = [sha256 for sha256 in {*self._transfers, *self._stale} if sha256 not in named]
        self._stale.clear()
        for sha256 in [sha256 for sha256 in self._ready if sha256 not in named]:
            del self._ready[sha256]
        return [effect for sha256 in gone for effect in self._end_transfer(sha256)]

    def _end_transfer(self, sha256: str) -> list[Effect]:
        transfer = self._transfers.pop(sha256, None)
        topics = {artifact_chunks(self._topics.root, sha256)}
        topics |= set(transfer.asked if transfer else ())
        return [Unsubscribe(topic) for topic in sorted(topics)]

    # -- on its way ------------------------------------------------------------------------------------------------

    def on_chunk(self, sha256: str, number: int, payload: bytes, now: datetime) -> list[Effect]:
        """Take one chunk; with the last one the artifact is whole and tried out, or refused."""
        transfer = self._transfers.get(sha256)
        if transfer is None:
            self.chunks["unwanted"] += 1
            return []
        offered = transfer.offer(number, payload)
        self.chunks[offered.name.lower()] += 1
        if offered is Offered.BAD:
            return self._on_bad_chunk(transfer, number, now)
        if offered is Offered.IGNORED or transfer.missing:
            return [KeepChunk(sha256, number, payload)] if offered is Offered.TAKEN else []
        return [*self._end_transfer(sha256), *self._on_whole(transfer, now)]

    def _on_bad_chunk(self, transfer: Transfer, number: int, now: datetime) -> list[Effect]:
        """Tell it once: the right chunk may come yet."""
        detail = f"chunk {number} is not what the manifest says"
        told = self.refused.note(transfer.manifest, ModelRefused(Cause.BAD_CHUNK, detail), _text(now))
        return [self.report()] if told else []

    def _on_whole(self, transfer: Transfer, now: datetime) -> list[Effect]:
        try:
            self._ready[transfer.manifest.sha256] = transfer.artifact()
        except ModelRefused as reason:
            return self._give_up(transfer.manifest, reason, now)
        return self._prove_next()

    def stalled(self) -> list[Effect]:
        """Ask again for what is missing of artifacts of which nothing came of late, and for what the clock judged."""
        waiting = [transfer for transfer in self._transfers.values() if not transfer.moves]
        for transfer in self._transfers.values():
            transfer.moves = False
        chunks = [Subscribe(one) for transfer in waiting for one in transfer.wanted_filters(self._topics.root)]
        return [*chunks, Subscribe(self._topics.desired)] if self._is_untimely else [*chunks]

    # -- proof and swap --------------------------------------------------------------------------------------------

    def _prove_next(self) -> list[Effect]:
        """Begin with the newest wanted model that is whole, unless a proof is under way."""
        if self._proving is not None:
            return []
        for manifest in self._unproven():
            if manifest.sha256 in self._ready:
                self._proving = Prove(manifest, self._ready[manifest.sha256])
                return [self._proving]
        return []

    def _unproven(self) -> list[Manifest]:
        """Wanted models that do not run yet, the newest wanted first."""
        running = {role: serving.manifest for role, serving in self._running.items()}
        wanted = reversed(self._wanted.items())
        return [one for role, one in wanted if role not in running or not _is_same_model(running[role], one)]

    def _end_wait(self, sha256: str) -> list[Effect]:
        """Hold an artifact no longer, and fetch it no more, unless it waits for the proof of another claim."""
        if any(manifest.sha256 == sha256 for manifest in self._unproven()):
            return []
        self._ready.pop(sha256, None)
        return self._end_transfer(sha256) if sha256 in self._transfers else []

    def on_proven(self, manifest: Manifest, model: Predictor, now: datetime) -> list[Effect]:
        """Swap a proven model in wherever it is still wanted."""
        question, self._proving = self._proving, None
        roles = [role for role, wanted in self._wanted.items() if _is_same_model(wanted, manifest)]
        for role in roles:
            self._install(role, replace(model, manifest=self._wanted[role]), now)
        saved = [SaveArtifact(manifest.sha256, question.artifact)] if question is not None and roles else []
        return [*saved, *self._end_wait(manifest.sha256), *self._prove_next(), self._keep(), self.report()]

    def on_failed(self, manifest: Manifest, refused: ModelRefused, now: datetime) -> list[Effect]:
        """Report a model that did not pass; what runs goes on."""
        self._proving = None
        return [*self._give_up(manifest, refused, now), *self._prove_next()]

    def _give_up(self, manifest: Manifest, refused: ModelRefused, now: datetime) -> list[Effect]:
        for role in [role for role, wanted in self._wanted.items() if _is_same_model(wanted, manifest)]:
            del self._wanted[role]
        self.refused.note(manifest, refused, _text(now), in_vain=True)
        self.is_unwritten = True
        return [*self._end_wait(manifest.sha256), self._keep(), self.report()]

    def _install(self, role: str, model: Predictor, now: datetime) -> None:
        before = self._running.get(role)
        self._running[role] = Serving(model, _text(now))
        log.info("model runs", extra={"role": role, "version": model.manifest.version, "sha256": model.manifest.sha256})
        self.refused.lift(model.manifest)
        self.is_unwritten = True
        if role != CHAMPION:
            return
        if model.manifest.step_back_from is not None:
            self._previous = None  # what is stepped back from is nothing to fall back on
        elif before is not None:
            self._previous = before.entry
        self.swaps += 1
        self._accept(model.manifest)

    def _accept(self, manifest: Manifest) -> None:
        self._accepted = self._accepted.after(manifest)
        self._attempts, self._is_on_trial, self._has_run = 0, False, False

    # -- failing at run time ---------------------------------------------------------------------------------------

    def begin_trial(self) -> bool:
        """Whether the fact must be written before the champion's first round in this process: it may end that."""
        if self.champion is None or self._is_on_trial:
            return False
        self._is_on_trial = True
        self._attempts += 1
        self.is_unwritten = True
        return True

    def end_trial(self) -> None:
        """A round was made, and this process is still there."""
        if not self._has_run and self._is_on_trial:
            self._has_run, self._attempts, self.is_unwritten = True, 0, True

    def fail(self, role: str, refused: ModelRefused, now: datetime) -> str:
        """A model failed running: the one before takes its place at once. Returns what to tell."""
        gone = self._running[role]
        self._let_go(gone.manifest.sha256)
        self.refused.fail(gone.manifest, refused, _text(now))
        self.is_unwritten = self.unreported = True
        log.error("model failed running", extra={"role": role, "version": gone.manifest.version, "reason": refused})
        if role == CHAMPION and self._take_up_previous(now):
            self._accept(self._running[CHAMPION].manifest)
        champion = self.champion
        instead = f"version {champion.manifest.version} serves" if champion else "none serves"
        return f"version {gone.manifest.version} failed running, {instead}: {refused}"

    def _let_go(self, sha256: str) -> None:
        """An artifact that failed in one role neither runs nor comes to run in the other."""
        for role in ROLES:
            if role in self._running and self._running[role].manifest.sha256 == sha256:
                del self._running[role]
            if role in self._wanted and self._wanted[role].sha256 == sha256:
                del self._wanted[role]
        self._ready.pop(sha256, None)
        if self._previous is not None and self._previous.manifest.sha256 == sha256:
            self._previous = None

    def _take_up_previous(self, now: datetime) -> bool:
        """Let the champion before serve, if there is one; returns whether it does."""
        before, self._previous = self._previous, None
        self.is_unwritten = self.unreported = True
        return before is not None and self._take_up(CHAMPION, before, now)

    # -- what is told ----------------------------------------------------------------------------------------------

    def tell_changes(self) -> list[Effect]:
        """What to tell and to clear up after models failed."""
        if not self.unreported:
            return []
        return [*self._forget_unwanted(), self._keep(), self.report()]

    def report(self) -> Publish:
        """What runs and what was refused, retained."""
        self.unreported = False
        running = {
            role: Running(
                name=serving.manifest.name,
                version=serving.manifest.version,
                sha256=serving.manifest.sha256,
                since=serving.since,
            )
            for role, serving in self._running.items()
        }
        reported = Reported(
            champion=running.get(CHAMPION), challenger=running.get(CHALLENGER), refused=self.refused.told
        )
        return Publish(self._topics.reported, reported.encode(), retain=True)

    def _keep(self) -> KeepArtifacts:
        named = [*self._wanted.values(), *(serving.manifest for serving in self._running.values())]
        named += [self._previous.manifest] if self._previous else []
        return KeepArtifacts(frozenset(manifest.sha256 for manifest in named))


def _is_same_model(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests are of one model: the same bytes, said to be and to compute the same."""
    return one.model_dump(exclude=_PASSING) == other.model_dump(exclude=_PASSING)


def _text(now: datetime) -> str:
    return now.isoformat().replace("+00:00", "Z")
