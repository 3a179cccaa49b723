"""What the rollout remembers: who runs what, which version is on its way, and what became of the others.

Invariants: states are never changed, only replaced; at most one version is on its way; schema 1, which knew no stages,
is read as a fleet with nothing on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.manifest import Manifest
from shared.messages import Reported

ENDED_KEPT: Final = 100
DROPPED_KEPT: Final = 20

End = Literal["rejected", "stepped back", "stopped", "superseded", "passed"]


class Kept(BaseModel):
    """A part of the state; nothing changes in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def but(self, **changes: object) -> Self:
        """The same with some fields replaced."""
        return self.model_copy(update=changes)


class Comparison(Kept):
    """How `version` forecasts live: its error over that of its yardstick, a geometric mean over meters.

    `ratio` is None until some meter has pairs enough; `pairs` counts the scores of both at one interval and lead.
    """

    version: int | None = None
    ratio: float | None = None
    pairs: int = 0
    meters: int = 0
    against: Literal["predecessor", "naive"] = "predecessor"


class Site(Kept):
    """What is known of a site. `highest` is the newest version we ever told it to serve."""

    reported: Reported | None = None
    seen_us: int | None = None
    highest: int = 0


class Rolling(Kept):
    """The version on its way: `sites` are told to serve it, or all once `fleet` is set and it is watched there."""

    manifest: Manifest
    sites: tuple[str, ...] = ()
    stage: int = Field(0, description="0 for the canary sites, then the number of the share in rollout.stages")
    fleet: bool = False
    since_us: int | None = Field(None, description="when this stage began")
    live: Comparison = Comparison()
    held_up: str = Field("", description="what the journal was last told about why the next stage does not begin")


class Ended(Kept):
    """How the rollout of a version ended."""

    version: int
    state: End
    reason: str
    at_us: int | None
    live: Comparison = Comparison()


class Dropped(Kept):
    """An artifact that no site is told to run any more."""

    sha256: str
    chunks: int


class RolloutState(Kept):
    """What survives a restart. `champion` is the fleet's, `challenger` its predecessor, in the shadow there."""

    schema_: Literal[2] = Field(2, alias="schema")
    champion: Manifest | None = None
    challenger: Manifest | None = None
    rolling: Rolling | None = None
    waiting: tuple[Manifest, ...] = Field((), description="accepted, until a person approves")
    queued: Manifest | None = Field(None, description="approved, until the version on its way has got there")
    ended: tuple[Ended, ...] = Field((), description="oldest first")
    withdrawn: Manifest | None = Field(None, description="the model that was taken back with none to run instead")
    dropped: tuple[Dropped, ...] = ()
    sites: dict[str, Site] = {}
    paused: bool = False
    stopped: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("schema") != 1:
            return content
        return _translated(content)

    @property
    def everywhere(self) -> Manifest | None:
        """The newest model that every known site is told to serve."""
        rolling = self.rolling
        covers = rolling is not None and bool(self.sites) and len(rolling.sites) >= len(self.sites)
        return rolling.manifest if rolling is not None and covers else self.champion

    @property
    def undecided(self) -> tuple[Manifest, ...]:
        """Versions that wait for a person or for their turn."""
        return (*self.waiting, self.queued) if self.queued is not None else self.waiting

    @property
    def coming(self) -> Manifest | None:
        """The newest version that is on its way, or waits for a person or its turn."""
        rolling = () if self.rolling is None else (self.rolling.manifest,)
        return max((*self.undecided, *rolling), key=lambda manifest: manifest.version, default=None)

    @property
    def members(self) -> tuple[str, ...]:
        """Sites that are told to serve the version on its way."""
        if self.rolling is None:
            return ()
        return tuple(self.sites) if self.rolling.fleet else self.rolling.sites

    @property
    def predecessor(self) -> Manifest | None:
        """What the version on its way is compared with and stepped back to."""
        if self.rolling is None:
            return None
        return self.challenger if self.rolling.fleet else self.champion

    def wanted(self) -> dict[str, Manifest]:
        """Manifests by their artifact, of every model that some site may be told to run."""
        rolling = self.rolling.manifest if self.rolling is not None else None
        return {known.sha256: known for known in (rolling, self.champion, self.challenger) if known is not None}

    def told(self, site: str) -> tuple[Manifest | None, Manifest | None]:
        """What a site should serve, and what it should run in the shadow."""
        rolling = self.rolling
        if rolling is not None and not rolling.fleet and site in rolling.sites:
            return rolling.manifest, self.champion
        return self.champion, self.challenger

    def ending(self, version: int, state: End, reason: str, at_us: int | None) -> RolloutState:
        """The same, remembering what became of a version."""
        rolling = self.rolling
        live = rolling.live if rolling is not None and rolling.manifest.version == version else Comparison()
        ended = Ended(version=version, state=state, reason=reason, at_us=at_us, live=live)
        return self.but(ended=(*self.ended, ended)[-ENDED_KEPT:])


def _translated(content: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 as 2: every site that was seen had been told the champion."""
    champion, dropped = content.get("champion"), content.get("dropped")
    highest = champion.get("version", 0) if isinstance(champion, dict) else 0
    sites = {site: {"reported": told, "highest": highest} for site, told in content.get("sites", {}).items()}
    kept = {name: content[name] for name in ("champion", "challenger", "waiting") if name in content}
    left = [{"sha256": dropped["sha256"], "chunks": dropped["chunks"]}] if dropped else []
    return {"schema": 2, **kept, "dropped": left, "sites": sites}
