"""What an edge remembers of models: the fact `models` of its state database.

Invariants: `attempts` is on disk before the models are loaded and before their first round in a process, and taken back
after it, so that one that ends the process natively is known by its third time, a champion beside a challenger by its
sixth; the form of earlier releases, entries of the roles alone, is read too.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edge.admission import Accepted
from shared.manifest import Manifest
from shared.messages import Refusal
from shared.refusals import Cause

ATTEMPTS_AT_MOST: Final = 3  # a power cut looks the same and may come twice (ADR 23); what is given up is so for good


class Entry(BaseModel):
    """A model that serves or served: it can be loaded from disk again."""

    model_config = ConfigDict(frozen=True)
    manifest: Manifest
    since: str


class Kept(BaseModel):
    """The fact."""

    champion: Entry | None = None
    previous: Entry | None = None  # the champion before: what is stepped back to
    challenger: Entry | None = None
    attempts: int = 0  # at loading the models and at the champion's first round in a process
    highest: int = 0
    accepted: tuple[int, str] = (0, "")  # version and sha256 of the champion that was swapped in last
    failed: list[Refusal] = []  # models that failed running here, which are not tried again
    transfers: list[str] = []  # sha256s of artifacts on their way

    @model_validator(mode="after")
    def _of_earlier_releases(self) -> Kept:
        if self.champion is not None and not self.highest:
            manifest = self.champion.manifest
            self.highest, self.accepted = manifest.version, (manifest.version, manifest.sha256)
        return self

    @classmethod
    def read(cls, fact: str) -> Kept:
        """Read the fact; raises ValueError with what is wrong."""
        try:
            return cls.model_validate(json.loads(fact))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def text(self) -> str:
        """As `read` takes it."""
        return self.model_dump_json(by_alias=True)

    @property
    def order(self) -> Accepted:
        """What the order of versions is judged by."""
        return Accepted(self.highest, *self.accepted)

    def begun(self, at: str) -> tuple[Kept, Refusal | None]:
        """The fact as it must be on disk before a process that just started loads its models.

        After ATTEMPTS_AT_MOST processes that ended one model is given up; returns its refusal. Which one it was cannot
        be seen from here: the challenger goes first, since nobody misses it, then the champion.
        """
        if self.champion is None and self.challenger is None:
            return self, None
        if self.attempts < ATTEMPTS_AT_MOST:
            return self.model_copy(update={"attempts": self.attempts + 1}), None
        gone = self.challenger or self.champion
        assert gone is not None
        refusal = Refusal(
            sha256=gone.manifest.sha256,
            version=gone.manifest.version,
            reason=Cause.FAILED_RUNNING,
            detail=f"the edge ended {self.attempts} times in a row while it loaded or first ran it",
            at=at,
        )
        left = {"challenger": None, "attempts": 1} if self.challenger is not None else self._stepped_back()
        return self.model_copy(update={**left, "failed": [*self.failed, refusal]}), refusal

    def _stepped_back(self) -> dict[str, Any]:
        before = self.previous
        return {
            "champion": before,
            "previous": None,
            "attempts": 1 if before else 0,
            "accepted": (before.manifest.version, before.manifest.sha256) if before else (0, ""),
        }
