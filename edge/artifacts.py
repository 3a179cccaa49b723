"""The model files an edge keeps for its next start."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

log = logging.getLogger(__name__)


class ArtifactFolder:
    """The model files of this edge, named by their digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.onnx"

    def read(self, sha256: str) -> bytes | None:
        """The artifact's bytes, or None when it is not here or no longer what its name says."""
        path = self._path(sha256)
        if not path.exists():
            return None
        artifact = path.read_bytes()
        if hashlib.sha256(artifact).hexdigest() != sha256:
            log.error("artifact is damaged on disk", extra={"file": path})
            return None
        return artifact

    def save(self, sha256: str, artifact: bytes) -> None:
        """Write whole or not at all."""
        if self.read(sha256) is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial_file = self._path(sha256).with_suffix(".partial")
        partial_file.write_bytes(artifact)
        partial_file.rename(self._path(sha256))

    def keep_only(self, sha256s: frozenset[str]) -> None:
        """Delete the others."""
        for path in self._folder.glob("*.onnx"):
            if path.stem not in sha256s:
                path.unlink()
