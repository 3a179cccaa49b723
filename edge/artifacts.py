"""The model files an edge keeps for its next start, and the chunks of those on their way.

Invariants: a file that bears an artifact's name is whole, or found out when it is read; that an artifact is loaded for
the first time is on disk before, and gone after, so what ends the process each time is known by what it leaves.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge.kept import ATTEMPTS_AT_MOST
from shared.durable import sync
from shared.errors import ModelRefused
from shared.manifest import digest_of
from shared.refusals import Cause

log = logging.getLogger(__name__)

MODEL: Final = ".onnx"
CHUNKS: Final = ".chunks"  # a folder: the chunks that have come, named by their number
LOADING: Final = ".loading"  # how often it was begun to be loaded, and the process ended


class ArtifactFolder:
    """The model files of this edge, named by their digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._saved: set[str] = set()  # by this process

    def _path(self, sha256: str, ending: str = MODEL) -> Path:
        return self._folder / f"{sha256}{ending}"

    def has(self, sha256: str) -> bool:
        """Whether there is a file or are chunks of it; whether they are whole shows when they are read."""
        return self._path(sha256).exists() or self._path(sha256, CHUNKS).exists()

    def read(self, sha256: str) -> bytes | None:
        """The artifact's bytes, or None when it is not here or no longer what its name says."""
        try:
            artifact = self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("artifact cannot be read", extra={"file": error.filename, "reason": error.strerror})
            return None
        if digest_of(artifact) != sha256:
            log.error("artifact is damaged on disk", extra={"file": self._path(sha256)})
            return None
        return artifact

    def save(self, sha256: str, artifact: bytes) -> None:
        """Write whole or not at all, and on the disk when this returns; its chunks are not needed any more."""
        is_here = sha256 in self._saved and self._path(sha256).exists()
        if not is_here and self.read(sha256) is None:
            _write(self._path(sha256), artifact)
        self._saved.add(sha256)
        shutil.rmtree(self._path(sha256, CHUNKS), ignore_errors=True)

    @contextmanager
    def loading(self, sha256: str) -> Iterator[None]:
        """Load an artifact inside that did not serve here yet, whatever that does to the process.

        Raises ModelRefused once it has ended ATTEMPTS_AT_MOST of them. Without room for the note it is loaded as well.
        """
        note = self._path(sha256, LOADING)
        ended = _count(note)
        if ended >= ATTEMPTS_AT_MOST:
            raise ModelRefused(Cause.FAILED_RUNNING, f"the edge ended {ended} times in a row while it loaded it")
        try:
            with suppress(OSError):
                _write(note, str(ended + 1).encode())
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def keep_chunk(self, sha256: str, number: int, chunk: bytes) -> None:
        """Keep a chunk of an artifact on its way; one that is lost in a power cut comes again."""
        folder = self._path(sha256, CHUNKS)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{number}"
        partial.write_bytes(chunk)
        partial.rename(folder / str(number))

    def chunks(self, sha256: str) -> dict[int, bytes]:
        """The chunks that were kept; whoever takes them checks what they are."""
        folder = self._path(sha256, CHUNKS)
        try:
            return {int(path.name): path.read_bytes() for path in folder.iterdir() if path.name.isdecimal()}
        except OSError:
            return {}

    def keep_only(self, sha256s: frozenset[str]) -> None:
        """Delete what is of other artifacts, and what writing left half done."""
        self._saved &= sha256s
        for path in self._folder.glob("*"):
            if path.suffix == CHUNKS and path.stem not in sha256s:
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix != CHUNKS and (path.suffix not in (MODEL, LOADING) or path.stem not in sha256s):
                path.unlink(missing_ok=True)


def _count(note: Path) -> int:
    """The number in a note; 0 where there is none, or none that can be read."""
    try:
        return int(note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync(path.parent)
