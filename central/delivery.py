"""Carrying out the rollout: artifacts and signed manifests onto the wire, state to disk, aliases to the registry."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from central import orders
from central.artifacts import Artifacts
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
from central.stalls import Stall
from central.telemetry import CentralMetrics
from central.unsaid import Unsaid, due_between
from central.work import WorkFolder, read_object, replace_text
from shared.errors import MetercastError
from shared.manifest import Manifest, Role
from shared.messages import Desired
from shared.mqtt import Connection
from shared.mqtt import Delivery as Publication
from shared.topics import SiteTopics

log = logging.getLogger(__name__)

REFRESH_EVERY: Final = timedelta(days=7)
LOOK_EVERY: Final = timedelta(minutes=10)  # for what is to be refreshed
REGISTRY: Final = ""  # no site's name: when the registry is told again
SITES_AT_ONCE: Final = 32  # that are told something in one turn of the loop, a signature for each
UNDER_WAY_AT_MOST: Final = 256  # manifests that wait for the broker: they are 30 kB and more
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


class Unkept(MetercastError):
    """The rollout's state cannot be written: nothing was changed or said, and the event is to be told again."""


class _Unsigned(MetercastError):
    """The last key went between two looks."""


class Delivery:
    """The shell of the rollout's state machine.

    Invariants: state is on disk before anything is said, and while it cannot be written it does not move; without a
    private key nothing is published or cleared, and all of it is said once there is one; between two calls of `go_on`
    no more than SITES_AT_ONCE sites are told anything, and of what they are told no more than UNDER_WAY_AT_MOST wait
    for the broker.
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
        self._artifacts = Artifacts(work, connection, Stall("artifacts", metrics.stalled), root=root)
        self._signers: frozenset[str] | None = None
        self._missing = ""
        self._refreshed: datetime | None = None
        self._refreshed_on_connect = 0
        self._unsaid = Unsaid()
        self._allowed = SITES_AT_ONCE
        self._under_way: deque[Publication] = deque()
        self._keeping = Stall("rollout", metrics.stalled)
        self._ordering = Stall("orders", metrics.stalled)

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

    @property
    def is_kept(self) -> bool:
        """Whether the state can be written, as far as is known."""
        return not self._keeping.reason

    @property
    def waiting(self) -> int:
        """How many sites are still to be told something."""
        return len(self._unsaid)

    def tick(self, live: Comparison, *, wall: datetime, event_us: int | None) -> None:
        """Look for keys and orders, and let time pass; `live` is how what is `compared` does so far. Raises Unkept."""
        self._metrics.show_rollout(self.state, self._rollout.params, event_us)
        if not self.is_kept:
            self._keep()
        self._look_for_keys(wall=wall, event_us=event_us)
        self._take_orders(wall=wall, event_us=event_us)
        self._artifacts.publish_missed(self.state.wanted())
        self.handle(Tick(live), wall=wall, event_us=event_us)

    def handle(self, event: Event, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Apply one event, keep the state, and carry out what follows; returns what was to be carried out.

        Raises Unkept.
        """
        if self._signers is None:
            candidate = event.manifest if isinstance(event, CandidateAccepted) else None
            self._look_for_keys(wall=wall, event_us=event_us, candidate=candidate)
        before = self.state
        effects = self._rollout.handle(event, event_us)
        if self.state is not before:
            try:
                self._keep()
            except Unkept:
                self._rollout.state = before
                raise
        for effect in effects:
            self._carry_out(effect, wall, event_us, again=isinstance(event, Refresh))
        self._say(wall)
        self._metrics.sites.set(len(self.state.sites))
        self._metrics.model_version.set(self.state.champion.version if self.state.champion else 0)
        return effects

    def _keep(self) -> None:
        """Write the state. Raises Unkept, also when it is too early to try again."""
        if self._keeping.holds(time.monotonic()):
            raise Unkept(self._keeping.reason)
        try:
            replace_text(self._work.rollout, self.state.model_dump_json(by_alias=True))
        except OSError as error:
            reason = f"{self._work.rollout}: {error.strerror}"
            self._keeping.failed(reason, time.monotonic())
            raise Unkept(reason) from error
        self._keeping.passed()

    def refresh_when_due(self, *, wall: datetime, event_us: int | None) -> None:
        """Say everything again at the start and on each connect, and each thing long before it expires on the broker.

        A broker that was killed has forgotten what was retained since it last saved. A clock that was ahead and is
        right again begins anew: else nothing would be said until it has caught up.
        """
        connects, since = self._connection.connects, self._refreshed
        if since is None or wall < since:
            refresh = Refresh()
        else:
            connected = connects != self._refreshed_on_connect
            if not connected and wall - since < LOOK_EVERY:
                return
            due = due_between([REGISTRY, *self.state.sites, *self.state.wanted()], since, wall, REFRESH_EVERY)
            refresh = Refresh(registry=REGISTRY in due, only=None if connected else frozenset(due))
        self.handle(refresh, wall=wall, event_us=event_us)
        self._refreshed, self._refreshed_on_connect = wall, connects

    def accept(self, manifest: Manifest, *, wall: datetime, event_us: int | None) -> list[Effect]:
        """Take in an accepted candidate. Raises Unkept."""
        return self.handle(CandidateAccepted(manifest), wall=wall, event_us=event_us)

    def go_on(self, wall: datetime) -> None:
        """Tell SITES_AT_ONCE more sites what waits for them."""
        self._allowed = SITES_AT_ONCE
        self._say(wall)

    def _say(self, wall: datetime) -> None:
        """Publish what waits, as far as the broker keeps up."""
        if not self._signers:
            self._unsaid.forget()  # all of it is said once there is a key
            return
        while self._under_way and self._under_way[0].done:
            self._under_way.popleft()
        room = min(self._allowed, UNDER_WAY_AT_MOST - len(self._under_way))
        for site, desired in self._unsaid.next(room):
            publication = self._publish_desired(site, desired, wall)
            if publication is None or publication.refused:
                return
            self._unsaid.said(site)
            self._under_way.append(publication)
            self._allowed -= 1
        for sha256, chunks in self._unsaid.clearances().items():
            self._artifacts.clear(sha256, chunks)

    def _take_orders(self, *, wall: datetime, event_us: int | None) -> None:
        """Follow what `central models` left, each once: its file goes when that is on disk. Raises Unkept."""
        for path, order in orders.left(self._work):
            if not os.access(path.parent, os.W_OK):  # it would be followed for ever
                self._ordering.failed(f"{path}: cannot be removed, and so is not followed", time.monotonic())
                return
            try:
                self.handle(orders.ordered(self._work, order), wall=wall, event_us=event_us)
            except orders.NoTarget as error:
                self._carry_out(OrderRefused(order.verb, order.version, str(error)), wall, event_us)
            path.unlink(missing_ok=True)
        self._ordering.passed()

    def _look_for_keys(self, *, wall: datetime, event_us: int | None, candidate: Manifest | None = None) -> None:
        """Notice keys that come and go; whoever trusts the new ones is told everything again."""
        state = self.state
        signed = (*state.wanted().values(), *state.undecided, state.withdrawn, candidate)
        manifest = next((known for known in signed if known is not None), None)
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
        try:
            self.handle(KeysSeen(bool(self._signers)), wall=wall, event_us=event_us)
        except Unkept:
            self._signers = before
            raise
        if before is not None and self._signers:
            self.handle(Refresh(registry=False), wall=wall, event_us=event_us)

    def _signers_now(self, manifest: Manifest, wall: datetime) -> frozenset[str]:
        signed = self._keyring.signed(manifest, site=PROBE, wall=wall)
        return frozenset(known.key_id for known in signed.signatures) if signed is not None else frozenset()

    def _carry_out(self, effect: Effect, wall: datetime, event_us: int | None, *, again: bool = False) -> None:
        match effect:
            case PublishArtifact() | PublishDesired() | ClearArtifact():
                if self._signers:
                    self._publish(effect, again=again)
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

    def _publish(self, effect: PublishArtifact | PublishDesired | ClearArtifact, *, again: bool) -> None:
        """Chunks go out at once, before any `desired` that names them; what is said to sites waits for its turn."""
        match effect:
            case PublishArtifact(sha256):
                self._unsaid.keep(sha256)
                self._artifacts.publish(sha256)
            case PublishDesired(site, desired):
                self._unsaid.add(site, desired, again=again)
            case ClearArtifact(sha256, chunks):
                self._unsaid.clear(sha256, chunks)

    def _publish_desired(self, site: str, desired: Desired, wall: datetime) -> Publication | None:
        """Sign for a site and publish; None where nothing signs any more, which the next tick sees."""
        try:
            said = {role: self._signed(getattr(desired, role), role, site, wall) for role in ROLES}
        except _Unsigned:  # None in its place would take the model away
            return None
        return self._connection.publish(SiteTopics(self._root, site).desired, Desired(**said).encode(), retain=True)

    def _signed(self, manifest: Manifest | None, role: Role, site: str, wall: datetime) -> Manifest | None:
        if manifest is None:
            return None
        manifest = manifest.model_copy(update={"role": role})
        packed = self._artifacts.packed(manifest.sha256)
        if packed is not None:  # what is signed are the chunks that are published, whatever packed it when it was made
            manifest = manifest.model_copy(update=packed.claims)
        signed = self._keyring.signed(manifest, site=site, wall=wall)
        if signed is None:
            raise _Unsigned
        return signed
