"""Topic names and the ids inside them. Every topic in the system is made here and taken apart here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CHUNK: Final = re.compile(r"([^/]+)/([0-9]{1,6})")
RESERVED_SITES: Final = frozenset({"artifacts", "central"})


def is_id(text: str) -> bool:
    """Whether `text` may be a meter's or site's id: 1 to 64 of letters, digits, `_ . : -`."""
    return ID_PATTERN.fullmatch(text) is not None


def is_site_id(text: str) -> bool:
    """Whether `text` may be a site's id: an id that is not reserved."""
    return is_id(text) and text not in RESERVED_SITES


@dataclass(frozen=True, slots=True)
class SiteTopics:
    """The topics of one site under one root."""

    root: str
    site: str
    _readings: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readings", self._of("readings", ""))

    def _of(self, *levels: str) -> str:
        return "/".join((self.root, self.site, *levels))

    @property
    def readings(self) -> str:
        """Filter of all meters' readings."""
        return self._of("readings", "+")

    def reading(self, meter: str) -> str:
        """Where one meter publishes."""
        return self._of("readings", meter)

    def forecast(self, meter: str) -> str:
        """Where one meter's latest forecast is retained."""
        return self._of("forecasts", meter)

    def shadow(self, meter: str) -> str:
        """Where the challenger's forecast goes when `edge.publish_shadow` is on."""
        return self._of("shadow", meter)

    @property
    def dead_letter(self) -> str:
        """Where refused input goes, with its reason."""
        return self._of("deadletter")

    @property
    def status(self) -> str:
        """The edge's retained state and will."""
        return self._of("status")

    @property
    def uplink(self) -> str:
        """Numbered batches from edge to central."""
        return self._of("uplink")

    @property
    def acked(self) -> str:
        """What of the uplink is in the record."""
        return self._of("uplink", "acked")

    @property
    def backfills(self) -> str:
        """Filter of all meters' history."""
        return self._of("backfill", "+")

    def backfill(self, meter: str) -> str:
        """Where a meter's history is loaded: a readings payload that never moves the watermark."""
        return self._of("backfill", meter)

    @property
    def covariates(self) -> str:
        """Filter of all series known ahead."""
        return self._of("covariates", "+")

    def covariate(self, name: str) -> str:
        """Where the latest issue of a series known ahead is retained, by whoever makes it."""
        return self._of("covariates", name)

    @property
    def restore(self) -> str:
        """Closed intervals from central, for an edge that begins with an empty state."""
        return self._of("restore")

    @property
    def desired(self) -> str:
        """The manifests an edge should run."""
        return self._of("models", "desired")

    @property
    def reported(self) -> str:
        """What an edge runs, and what it refused."""
        return self._of("models", "reported")

    @property
    def drift(self) -> str:
        """What central saw drift and what it decided."""
        return self._of("drift")

    def probe(self, token: str) -> str:
        """Where the doctor parks messages of its own to count what comes back."""
        return self._of("doctor", token)

    def meter_of(self, topic: str) -> str | None:
        """The meter level of a readings topic of this site, or None."""
        return topic[len(self._readings) :] if topic.startswith(self._readings) else None

    def backfilled_meter_of(self, topic: str) -> str | None:
        """The meter level of a backfill topic of this site, or None."""
        prefix = self._of("backfill", "")
        return topic[len(prefix) :] if topic.startswith(prefix) else None

    def covariate_of(self, topic: str) -> str | None:
        """The name level of a covariate's topic of this site, or None."""
        prefix = self._of("covariates", "")
        return topic[len(prefix) :] if topic.startswith(prefix) else None


def artifact_chunk(root: str, sha256: str, number: int) -> str:
    """Where chunk `number` (from 0) of an artifact is retained."""
    return f"{root}/artifacts/{sha256}/{number}"


def artifact_chunks(root: str, sha256: str) -> str:
    """Filter of all chunks of one artifact."""
    return f"{root}/artifacts/{sha256}/+"


def parse_artifact_chunk(root: str, topic: str) -> tuple[str, int] | None:
    """(sha256, number) of a chunk's topic, or None."""
    prefix = f"{root}/artifacts/"
    found = _CHUNK.fullmatch(topic.removeprefix(prefix)) if topic.startswith(prefix) else None
    return (found[1], int(found[2])) if found else None


def site_of(root: str, topic: str) -> str | None:
    """The site level of any topic under the root, or None when there is no valid one."""
    if not topic.startswith(f"{root}/"):
        return None
    site = topic[len(root) + 1 :].split("/", 1)[0]
    return site if is_site_id(site) else None
