"""Carrying out the rollout: artifacts and signed manifests onto the wire, state to disk, aliases to the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from central import orders
from central.jobs import Jobs
from central.journal import Journal
from central.keyring import Keyring
from central.rollout import Rollout
from central.rollout_events import (
    CandidateAccepted,
    ClearArtifact,
    Effect,
    Event,
    HeldUp,
    KeysSeen,
    OrderFollowed,
    OrderRefused,
    Passed,
    Promoted,
    PublishArtifact,
    PublishDesired,
    Refresh,
    Refused,
    SetAliases,
    StageBegun,
    SteppedBack,
    Superseded,
    Swapped,
    Tick,
)
from central.rollout_state import Comparison, RolloutState
from central.telemetry import CentralMetrics
from central.work import WorkFolder, read_object, replace_text
from shared.errors import MetercastError
from shared.manifest import Manifest, Packed, Role, pack
from shared.messages import Desired
from shared.mqtt import Connection
from shared.topics import SiteTopics, artifact_chunk

log = logging.getLogger(__name__)

CHUNK_EXPIRY: Final = timedelta(days=30)
PACKS_KEPT: Final = 3  # champion, challenger, and what is on its way
REFRESH_EVERY: Final = timedelta(days=7)
SITES_NAMED: Final = 20  # in a line of the journal
NO_KEY: Final = "no private key: `central keys new`"
ROLES: Final[tuple[Role, ...]] = ("champion", "challenger")
PROBE: Final = "central"  # no edge's site: what is signed for it only shows with which keys

# What the journal calls them; their fields are the entry's.
_JOURNALLED: Final = {
    Promoted: "pushed",
    Passed: "passed",
    HeldUp: "held up",
    SteppedBack: "stepped back",
    Superseded: "superseded",
    OrderFollowed: "order followed",
    OrderRefused: "order refused",
    Swapped: "swapped",
}


def load_rollout(work: WorkFolder) -> RolloutState:
    """What was rolled out when central last ran; raises MetercastError when that cannot be read."""
    content = read_object(work.rollout)
    try:
        return RolloutState() if content is None else RolloutState.model_validate(content)
    except ValidationError as error:
        raise MetercastError(f"{work.rollout}: {error.errors()[0]['msg']}") from error


class _Unsigned(MetercastError):
    """The last key went between two looks."""


class Delivery:
    """The shell of the rollout's state machine.

    Invariants: state is on disk before anything is said; without a private key nothing is published or cleared, and
    all of it is said once there is one.
    """

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
        keyring: Keyring,
    ) -> None:
        self._rollout = rollout
        self._connection = connection
        self._work = work
        self._jobs = jobs
        self._journal = journal
        self._metrics = metrics
        self._root = root
        self._keyring = keyring
        self._packs: dict[str, Packed] = {}  # by sha256, the latest used last
        self._signers: frozenset[str] | None = None
        self._missing = ""
        self._refreshed: datetime | None = None
        self._refreshed_on_connect = 0

    @property
    def state(self) -> RolloutState:
        """What is rolled out, and to whom."""
        return self._rollout.state

    @property
    def serving(self) -> Manifest | None:
        """The newest model that every site is told to serve."""
        return self.state.everywhere

    @property
    def compared(self) -> tuple[Manifest | None, Manifest | None]:
        """The version on its way, and the predecessor its live scores are held against."""
        rolling = self.state.rolling
        return (rolling.manifest, self.state.predecessor) if rolling is not None else (None, None)

    @property
    def sites(self) -> Collection[str]:
        """Every site that was ever seen."""
        return self.state.sites

    def tick(self, live: Comparison, *, wall: datetime, event_us: int | None) -> None:
        """Look for keys and orders, and let time pass; `live` is how what is `compared` does so far."""
        self._look_for_keys(wall=wall, event_us=event_us)
        self._take_orders(wall=wall, event_us=event_us)
        self.handle(Tick(live), wall=wall, event_us=event_us)
        self._metrics.show_rollout(self.state, self._rollout.params, event_us)

    def handle(self, event: Event, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Apply one event, keep the state, and carry out what follows; returns what was to be carried out.

        Raises MetercastError when the state cannot be kept: nothing was said then, and a restart goes on from the old.
        """
        if self._signers is None:
            candidate = event.manifest if isinstance(event, CandidateAccepted) else None
            self._look_for_keys(wall=wall, event_us=event_us, candidate=candidate)
        before = self.state
        effects = self._rollout.handle(event, event_us)
        if self.state is not before:
            self._keep()
        for effect in effects:
            self._carry_out(effect, wall, event_us)
        self._metrics.sites.set(len(self.state.sites))
        self._metrics.model_version.set(self.state.champion.version if self.state.champion else 0)
        return effects

    def _keep(self) -> None:
        try:
            replace_text(self._work.rollout, self.state.model_dump_json(by_alias=True))
        except OSError as error:
            raise MetercastError(f"{self._work.rollout}: {error.strerror}; the rollout cannot go on") from error

    def refresh_when_due(self, *, wall: datetime, event_us: int | None) -> None:
        """Say everything again on each connect, and long before the chunks on the broker expire.

        A broker that was killed has forgotten what was retained since it last saved.
        """
        connects = self._connection.connects
        since = None if self._refreshed is None else wall - self._refreshed
        # Below zero where the clock was ahead and is right again: nothing would be said anew until it has caught up.
        old = since is None or not timedelta(0) <= since < REFRESH_EVERY
        if not old and connects == self._refreshed_on_connect:
            return
        if old:
            self._refreshed = wall
        self._refreshed_on_connect = connects
        self.handle(Refresh(registry=old), wall=wall, event_us=event_us)

    def accept(self, manifest: Manifest, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Take in an accepted candidate."""
        return self.handle(CandidateAccepted(manifest), wall=wall, event_us=event_us)

    def _take_orders(self, *, wall: datetime, event_us: int | None) -> None:
        """Follow what `central models` left, each once: its file goes when that is on disk."""
        for path, order in orders.left(self._work):
            try:
                self.handle(orders.ordered(self._work, order), wall=wall, event_us=event_us)
            except orders.NoTarget as error:
                self._carry_out(OrderRefused(order.verb, order.version, str(error)), wall, event_us)
            path.unlink(missing_ok=True)

    def _look_for_keys(self, *, wall: datetime, event_us: int | None, candidate: Manifest | None = None) -> None:
        """Notice keys that come and go; whoever trusts the new ones is told everything again."""
        manifest = next(iter([*self.state.wanted().values(), *self.state.undecided]), candidate)
        if manifest is None:
            return  # nothing to sign yet
        before, self._signers = self._signers, self._signers_now(manifest, wall)
        self._metrics.keys.set(len(self._signers))
        missing = "" if self._signers else self._keyring.missing() or NO_KEY
        if missing and missing != self._missing:
            log.error("no model is sent: %s", missing)
            self._journal.write("no private key", wall=wall, event_us=event_us, reason=missing)
        self._missing = missing
        if self._signers == before:
            return
        self.handle(KeysSeen(bool(self._signers)), wall=wall, event_us=event_us)
        if before is not None and self._signers:
            self.handle(Refresh(registry=False), wall=wall, event_us=event_us)

    def _signers_now(self, manifest: Manifest, wall: datetime) -> frozenset[str]:
        signed = self._keyring.signed(manifest, site=PROBE, wall=wall)
        return frozenset(known.key_id for known in signed.signatures) if signed is not None else frozenset()

    def _carry_out(self, effect: Effect, wall: datetime, event_us: int | None) -> None:
        match effect:
            case PublishArtifact() | PublishDesired() | ClearArtifact():
                if self._signers:
                    self._publish(effect, wall)
            case SetAliases(champion, challenger, candidate):
                self._jobs.errand("models", "aliases", *(str(v or 0) for v in (champion, challenger, candidate)))
            case StageBegun(version, stage, sites):
                named = {"version": version, "stage": stage, "sites": len(sites), "first": list(sites[:SITES_NAMED])}
                self._journal.write("stage begun", wall=wall, event_us=event_us, **named)
            case Refused(site, refusal):
                self._metrics.count_refusal(refusal.reason)
                self._journal.write(
                    "refused", wall=wall, event_us=event_us, site=site, **refusal.model_dump(exclude={"at"})
                )
            case _:
                if isinstance(effect, SteppedBack):
                    self._metrics.step_backs.inc()
                self._journal.write(_JOURNALLED[type(effect)], wall=wall, event_us=event_us, **asdict(effect))

    def _publish(self, effect: PublishArtifact | PublishDesired | ClearArtifact, wall: datetime) -> None:
        match effect:
            case PublishArtifact(sha256):
                self._publish_artifact(sha256)
            case PublishDesired(site, desired):
                try:
                    said = {role: self._signed(getattr(desired, role), role, site, wall) for role in ROLES}
                except _Unsigned:  # None in its place would take the model away; the next tick sees that no key is left
                    return
                self._connection.publish(SiteTopics(self._root, site).desired, Desired(**said).encode(), retain=True)
            case ClearArtifact(sha256, chunks):
                self._publish_chunks(sha256, [b""] * chunks)

    def _signed(self, manifest: Manifest | None, role: Role, site: str, wall: datetime) -> Manifest | None:
        if manifest is None:
            return None
        manifest = manifest.model_copy(update={"role": role})
        packed = self._packed(manifest.sha256)
        if packed is not None:  # what is signed are the chunks that are published, whatever packed it when it was made
            manifest = manifest.model_copy(update=packed.claims)
        signed = self._keyring.signed(manifest, site=site, wall=wall)
        if signed is None:
            raise _Unsigned
        return signed

    def _publish_artifact(self, sha256: str) -> None:
        packed = self._packed(sha256)
        if packed is not None:
            self._publish_chunks(sha256, packed.chunks)

    def _packed(self, sha256: str) -> Packed | None:
        """An artifact as it is published; None, with a line in the log, when it is not there."""
        packed = self._packs.pop(sha256, None)
        if packed is None:
            try:
                packed = pack(self._work.artifact(sha256).read_bytes())
            except OSError as error:
                log.error("artifact missing", extra={"sha256": sha256, "reason": error.strerror})
                return None
        self._packs[sha256] = packed
        for oldest in list(self._packs)[:-PACKS_KEPT]:
            del self._packs[oldest]
        return packed

    def _publish_chunks(self, sha256: str, chunks: Iterable[bytes]) -> None:
        for number, chunk in enumerate(chunks):
            topic = artifact_chunk(self._root, sha256, number)
            expiry_s = int(CHUNK_EXPIRY.total_seconds()) if chunk else None
            self._connection.publish(topic, chunk, retain=True, expiry_s=expiry_s)
