"""Whether a manifest may be acted on here: everything that can be said before a byte of its artifact is fetched.

Invariants: nothing is fetched, kept or tried out for a manifest that was not admitted; the checks come in the order of
`shared.refusals.Cause`, so that who signed it is known before anything else of it is believed. Expiry guards
installing, never serving: what runs was admitted once and is judged no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edge.gate import Wanted, judge_forecast
from shared.errors import ModelRefused
from shared.manifest import CHUNK_BYTES, Manifest
from shared.refusals import Cause
from shared.signing import TrustedKey, verify

VALID_AT_MOST: Final = timedelta(days=400)
CHAMPION: Final = "champion"  # of the roles, the one whose forecasts are published


@dataclass(frozen=True, slots=True)
class Here:
    """What a manifest must fit: this edge, as its parameters have it."""

    site: str
    trusted: Mapping[str, TrustedKey]  # by key id
    max_bytes: int
    wanted: Wanted
    version: str  # of metercast


@dataclass(frozen=True, slots=True)
class Accepted:
    """What of champions this edge remembers: the highest version, and the one that was swapped in last."""

    highest: int = 0
    version: int = 0
    sha256: str = ""

    def after(self, manifest: Manifest) -> Accepted:
        """What is remembered once this champion was swapped in: what it steps back from is as old as if it had run."""
        highest = max(self.highest, manifest.version, manifest.step_back_from or 0)
        return Accepted(highest, manifest.version, manifest.sha256)


def admit(
    manifest: Manifest, here: Here, *, role: str, accepted: Accepted, now: datetime, clock_suspect: bool = False
) -> None:
    """Raise ModelRefused with the first check that the manifest fails.

    `now` is the wall clock; where that is `clock_suspect` expiry is not judged, and the order of versions is all that
    stands against an old manifest. Only a champion's version is: a challenger is never published as a forecast.
    """
    verify(manifest, here.trusted)
    if not clock_suspect:
        _judge_expiry(manifest, now)
    _judge_role(manifest, role)
    if role == CHAMPION:
        _judge_version(manifest, accepted)
    _judge_place(manifest, here)
    _judge_size(manifest, here)
    judge_forecast(manifest, here.wanted)


def _judge_expiry(manifest: Manifest, now: datetime) -> None:
    try:
        left = datetime.fromisoformat(manifest.expires) - now
    except (ValueError, TypeError) as error:
        raise ModelRefused(Cause.EXPIRED, f"expires {manifest.expires!r} is no instant with its offset") from error
    if left <= timedelta(0):
        raise ModelRefused(Cause.EXPIRED, f"expired at {manifest.expires}; by the clock here it is {_text(now)}")
    if left > VALID_AT_MOST:
        raise ModelRefused(
            Cause.VALID_TOO_LONG,
            f"expires at {manifest.expires}, more than {VALID_AT_MOST.days} days after {_text(now)}",
        )


def _judge_role(manifest: Manifest, role: str) -> None:
    """Versions are judged in the champion's place alone, so what was signed for the shadow is worth nothing there."""
    if manifest.role not in (None, role):
        raise ModelRefused(Cause.OTHER_ROLE, f"signed as {manifest.role}, and desired as {role}")


def _judge_version(manifest: Manifest, accepted: Accepted) -> None:
    """Versions rise, but for the champion that was accepted last, and for what is signed to take a newer one's place.

    A step back names the newest version that it is from, so an old one is worth nothing once a newer version came.
    """
    is_last = (manifest.version, manifest.sha256) == (accepted.version, accepted.sha256)
    steps_back = manifest.step_back_from is not None and manifest.step_back_from >= accepted.highest
    if not (is_last or steps_back or manifest.version > accepted.highest):
        raise ModelRefused(
            Cause.VERSION_NOT_NEWER,
            f"version {manifest.version} is not above {accepted.highest}, the highest that was accepted here, "
            "and is not signed as a step back from it",
        )


def _judge_place(manifest: Manifest, here: Here) -> None:
    if manifest.sites and here.site not in manifest.sites:
        raise ModelRefused(Cause.OTHER_SITE, f"meant for other sites than {here.site}")
    try:
        too_old = _release(here.version) < _release(manifest.min_edge_version)
    except ValueError as error:
        raise ModelRefused(
            Cause.EDGE_TOO_OLD, f"min_edge_version {manifest.min_edge_version!r} is no version as 1.2.3"
        ) from error
    if too_old:
        raise ModelRefused(Cause.EDGE_TOO_OLD, f"needs metercast {manifest.min_edge_version}, this is {here.version}")


def _judge_size(manifest: Manifest, here: Here) -> None:
    size = max(manifest.size, manifest.compressed_size)
    if size > here.max_bytes:
        raise ModelRefused(Cause.TOO_LARGE, f"size is {size} bytes, edge.max_model_bytes is {here.max_bytes}")
    chunks = math.ceil(manifest.compressed_size / CHUNK_BYTES)
    if not chunks == manifest.chunks == len(manifest.chunk_sha256):
        raise ModelRefused(
            Cause.BAD_CHUNKS,
            f"{manifest.compressed_size} bytes make {chunks} chunks, the manifest says {manifest.chunks} "
            f"and has digests of {len(manifest.chunk_sha256)}",
        )


def _release(version: str) -> tuple[int, ...]:
    """`1.2.3` as numbers; raises ValueError."""
    return tuple(int(part) for part in version.split("."))


def _text(now: datetime) -> str:
    return now.isoformat(timespec="seconds").replace("+00:00", "Z")
