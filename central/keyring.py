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
    """All active private keys; none where none was made."""

    keys: tuple[SigningKey, ...] = ()

    @classmethod
    def of(cls, params: Params, work: WorkFolder) -> Keyring:
        """The key that `keys.private` names, else those in the work folder. Raises MetercastError."""
        named = [Path(params.keys.private)] if params.keys.private else sorted((work.root / "keys").glob("*.pem"))
        return cls(tuple(_read(path) for path in named))

    def signed(self, manifest: Manifest, *, site: str, wall: datetime) -> Manifest | None:
        """The manifest for one site, valid from now on for VALID; None without a key."""
        if not self.keys:
            return None
        return signed(manifest.model_copy(update={"sites": [site], "expires": iso(to_us(wall + VALID))}), self.keys)


def _read(path: Path) -> SigningKey:
    try:
        return SigningKey.from_pem(path.read_bytes())
    except OSError as error:
        raise MetercastError(f"keys.private: {path}: {error.strerror}") from error
    except ValueError as error:
        raise MetercastError(f"keys.private: {path}: {error}") from error
