"""A private key on disk: made whole or not at all, never over another, destroyed before it is unlinked.

    ID.pem          the private key, 0600 in a folder of 0700
    ID.pem.pub      its public line, as `keys.trusted` takes it: ed25519:<base64> created <instant>
    ID.retired      what is left of a retired one: ed25519:<base64> created <instant> retired <instant>

Invariant: an ID of which there is a `.retired` never signs again, whatever else lies there, so a retirement that was
cut short, or a backup that is put back, brings no key back to life.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shared.clock import iso, to_us
from shared.durable import sync
from shared.errors import MetercastError
from shared.signing import SigningKey, TrustedKey

PRIVATE: Final = ".pem"
PUBLIC: Final = ".pub"
RETIRED: Final = ".retired"
NEVER_OVER: Final = "exists already; a key is never written over another"
MOST_BYTES: Final = 65_536  # of any of these files; a PEM has 119


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key and where it lies."""

    key: SigningKey
    path: Path
    created: str
    mode: int

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a PEM; the public line beside it tells when it was created, else the file does.

        Raises MetercastError with what is wrong.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = SigningKey.from_pem(file.read(MOST_BYTES))
        except OSError as error:
            raise MetercastError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise MetercastError(f"{path}: {error}") from error
        told = _told(public_path(path))
        if told.get("key") != str(key.trusted):
            told = {}
        changed = iso(to_us(datetime.fromtimestamp(int(status.st_mtime), UTC)))
        return cls(key, path, told.get("created", changed), stat.S_IMODE(status.st_mode))

    @property
    def id(self) -> str:
        """What signatures call it."""
        return self.key.trusted.id

    @property
    def exposed(self) -> bool:
        """Whether others than its owner may read or change it."""
        return bool(self.mode & 0o077)

    @property
    def line(self) -> str:
        """Its public line."""
        return f"{self.key.trusted} created {self.created}"


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """What is left of a key: its public half and its dates, empty where the file no longer tells."""

    id: str
    public: str
    created: str
    retired: str

    @classmethod
    def read(cls, path: Path) -> RetiredKey:
        """Read what `retire` left; a damaged file still names its key."""
        told = _told(path)
        return cls(path.stem, told.get("key", ""), told.get("created", ""), told.get("retired", ""))


def make_folder(folder: Path) -> None:
    """Make a folder that none but its owner enters, unless it is there. Raises MetercastError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MetercastError(f"{folder}: {error.strerror}") from error


def public_path(path: Path) -> Path:
    """Where the public line of the private key in `path` lies."""
    return path.with_name(path.name + PUBLIC)


def write_key(path: Path, key: SigningKey, created: str) -> KeyFile:
    """Write a private key and its public line beside it. Raises MetercastError when one of them is there already."""
    public = public_path(path)
    make_folder(path.parent)
    try:
        for there in (path, public):
            if there.exists():
                raise MetercastError(f"{there}: {NEVER_OVER}")
        write_new(path, key.pem(), mode=0o600)
        write_new(public, f"{key.trusted} created {created}\n".encode(), mode=0o644)
    except FileExistsError as error:
        raise MetercastError(f"{path}: {NEVER_OVER}") from error
    except OSError as error:
        raise MetercastError(f"{path}: {error.strerror}") from error
    return KeyFile.read(path)


def destroy(path: Path) -> None:
    """Overwrite a private key and remove it and its public line. Raises MetercastError when it cannot be done."""
    try:
        with suppress(FileNotFoundError), path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        public_path(path).unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise MetercastError(
            f"{path}: {error.strerror}; the key signs no more, but this is left of it: destroy it where it comes from"
        ) from error


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that was not there: whole or not at all, also over a crash. Raises FileExistsError, OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # unlike a rename, never over another file
    finally:
        fresh.unlink()
    sync(path.parent)


def _told(path: Path) -> dict[str, str]:
    """The `key` of a public line and the words after it, in pairs; empty for a file that does not tell."""
    try:
        with path.open(encoding="utf-8") as file:
            words = file.read(MOST_BYTES).split()
        key = TrustedKey.parse(words[0])
    except (OSError, ValueError, IndexError):
        return {}
    return {"key": str(key)} | dict(zip(words[1::2], words[2::2], strict=False))
