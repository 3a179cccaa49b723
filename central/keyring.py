"""The keys central signs manifests with, and what it signs: a claim to one site that ends in a month.

Active are all private keys in the work folder's `keys/`, or the one file that `keys.private` names and no other. The
disk is read anew each time, so `central keys new` and `retire` count at once, also for a `run` that is up.

Invariants: a retired key never signs; a key that cannot be read takes none of the others with it, and never stops
central, which records and trains without any; a signed manifest names one site and when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from central.key_files import PRIVATE, RETIRED, KeyFile, RetiredKey, destroy, make_folder, write_key, write_new
from central.work import WorkFolder
from shared.clock import iso, to_us
from shared.errors import MetercastError
from shared.manifest import Manifest
from shared.params import Params
from shared.signing import SigningKey, signed

VALID: Final = timedelta(days=30)  # as long as chunks last on the broker; said anew while it is wanted
MOST_ACTIVE: Final = 16  # signatures that a manifest may bear
MAKE_ONE: Final = "`central keys new` makes one"


@dataclass(frozen=True, slots=True)
class Held:
    """What lies on disk. `idle` would sign if `keys.private` named no other file."""

    active: tuple[KeyFile, ...] = ()
    idle: tuple[KeyFile, ...] = ()
    retired: tuple[RetiredKey, ...] = ()
    undead: tuple[KeyFile, ...] = ()  # retired, and yet the private part is there
    unusable: tuple[str, ...] = ()  # a sentence for each file


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one central: `folder` of those it made, and the file that `private` names, if any."""

    folder: Path
    private: Path | None = None

    @classmethod
    def of(cls, params: Params, work: WorkFolder) -> Keyring:
        """The keyring the parameters name. Reads nothing yet."""
        return cls(work.keys, Path(params.keys.private).expanduser() if params.keys.private else None)

    def signed(self, manifest: Manifest, *, site: str, wall: datetime) -> Manifest | None:
        """The manifest for one site, up to VALID from `wall`, signed by every active key; None without any."""
        keys = [file.key for file in self.held().active]
        if not keys:
            return None
        own = manifest.model_copy(update={"sites": [site], "expires": _told(wall + VALID)})
        return signed(own, keys[:MOST_ACTIVE])

    @property
    def place(self) -> Path:
        """Where keys that sign are looked for."""
        return self.private or self.folder

    def missing(self) -> str:
        """Why nothing can be signed and what to do about it, in a sentence; empty when there is a key."""
        held = self.held()
        if held.active:
            return ""
        why = "; ".join(held.unusable) or f"{self.place}: no private key that signs"
        return f"{why}; no model goes out until there is one: {MAKE_ONE}"

    def held(self) -> Held:
        """Everything on disk, each kind in the order of when it was made.

        Nothing signs while the folder cannot be listed: it alone tells what is retired.
        """
        try:
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            paths = []
        except OSError as error:
            return Held(unusable=(f"{self.folder}: {error.strerror}",))
        retired = [RetiredKey.read(path) for path in _ending(paths, RETIRED)]
        gone = {key.id for key in retired}
        files, unusable = _read(_ending(paths, PRIVATE))
        named, named_unusable = _read([self.private] if self.private else [])
        signing = named if self.private else files
        signing_ids = {file.id for file in signing}
        return Held(
            active=_living(signing, gone),
            idle=tuple(file for file in _living(files, gone) if file.id not in signing_ids),
            retired=tuple(sorted(retired, key=lambda key: key.retired)),
            undead=tuple(file for file in {file.path: file for file in files + named}.values() if file.id in gone),
            unusable=tuple(dict.fromkeys(unusable + named_unusable)),
        )

    def new(self, wall: datetime, *, out: Path | None = None) -> KeyFile:
        """Make a key: the file `out`, else that which `keys.private` names, else one more of the folder.

        Raises MetercastError when the file is there already or cannot be written, or there are enough.
        """
        if out is None and self.private is None and len(self.held().active) >= MOST_ACTIVE:
            raise MetercastError(f"keys: {MOST_ACTIVE} are active, as many as a manifest may bear; retire one first")
        key = SigningKey.new()
        path = out or self.private or self.folder / f"{key.trusted.id}{PRIVATE}"
        return write_key(path, key, _told(wall))

    def retire(self, named: str, wall: datetime, *, force: bool = False) -> RetiredKey:
        """Destroy the private part of a key, named by its id, the beginning of it, or its file; keep its public line.

        A file is what names a key that `keys.private` named before, and names no more. Raises MetercastError for a key
        that is not here and, unless `force`, for the last one that signs.
        """
        held, path = self.held(), Path(named).expanduser()
        file = KeyFile.read(path) if path.is_file() else _one_of((*held.active, *held.idle, *held.undead), named)
        if [active.id for active in held.active] == [file.id] and not force:
            raise MetercastError(
                f"keys: {file.id} is the last key that signs, and without one no model goes out; {self._first()}"
            )
        note = self.folder / f"{file.id}{RETIRED}"
        _keep(note, f"{file.line} retired {_told(wall)}\n")
        copies = [copy.path for copy in self.held().undead if copy.id == file.id]
        for copy in dict.fromkeys([file.path, *copies]):
            destroy(copy)
        return RetiredKey.read(note)

    def _first(self) -> str:
        """What to do before the last key that signs is retired."""
        if self.private is None:
            return "make and trust another first (`central keys new`), or say --force"
        return (
            "make another first (`central keys new --out FILE`), trust it, let keys.private name it, and retire this "
            f"one by its file, {self.private}; or say --force"
        )


def _told(instant: datetime) -> str:
    return iso(to_us(instant.replace(microsecond=0)))


def _keep(note: Path, line: str) -> None:
    """Note that a key is retired, before it is destroyed; a retirement that goes on finds its note."""
    make_folder(note.parent)
    try:
        if not note.exists():
            write_new(note, line.encode(), mode=0o644)
    except OSError as error:
        raise MetercastError(f"{note}: {error.strerror}") from error


def _ending(paths: list[Path], suffix: str) -> list[Path]:
    """Those that end so; a hidden one was never finished."""
    return [path for path in paths if path.suffix == suffix and not path.name.startswith(".")]


def _read(paths: list[Path]) -> tuple[list[KeyFile], list[str]]:
    files, unusable = [], []
    for path in paths:
        try:
            files.append(KeyFile.read(path))
        except MetercastError as error:
            unusable.append(str(error))
    return files, unusable


def _living(files: list[KeyFile], gone: set[str]) -> tuple[KeyFile, ...]:
    """Those not retired, each once, the oldest first."""
    by_id = {file.id: file for file in files if file.id not in gone}
    return tuple(sorted(by_id.values(), key=lambda file: (file.created, file.id)))


def _one_of(files: tuple[KeyFile, ...], named: str) -> KeyFile:
    found = {file.id: file for file in files if named and file.id.startswith(named)}
    if len(found) == 1:
        return next(iter(found.values()))
    what = "names several keys" if found else "names no key with a private part here"
    ids = ", ".join(sorted({file.id for file in files})) or "none"
    raise MetercastError(f"keys: {named!r} {what}; there are {ids}")
