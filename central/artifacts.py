"""Models on the wire: packed as they are published, in retained chunks that end by themselves.

Invariants: only what its name says is packed, published and signed for; an artifact that could not be read when it was
to be published is published as soon as it can be, if it is still wanted.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from datetime import timedelta
from typing import Final

from central.stalls import Stall
from central.work import WorkFolder
from shared.manifest import Packed, digest_of, pack
from shared.mqtt import Connection
from shared.topics import artifact_chunk

CHUNK_EXPIRY: Final = timedelta(days=30)
PACKS_KEPT: Final = 3  # champion, challenger, and what is on its way


class Artifacts:
    """The artifacts of the work folder, by sha256."""

    def __init__(self, work: WorkFolder, connection: Connection, stall: Stall, *, root: str) -> None:
        self._work = work
        self._connection = connection
        self._stall = stall
        self._root = root
        self._packs: dict[str, Packed] = {}  # the latest used last
        self._missed: set[str] = set()  # to be published, and not read yet

    def packed(self, sha256: str) -> Packed | None:
        """An artifact as it is published; None when it cannot be read."""
        packed = self._packs.pop(sha256, None) or self._read(sha256)
        if packed is None:
            return None
        self._packs[sha256] = packed
        for oldest in list(self._packs)[:-PACKS_KEPT]:
            del self._packs[oldest]
        return packed

    def publish(self, sha256: str) -> None:
        """Retain its chunks, or remember that they are missed."""
        packed = self.packed(sha256)
        if packed is None:
            self._missed.add(sha256)
            return
        self._missed.discard(sha256)
        self._publish(sha256, packed.chunks)

    def publish_missed(self, wanted: Container[str]) -> None:
        """Try again to publish what could not be read and is still wanted."""
        self._missed = {sha256 for sha256 in self._missed if sha256 in wanted}
        if self._stall.holds(time.monotonic()):
            return
        for sha256 in tuple(self._missed):
            self.publish(sha256)
        if not self._missed:
            self._stall.passed()

    def clear(self, sha256: str, chunks: int) -> None:
        """Take its chunks off the broker."""
        self._publish(sha256, [b""] * chunks)

    def _read(self, sha256: str) -> Packed | None:
        path = self._work.artifact(sha256)
        try:
            artifact = path.read_bytes()
        except OSError as error:
            self._stall.failed(f"{path}: {error.strerror}", time.monotonic())
            return None
        if digest_of(artifact) != sha256:  # else whatever lies there would be signed
            self._stall.failed(f"{path}: damaged: its sha256 is not its name", time.monotonic())
            return None
        return pack(artifact)

    def _publish(self, sha256: str, chunks: Iterable[bytes]) -> None:
        for number, chunk in enumerate(chunks):
            expiry_s = int(CHUNK_EXPIRY.total_seconds()) if chunk else None
            topic = artifact_chunk(self._root, sha256, number)
            self._connection.publish(topic, chunk, retain=True, expiry_s=expiry_s)
