"""Which models were refused here, and why: what is reported, counted, and not tried again.

Invariants: the same claim refused for the same cause counts once in a process; one that was fetched or tried out in
vain is not tried again in this process; one that failed running here is not tried again at all; however many claims
come that nobody trusted signed, what is known and told of the others stays.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeVar

from shared.errors import ModelRefused
from shared.manifest import Manifest, digest_of
from shared.messages import MAX_REASON, Refusal
from shared.refusals import UNVOUCHED, Cause

log = logging.getLogger(__name__)

KEPT: Final = 20  # of each: what is reported, what is remembered
UNVOUCHED_KEPT: Final = 5  # of those, at most: claims that nobody trusted signed

_T = TypeVar("_T")
_Key = tuple[bool, str]  # whether somebody trusted signed it, and the digest of an artifact or a claim


class Refused:
    """The refusals of one edge."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by cause, in this process
        self.is_untold = False  # what is told changed since it was last reported
        self._told: dict[_Key, Refusal] = {}  # by sha256, the latest last
        self._causes: dict[_Key, Cause] = {}  # by claim
        self._failed: dict[str, Refusal] = {}  # by sha256, of models that failed running
        self._in_vain: dict[str, ModelRefused] = {}  # by claim

    def resume(self, failed: Iterable[Refusal]) -> None:
        """Take up the models that failed running in earlier processes."""
        for refusal in failed:
            _keep(self._failed, refusal.sha256, refusal)
            _keep_apart(self._told, (True, refusal.sha256), refusal)

    @property
    def told(self) -> list[Refusal]:
        """What is reported."""
        return list(self._told.values())

    @property
    def failed(self) -> list[Refusal]:
        """The models that failed running here."""
        return list(self._failed.values())

    def require_untried(self, manifest: Manifest) -> None:
        """Raise ModelRefused where it is known that this model will not do."""
        failed = self._failed.get(manifest.sha256)
        if failed is not None:
            raise ModelRefused(_cause_of(failed), failed.detail)
        known = self._in_vain.get(claim_of(manifest))
        if known is not None:
            raise ModelRefused(known.cause, str(known))  # a fresh one: each raise of the old would lengthen its trace

    def note(self, manifest: Manifest, refused: ModelRefused, at: str, *, in_vain: bool = False) -> bool:
        """Report, count and log a refusal, unless it is known; returns whether it is new.

        `in_vain`: the artifact was fetched, so the same claim is not tried again.
        """
        claim, is_vouched = claim_of(manifest), refused.cause not in UNVOUCHED
        key = is_vouched, manifest.sha256
        if self._causes.get((is_vouched, claim)) == refused.cause and key in self._told:
            return False
        self.is_untold = True
        self.counts[refused.cause] += 1
        _keep_apart(self._causes, (is_vouched, claim), refused.cause)
        if in_vain:
            _keep(self._in_vain, claim, refused)
        fresh = _refusal(manifest, refused, at)
        log.warning("model refused", extra=fresh.model_dump(include={"sha256", "version", "reason", "detail"}))
        failed = self._failed.get(manifest.sha256) if is_vouched else None
        _keep_apart(self._told, key, failed or fresh)  # that it failed says more than that it is old
        return True

    def fail(self, manifest: Manifest, refused: ModelRefused, at: str) -> None:
        """Remember that a model failed running."""
        _keep(self._failed, manifest.sha256, _refusal(manifest, refused, at))
        self.note(manifest, refused, at)

    def lift(self, manifest: Manifest) -> None:
        """It serves now: what was said against it before is no longer so."""
        for is_vouched in (True, False):
            self.is_untold |= self._told.pop((is_vouched, manifest.sha256), None) is not None


def claim_of(manifest: Manifest) -> str:
    """Digest of what a manifest claims, whoever signed it."""
    return digest_of(manifest.claim_bytes())


def _refusal(manifest: Manifest, refused: ModelRefused, at: str) -> Refusal:
    detail = str(refused)[:MAX_REASON]
    return Refusal(sha256=manifest.sha256, version=manifest.version, reason=refused.cause, detail=detail, at=at)


def _cause_of(failed: Refusal) -> Cause:
    """Its cause; a word of a later release, which was here before, says as much to this one."""
    try:
        return Cause(failed.reason)
    except ValueError:
        return Cause.FAILED_RUNNING


def _keep_apart(kept: dict[_Key, _T], key: _Key, value: _T) -> None:
    """Put it last, and let the oldest of its own kind go."""
    kept.pop(key, None)
    kept[key] = value
    most = KEPT - UNVOUCHED_KEPT if key[0] else UNVOUCHED_KEPT
    for oldest in [known for known in kept if known[0] == key[0]][:-most]:
        del kept[oldest]


def _keep(kept: dict[str, _T], key: str, value: _T) -> None:
    """Put it last, and let the oldest go."""
    kept.pop(key, None)
    kept[key] = value
    for oldest in list(kept)[:-KEPT]:
        del kept[oldest]
