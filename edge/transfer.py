"""An artifact on its way: which of its chunks are here, which are wanted, and what they make together.

Invariants: a chunk is taken only when it has the length and the digest that the verified manifest says, so what is held
never exceeds `compressed_size`; whatever comes in whatever order, only the chunks that were signed are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from shared.manifest import CHUNK_BYTES, Manifest, digest_of
from shared.topics import artifact_chunk, artifact_chunks

FEW: Final = 16  # so many missing chunks are asked for one by one, more by the filter of them all


class Offered(Enum):
    """What became of a chunk."""

    TAKEN = auto()
    IGNORED = auto()  # it is here already, or was cleared, or is of no place in this artifact
    BAD = auto()  # not what the manifest says


def of_same_chunks(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests name the same artifact in the same pieces."""
    return (one.sha256, one.size, one.chunk_sha256) == (other.sha256, other.size, other.chunk_sha256)


def fitting(manifest: Manifest, kept: Mapping[int, bytes]) -> dict[int, bytes]:
    """Of the chunks that an earlier process kept, by number, those that are still what the manifest says."""
    return {number: chunk for number, chunk in kept.items() if _fits(manifest, number, chunk)}


def _fits(manifest: Manifest, number: int, chunk: bytes) -> bool:
    if not 0 <= number < manifest.chunks:
        return False
    length = min(CHUNK_BYTES, manifest.compressed_size - number * CHUNK_BYTES)
    return len(chunk) == length and digest_of(chunk) == manifest.chunk_sha256[number]


@dataclass(slots=True)
class Transfer:
    """An artifact's manifest and the chunks so far."""

    manifest: Manifest
    chunks: dict[int, bytes] = field(default_factory=dict)
    bad: int = 0  # chunks that were not what the manifest says
    moves: bool = False  # whether a chunk came since it was last asked
    asked: set[str] = field(default_factory=set)  # topic filters

    def is_of(self, manifest: Manifest) -> bool:
        """Whether these are the pieces that it names, too: another zlib packs the same artifact otherwise."""
        return of_same_chunks(self.manifest, manifest)

    def offer(self, number: int, chunk: bytes) -> Offered:
        """Take a chunk that has come, if it is one of these."""
        if not chunk or not 0 <= number < self.manifest.chunks or number in self.chunks:
            return Offered.IGNORED
        if not _fits(self.manifest, number, chunk):
            self.bad += 1
            return Offered.BAD
        self.chunks[number] = chunk
        self.moves = True
        return Offered.TAKEN

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks that have not come."""
        return [number for number in range(self.manifest.chunks) if number not in self.chunks]

    def in_order(self) -> tuple[bytes, ...]:
        """All its chunks, none of which is missing; what they make is for `shared.manifest.unpack` to find out."""
        return tuple(self.chunks[number] for number in range(self.manifest.chunks))

    def wanted_filters(self, root: str) -> list[str]:
        """Topic filters of what is missing: a broker sends what it retained under each, and no more."""
        missing, sha256 = self.missing, self.manifest.sha256
        few = self.chunks and len(missing) <= FEW
        filters = [artifact_chunk(root, sha256, n) for n in missing] if few else [artifact_chunks(root, sha256)]
        self.asked.update(filters)
        return filters
