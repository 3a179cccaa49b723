"""What the rollout is told and what it asks for: closed sets of events and effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from central.rollout_state import Comparison
from shared.manifest import Manifest
from shared.messages import Desired, Refusal, Reported

Verb = Literal["approve", "reject", "promote", "pause", "resume", "stop", "rollback"]


@dataclass(frozen=True, slots=True)
class CandidateAccepted:
    """A training met the production criteria."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Ordered:
    """A person decided something.

    `version` is the one it is about; of a rollback the one to leave, so that an order that is read twice is followed
    once. `target` is what to roll back to, None for the predecessor.
    """

    verb: Verb
    version: int | None = None
    target: Manifest | None = None


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
class Heard:
    """What sites said meanwhile, in that order: judged and kept in one go."""

    events: tuple[SiteSeen | ReportArrived, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; so far the version on its way compares live as said."""

    live: Comparison = field(default_factory=Comparison)


@dataclass(frozen=True, slots=True)
class KeysSeen:
    """Whether there is a private key: without one no rollout begins."""

    there: bool


@dataclass(frozen=True, slots=True)
class Refresh:
    """Say everything again: at the start, at each connect, and before manifests and chunks on the broker expire.

    `registry` says it to the registry as well, which forgets nothing, but may never have been told; `only` says no
    more than these sites' `desired` and these artifacts.
    """

    registry: bool = True
    only: frozenset[str] | None = None


News: TypeAlias = CandidateAccepted | Ordered | SiteSeen | ReportArrived | Heard | Tick
Event: TypeAlias = News | KeysSeen | Refresh


@dataclass(frozen=True, slots=True)
class PublishArtifact:
    """Retain the chunks of an artifact."""

    sha256: str


@dataclass(frozen=True, slots=True)
class PublishDesired:
    """Retain what a site should run, signed for it."""

    site: str
    desired: Desired


@dataclass(frozen=True, slots=True)
class ClearArtifact:
    """Take an artifact's chunks off the broker."""

    sha256: str
    chunks: int


@dataclass(frozen=True, slots=True)
class StageBegun:
    """So many more sites are told to serve a version."""

    version: int
    stage: str
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Promoted:
    """The whole fleet is told to serve a version."""

    version: int
    predecessor: int | None


@dataclass(frozen=True, slots=True)
class Passed:
    """A version has been watched with the fleet, and stays."""

    version: int


@dataclass(frozen=True, slots=True)
class HeldUp:
    """The next stage of a version should begin, and does not."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class SteppedBack:
    """Sites that were told a version are told its predecessor, or nothing where there is none."""

    version: int
    to: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """A version is given up for a newer one."""

    version: int
    by: int


@dataclass(frozen=True, slots=True)
class OrderFollowed:
    """A person's order was carried out."""

    verb: Verb
    version: int | None


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """A person's order cannot be followed."""

    verb: Verb
    version: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SetAliases:
    """The registry's aliases should name these versions, and nothing where there is None."""

    champion: int | None
    challenger: int | None
    candidate: int | None


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


Effect: TypeAlias = (
    PublishArtifact
    | PublishDesired
    | ClearArtifact
    | StageBegun
    | Promoted
    | Passed
    | HeldUp
    | SteppedBack
    | Superseded
    | OrderFollowed
    | OrderRefused
    | SetAliases
    | Swapped
    | Refused
)
