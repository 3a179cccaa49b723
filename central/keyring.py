"""The private keys central signs with, and manifests signed for one site."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from central.work import WorkFolder
from shared.clock import iso, to_us
from shared.errors import MetercastError
from shared.manifest import Manifest
from shared.params import Params
from shared.signing import SigningKey, signed

VALID: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Keyring:
    """All active private keys: those in `folder`, or the file that `private` names; read anew each time."""

    folder: Path
    private: Path | None = None

    @classmethod
    def of(cls, params: Params, work: WorkFolder) -> Keyring:
        """The keyring the parameters name. Reads nothing yet."""
        return cls(work.root / "keys", Path(params.keys.private) if params.keys.private else None)

    def signed(self, manifest: Manifest, *, site: str, wall: datetime) -> Manifest | None:
        """The manifest for one site, valid from now on for VALID; None without a key."""
        try:
            keys = self._keys()
        except MetercastError:
            return None
        own = manifest.model_copy(update={"sites": [site], "expires": iso(to_us(wall + VALID))})
        return signed(own, keys) if keys else None

    def missing(self) -> str:
        """Why nothing can be signed and what to do about it, in a sentence; empty when there is a key."""
        try:
            found = bool(self._keys())
        except MetercastError as error:
            return str(error)
        return "" if found else f"{self.folder}: no private key: `central keys new` makes one"

    def _keys(self) -> list[SigningKey]:
        named = [self.private] if self.private is not None else sorted(self.folder.glob("*.pem"))
        return [_read(path) for path in named]


def _read(path: Path) -> SigningKey:
    try:
        return SigningKey.from_pem(path.read_bytes())
    except OSError as error:
        raise MetercastError(f"keys.private: {path}: {error.strerror}") from error
    except ValueError as error:
        raise MetercastError(f"keys.private: {path}: {error}") from error
