"""Which models run here: what central wants, what is swapped in, failed running, or was refused.

    desired ── admit ──► awaited (edge/underway.py) ──► ModelProven ──► swap ──► runs ──► fails ──► the one before

Invariants: a model serves only after it was admitted (edge/admission.py), came whole and was proven aside; one that
fails leaves the running one untouched; a swap is one assignment between two forecast rounds; the champion before stays
on disk; what a restart needs is `written` before old files go and before it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from edge.admission import CHAMPION, Accepted, Here, admit
from edge.effects import Effect, Found, KeepArtifacts, Publish, Subscribe
from edge.forecaster import NO_MODEL_YET, Lineup
from edge.inference import Predictor
from edge.kept import Entry, Kept
from edge.refused import Refused
from edge.starter import Starter
from edge.underway import Shelf, Underway
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.messages import Desired, Refusal, Reported, Running
from shared.refusals import Cause
from shared.topics import SiteTopics

log = logging.getLogger(__name__)

CHALLENGER: Final = "challenger"
ROLES: Final = (CHAMPION, CHALLENGER)
LoadModel = Callable[[bytes, Manifest], Predictor]


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

    @property
    def told(self) -> Running:
        """What is reported of it."""
        manifest = self.manifest
        return Running(name=manifest.name, version=manifest.version, sha256=manifest.sha256, since=self.since)


class Models:
    """The champion, the challenger, and what is on its way to become one."""

    def __init__(
        self, topics: SiteTopics, here: Here, shelf: Shelf, load: LoadModel, *, starter: Starter | None = None
    ) -> None:
        self.starter = starter  # of this release, for meters that no champion serves
        self.refused = Refused()
        self.underway = Underway(topics, shelf, self.refused)
        self.swaps = 0
        self.lost = 0  # times that the file of a model that should serve was found damaged or gone
        self.written: Kept | None = Kept()  # what is on disk, or about to be
        self._topics = topics
        self._here = here
        self._shelf = shelf
        self._load = load
        self._running: dict[str, Serving] = {}
        self._previous: Entry | None = None
        self._accepted = Accepted()
        self._is_untold = False  # what runs changed, or somebody waits for an answer
        self._is_untimely = False  # what is desired was refused for the time, which may be the clock's fault
        self._tidied: frozenset[str] | None = None  # whose files were kept when the others last went
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
        awaited = self.underway.awaited.get(CHAMPION)
        if awaited is not None and awaited.sha256 == self._accepted.sha256:
            return f"model {awaited.version}: its file on disk was damaged or gone; it is fetched again"
        return NO_MODEL_YET

    # -- across restarts -------------------------------------------------------------------------------------------

    def resume(self, kept: Kept, now: datetime, *, failed: Refusal | None = None) -> None:
        """Load the models of an earlier process from disk; one that no longer passes is refused, not served.

        `failed`: the model that ended the processes before and was given up, to be told of.
        """
        self.written = kept
        self.refused.resume(kept.failed)
        self._accepted, self._previous = kept.order, kept.previous
        self._attempts = max(kept.attempts - 1, 0)  # less the one that this ends well
        self.underway.resume(kept.transfers)
        if failed is not None:
            self.refused.counts[failed.reason] += 1
            log.error("model given up", extra={"version": failed.version, "reason": failed.detail})
        for role, entry in ((CHAMPION, kept.champion), (CHALLENGER, kept.challenger)):
            if entry is not None and not self._take_up(role, entry, now, fetch=True) and role == CHAMPION:
                self._take_up_previous(now)  # meanwhile: what was accepted last is so still

    def _take_up(self, role: str, entry: Entry, now: datetime, *, fetch: bool = False) -> bool:
        """Load a model from disk and let it run; returns whether it does. What is lost is to `fetch` again."""
        manifest = entry.manifest
        artifact = self._shelf.read(manifest.sha256)
        if artifact is None:  # the disk's fault: nothing is said against the version, or central would count it
            self.lost += 1
            log.error("model's file damaged or gone", extra={"role": role, "version": manifest.version})
            if fetch:
                self.underway.begin_again(role, manifest)
            return False
        try:
            self._running[role] = Serving(self._load(artifact, manifest), entry.since)
        except ModelRefused as reason:
            self.refused.note(manifest, reason, _text(now))
            return False
        return True

    @property
    def is_unwritten(self) -> bool:
        """Whether what is on disk is not what `take_fact` would say."""
        return self._kept() != self.written

    def take_fact(self) -> str:
        """What `Kept.read` needs; it is about to be written."""
        self.written = self._kept()
        return self.written.text()

    def _kept(self) -> Kept:
        champion, challenger = (self._running.get(role) for role in ROLES)
        return Kept(
            champion=champion.entry if champion else None,
            previous=self._previous,
            challenger=challenger.entry if challenger else None,
            attempts=self._attempts,
            highest=self._accepted.highest,
            accepted=(self._accepted.version, self._accepted.sha256),
            failed=self.refused.failed,
            transfers=self.underway.transfers,
        )

    # -- what is wanted --------------------------------------------------------------------------------------------

    def on_desired(self, desired: Desired, now: datetime, *, clock_suspect: bool = False) -> list[Effect]:
        """Begin what it takes to run the desired models; returns what to do. It is answered, whatever it says."""
        self._is_untold, self._is_untimely = True, False
        effects: list[Effect] = []
        ran = tuple(self._running.values())
        for role, manifest in zip(ROLES, (desired.champion, desired.challenger), strict=True):
            if manifest is not None and self._may_run(role, manifest, now, clock_suspect=clock_suspect):
                effects += self._want(role, manifest, ran, now)
        if desired.challenger is None:
            self.underway.drop(CHALLENGER)
            self._running.pop(CHALLENGER, None)
        effects += [*self.underway.forget_earlier(), *self.underway.forget_unawaited()]
        return [*effects, *self.underway.prove_next()]

    def _may_run(self, role: str, manifest: Manifest, now: datetime, *, clock_suspect: bool) -> bool:
        """Whether the manifest is admitted; what it claims was not tried in vain before."""
        try:
            admit(manifest, self._here, role=role, accepted=self._order(manifest), now=now, clock_suspect=clock_suspect)
            self.refused.require_untried(manifest)
        except ModelRefused as reason:
            self.refused.note(manifest, reason, _text(now))
            self._is_untimely |= reason.cause in (Cause.EXPIRED, Cause.VALID_TOO_LONG)
            return False
        return True

    def _order(self, manifest: Manifest) -> Accepted:
        """What a version is judged by: what was accepted, and what is about to be."""
        awaited, accepted = self.underway.awaited.get(CHAMPION), self._accepted
        if awaited is None:
            return accepted
        after = accepted.after(awaited)
        if (manifest.version, manifest.sha256) == (awaited.version, awaited.sha256):
            return after
        return replace(accepted, highest=after.highest)

    def _want(self, role: str, manifest: Manifest, ran: tuple[Serving, ...], now: datetime) -> list[Effect]:
        """Let an admitted model run, at once where it does already: `ran` is what did when this was desired."""
        self.underway.drop(role)
        if manifest.withdrawn:
            self._withdraw(manifest, now)
            return []
        for serving in (self._running.get(role), *ran):
            if serving is not None and serving.manifest.is_same_model(manifest):
                self._adopt(role, serving, manifest, now)
                return []
        return self.underway.begin(role, manifest)

    def _adopt(self, role: str, serving: Serving, manifest: Manifest, now: datetime) -> None:
        """Let a model that runs already, proven as it is, run under this manifest, perhaps in another role."""
        known = replace(serving.model, manifest=manifest)
        if self._running.get(role) is not serving:
            self._install(role, known, now)
            return
        self._running[role] = replace(serving, model=known)
        self.refused.lift(manifest)
        if role == CHAMPION:  # which may have stood in for one whose file was lost, and is now what is wanted
            self._accepted = self._accepted.after(manifest)

    def _withdraw(self, manifest: Manifest, now: datetime) -> None:
        """Run it no more in any role, and never again: whoever says so had to sign it."""
        self._let_go(manifest.sha256)
        detail = f"version {manifest.version} was withdrawn by central"
        self.refused.fail(manifest, ModelRefused(Cause.WITHDRAWN, detail), _text(now))

    # -- on its way ------------------------------------------------------------------------------------------------

    def on_chunk(self, sha256: str, number: int, payload: bytes, now: datetime) -> list[Effect]:
        """Take one chunk of an artifact."""
        return self.underway.on_chunk(sha256, number, payload, _text(now))

    def on_unpacked(self, manifest: Manifest, found: Found, now: datetime) -> list[Effect]:
        """Take up what an artifact's chunks, or its file, turned out to be."""
        return self.underway.on_unpacked(manifest, found, _text(now))

    def stalled(self) -> list[Effect]:
        """Ask again for what has not come of late, and for what the clock judged."""
        chunks = self.underway.stalled()
        return [*chunks, Subscribe(self._topics.desired)] if self._is_untimely else chunks

    def on_proven(self, manifest: Manifest, model: Predictor, now: datetime) -> list[Effect]:
        """Swap a proven model in wherever it is still awaited."""
        arrived, effects = self.underway.on_proven(manifest)
        for role, awaited in arrived.items():
            self._install(role, replace(model, manifest=awaited), now)
        self._is_untold, self._tidied = True, None  # its file was saved aside, whether it was still wanted or not
        return effects

    def on_failed(self, manifest: Manifest, refused: ModelRefused, now: datetime) -> list[Effect]:
        """Report a model that did not pass; what runs goes on."""
        return self.underway.on_failed(manifest, refused, _text(now))

    def _install(self, role: str, model: Predictor, now: datetime) -> None:
        before = self._running.get(role)
        self._running[role] = Serving(model, _text(now))
        self._is_untold = True
        log.info("model runs", extra={"role": role, "version": model.manifest.version, "sha256": model.manifest.sha256})
        self.refused.lift(model.manifest)
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
        return True

    def end_trial(self) -> None:
        """A round was made, and this process is still there."""
        if not self._has_run and self._is_on_trial:
            self._has_run, self._attempts = True, 0

    def fail(self, role: str, refused: ModelRefused, now: datetime) -> str:
        """A model failed running: the one before takes its place at once. Returns what to tell."""
        gone = self._running[role]
        self._let_go(gone.manifest.sha256)
        self.refused.fail(gone.manifest, refused, _text(now))
        log.error("model failed running", extra={"role": role, "version": gone.manifest.version, "reason": refused})
        if role == CHAMPION and self._take_up_previous(now):
            self._accept(self._running[CHAMPION].manifest)
        champion = self.champion
        instead = f"version {champion.manifest.version} serves" if champion else "none serves"
        return f"version {gone.manifest.version} failed running, {instead}: {refused}"

    def _let_go(self, sha256: str) -> None:
        """An artifact that failed or was withdrawn in one role neither runs nor comes to run in the other."""
        for role in ROLES:
            if role in self._running and self._running[role].manifest.sha256 == sha256:
                del self._running[role]
        self.underway.drop_artifact(sha256)
        self._is_untold = True
        if self._previous is not None and self._previous.manifest.sha256 == sha256:
            self._previous = None

    def _take_up_previous(self, now: datetime) -> bool:
        """Let the champion before serve, if there is one; returns whether it does."""
        before, self._previous = self._previous, None
        self._is_untold = True
        return before is not None and self._take_up(CHAMPION, before, now)

    # -- what is told ----------------------------------------------------------------------------------------------

    def tell_changes(self) -> list[Effect]:
        """What to tell and to clear up, once for all that was desired, came, was refused or failed since the last time.

        Files go only once what takes their place is written.
        """
        if not (self._is_untold or self.refused.is_untold):
            return []
        ended = self.underway.forget_unawaited()
        return [*ended, *([] if self.is_unwritten else self._tidy()), self.report()]

    def report(self) -> Publish:
        """What runs and what was refused, retained."""
        self._is_untold = self.refused.is_untold = False
        champion, challenger = (self._running.get(role) for role in ROLES)
        reported = Reported(
            champion=champion.told if champion else None,
            challenger=challenger.told if challenger else None,
            refused=self.refused.told,
        )
        return Publish(self._topics.reported, reported.encode(), retain=True)

    def _tidy(self) -> list[KeepArtifacts]:
        """Delete the files of models that are neither wanted nor run nor are fallen back on, if there may be any."""
        fallen_back_on = [self._previous.manifest] if self._previous else []
        serving = [*(serving.manifest for serving in self._running.values()), *fallen_back_on]
        kept = frozenset(self.underway.sha256s | {manifest.sha256 for manifest in serving})
        if kept == self._tidied:
            return []
        self._tidied = kept
        return [KeepArtifacts(kept)]


def _text(now: datetime) -> str:
    return now.isoformat().replace("+00:00", "Z")
