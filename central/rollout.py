"""Which model each site should run: a pure state machine over accepted candidates, approvals, sites and their reports.

Invariants: the desired champion's version only rises; its predecessor goes on as challenger, in shadow; an artifact is
on the wire before any `desired` names it, and is cleared once none does; a site gets the current `desired` when it is
first seen. Manifests go out with the `signatures` they came with; canary stages come between approval and fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from pydantic import BaseModel, ConfigDict, Field

from shared.manifest import Manifest
from shared.messages import Desired, Refusal, Reported


@dataclass(frozen=True, slots=True)
class CandidateAccepted:
    """A training met the production criteria."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Approved:
    """A person let a waiting version go."""

    version: int


@dataclass(frozen=True, slots=True)
class SiteSeen:
    """Something came from a site."""

    site: str


@dataclass(frozen=True, slots=True)
class ReportArrived:
    """A site told what it runs and what it refused."""

    site: str
    reported: Reported


@dataclass(frozen=True, slots=True)
class Refresh:
    """Say everything again: at the start, at each connect, and before the chunks on the broker expire.

    `registry` says it to the registry as well, which forgets nothing, but may never have been told.
    """

    registry: bool = True


Event: TypeAlias = CandidateAccepted | Approved | SiteSeen | ReportArrived | Refresh


@dataclass(frozen=True, slots=True)
class PublishArtifact:
    """Retain the chunks of an artifact."""

    sha256: str


@dataclass(frozen=True, slots=True)
class PublishDesired:
    """Retain what a site should run."""

    site: str
    desired: Desired


@dataclass(frozen=True, slots=True)
class ClearArtifact:
    """Take an artifact's chunks off the broker."""

    sha256: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """The desired champion changed."""

    version: int
    predecessor: int | None


@dataclass(frozen=True, slots=True)
class SetAliases:
    """The registry's aliases should tell who is champion and who challenger."""

    version: int
    predecessor: int | None


@dataclass(frozen=True, slots=True)
class Swapped:
    """A site runs another champion than before."""

    site: str
    version: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A site told for the first time that it does not take a model."""

    site: str
    refusal: Refusal


Effect: TypeAlias = PublishArtifact | PublishDesired | ClearArtifact | Promoted | SetAliases | Swapped | Refused


class RolloutState(BaseModel):
    """What survives a restart."""

    model_config = ConfigDict(extra="forbid")

    schema_: Literal[1] = Field(1, alias="schema")
    champion: Manifest | None = None
    challenger: Manifest | None = None
    dropped: Manifest | None = None
    waiting: list[Manifest] = []
    sites: dict[str, Reported | None] = {}


class Rollout:
    """The door: events in, effects out; `state` is to be kept before the effects are carried out."""

    def __init__(self, state: RolloutState, *, approval: Literal["auto", "manual"]) -> None:
        self.state = state
        self._approval = approval

    def handle(self, event: Event) -> list[Effect]:
        """Apply one event and return what the world should do about it."""
        match event:
            case CandidateAccepted(manifest):
                return self._on_candidate(manifest)
            case Approved(version):
                return self._on_approved(version)
            case SiteSeen(site):
                return self._on_site(site)
            case ReportArrived(site, reported):
                return [*self._on_site(site), *self._on_report(site, reported)]
            case Refresh(registry):
                told = [*self._artifacts(), *self._desired_for(list(self.state.sites)), *self._cleared()]
                return [*told, *self._aliases()] if registry else told
            case _:
                assert_never(event)

    def _on_candidate(self, manifest: Manifest) -> list[Effect]:
        waiting = [known.version for known in self.state.waiting]
        if manifest.version <= self._version or manifest.version in waiting:
            return []
        self.state.waiting.append(manifest)
        return self._on_approved(manifest.version) if self._approval == "auto" else []

    def _on_approved(self, version: int) -> list[Effect]:
        manifest = next((known for known in self.state.waiting if known.version == version), None)
        if manifest is None:
            return []
        self.state.dropped = self.state.challenger
        self.state.challenger, self.state.champion = self.state.champion, manifest
        self.state.waiting = [known for known in self.state.waiting if known.version > version]
        predecessor = self.state.challenger.version if self.state.challenger else None
        return [
            PublishArtifact(manifest.sha256),
            *self._desired_for(list(self.state.sites)),
            *self._cleared(),
            Promoted(version, predecessor),
            *self._aliases(),
        ]

    def _on_site(self, site: str) -> list[Effect]:
        if site in self.state.sites:
            return []
        self.state.sites[site] = None
        return self._desired_for([site])

    def _on_report(self, site: str, reported: Reported) -> list[Effect]:
        before = self.state.sites[site]
        self.state.sites[site] = reported
        effects: list[Effect] = []
        was = before.champion.version if before is not None and before.champion is not None else 0
        if reported.champion is not None and reported.champion.version != was:
            effects.append(Swapped(site, reported.champion.version))
        known = {(refusal.sha256, refusal.at) for refusal in before.refused} if before is not None else set()
        effects += [Refused(site, new) for new in reported.refused if (new.sha256, new.at) not in known]
        return effects

    @property
    def _version(self) -> int:
        return self.state.champion.version if self.state.champion is not None else 0

    def _wanted(self) -> dict[str, Manifest]:
        return {known.sha256: known for known in (self.state.champion, self.state.challenger) if known is not None}

    def _artifacts(self) -> list[Effect]:
        return [PublishArtifact(sha256) for sha256 in self._wanted()]

    def _cleared(self) -> list[Effect]:
        """Whatever was dropped last: to clear it once more does no harm, and a kill may have come before the first."""
        dropped = self.state.dropped
        if dropped is None or dropped.sha256 in self._wanted():
            return []
        return [ClearArtifact(dropped.sha256, dropped.chunks)]

    def _aliases(self) -> list[Effect]:
        if self.state.champion is None:
            return []
        return [SetAliases(self._version, self.state.challenger.version if self.state.challenger else None)]

    def _desired_for(self, sites: Sequence[str]) -> list[Effect]:
        if self.state.champion is None:
            return []
        desired = Desired(champion=self.state.champion, challenger=self.state.challenger)
        return [PublishDesired(site, desired) for site in sites]
