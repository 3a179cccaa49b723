"""A state that is damaged, half gone or lost: seen at start, put aside, and built anew from what is left of it.

The whole database is checked at every start, not only after a kill: a disk rots however kindly the edge was stopped,
and the check costs about as much as reading the file, most of which loading the state reads anyway.

Invariants: `open_or_rescue` leaves a usable database whatever it finds, or raises StateError because the folder cannot
be used; nothing damaged is deleted before its rescue has ended; killed at any instant, the next start goes on with the
rescue, and a rescue that keeps killing the process is given up; numbers of an epoch that may have been used for
something else are never used again.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from edge.pages import LOG_SUFFIX, log_of, read_log
from edge.rescue import SMALLEST_BYTES, Rescued, Table, connect_read_only, rescue, table_names
from shared.durable import sync
from shared.errors import MessageRefused, StateError
from shared.messages import MAX_UPLINK_JSON_BYTES, inflate

log = logging.getLogger(__name__)

DATABASE: Final = "edge.sqlite"
QUARANTINES_AT_MOST: Final = 3
ATTEMPTS_AT_MOST: Final = 3
_COMPANIONS: Final = (LOG_SUFFIX, "-shm", "-journal")
_QUARANTINE: Final = "quarantine-"
_BUILDING: Final = "rescue.sqlite"
_MARK: Final = "edge.mark"  # a state was begun here; what it says is whether it was closed
_RUNNING: Final = "running\n"
_CLOSED: Final = "closed\n"
_REASON: Final = "REASON.txt"
_RESCUED: Final = "RESCUED.txt"
_ATTEMPTS: Final = "attempts"
_VERSIONS_AT_MOST: Final = 1000

# Errors of SQLite that tell of a file; all others tell of rights, locks, memory or room, and nothing is put aside.
_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
    }
)
_DAMAGED_READS: Final = frozenset(
    {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
)

Fill = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True, slots=True)
class Rescue:
    """What was found wrong with a state, and what is left of it.

    `damaged`: put aside in `quarantined`, the `kept` rows (by table) carried over. `lost`: there was a state here, and
    nothing is left. `cut`: the database is whole, but lacks what was committed last; nothing was put aside.
    `lost_batches` are ranges of the old epoch's numbers that waited for central, as far as they can be known.
    """

    found: Literal["damaged", "lost", "cut"]
    reason: str
    quarantined: Path | None = None
    kept: Mapping[str, int] = field(default_factory=dict)
    lost_batches: tuple[tuple[int, int], ...] = ()

    @property
    def detail(self) -> str:
        """One line for the log and for an event."""
        parts = [f"state {self.found}: {self.reason}"]
        if self.quarantined is not None:
            kept = ", ".join(f"{count} {table}" for table, count in sorted(self.kept.items()) if count)
            parts += [f"put aside in {self.quarantined.name}", f"kept {kept or 'nothing'}"]
        if self.lost_batches:
            numbers = ", ".join(f"{first} to {last}" for first, last in self.lost_batches)
            parts.append(f"lost uplink batches {numbers}")
        return "; ".join(parts)


def open_or_rescue(folder: Path, create: Fill, renew: Fill, *, now_text: str) -> Rescue | None:
    """Leave a usable database in `folder`; returns what had to be mended, None for a whole state or a first start.

    `create` fills an empty database: tables, user_version, a new epoch. `renew` begins a new epoch in a filled one and
    numbers the waiting batches from 1. The caller holds the folder's lock, and ends with `close`. Raises StateError.
    """
    try:
        mended = _opened(folder, create, renew, now_text)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"edge.state_dir {folder}: {error}") from error
    with suppress(OSError):  # on a full disk the edge starts all the same
        _mark(folder, _RUNNING)
    if mended is not None:
        log.error("state mended", extra={"found": mended.found, "detail": mended.detail})
    return mended


def close(db: sqlite3.Connection, folder: Path) -> None:
    """Close a state's connection so that the next start knows that no commit is missing; never raises.

    Else a log that was deleted and a log that SQLite removed on closing look alike.
    """
    with suppress(sqlite3.Error, OSError):
        (busy, *_frames) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            _mark(folder, _CLOSED)
    with suppress(sqlite3.Error):
        db.close()


def _opened(folder: Path, create: Fill, renew: Fill, now_text: str) -> Rescue | None:
    path = folder / DATABASE
    aside = _unfinished(folder)
    if aside is not None and not path.exists():
        _move(folder, aside)
        return _rebuilt(aside, folder, create, renew)
    if aside is not None:
        _finish(aside, "the rescue ended, and the process with it")
    cut = _read(folder / _MARK) == _RUNNING and _has_log_mode(path) and not log_of(path).exists()
    complaint = examine(path) or _difference(path, create)
    if complaint:
        return _rebuilt(quarantine(folder, now_text, complaint), folder, create, renew)
    if _is_blank(path):
        lost = _has_traces(folder)
        _build(folder, create)
        return Rescue("lost", "the database is gone") if lost else None
    if not cut:
        return None
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        renew(db)
    return Rescue("cut", "the edge was killed, and its write-ahead log is gone")


def examine(path: Path) -> str:
    """What is wrong with a state database, in a sentence, or "" when it can be used or there is none; changes nothing.

    Raises StateError when that cannot be told: no right to read, no memory, locked.
    """
    try:
        held = read_log(log_of(path))
        if held.damaged:
            return f"frame {held.whole + 1} of the write-ahead log is damaged, and later commits follow it"
        if _size(path) < SMALLEST_BYTES and held.page:
            return "the database is empty, its write-ahead log is not"
        if not _size(path):
            return ""
        with closing(connect_read_only(path)) as db:
            return _first_complaint(db)
    except sqlite3.Error as error:
        if not _is_damage(error):
            raise StateError(f"{path}: {error}") from error
        return f"{error}"
    except OSError as error:
        raise StateError(f"{path}: {error}") from error


def _first_complaint(db: sqlite3.Connection) -> str:
    # Not quick_check: rows of another table's page, or out of order, pass it, and it is hardly quicker here.
    ((first,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if first != b"ok":
        return " ".join(first.decode(errors="replace").split())[:200]
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = table_names(db)
    if tables and not 0 < version < _VERSIONS_AT_MOST:
        return f"schema version {version} was never one"
    return _damaged_batch(db) if "outbox" in tables else ""


def _damaged_batch(db: sqlite3.Connection) -> str:
    """The first waiting batch whose own checksum does not hold; SQLite has none, and central would never take it."""
    for seq, body in db.execute("SELECT seq, body FROM outbox"):
        try:
            inflate(body, MAX_UPLINK_JSON_BYTES, f"uplink batch {seq}")
        except MessageRefused as reason:
            return str(reason)
    return ""


def _is_damage(error: sqlite3.Error) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _DAMAGE or code in _DAMAGED_READS


def _difference(path: Path, create: Fill) -> str:
    """What in a state of our own schema version is not as we make it; other versions are the caller's to judge."""
    if _is_blank(path):
        return ""
    with closing(connect_read_only(path)) as held, closing(sqlite3.connect(":memory:", isolation_level=None)) as ours:
        create(ours)
        (version,), (own,) = (db.execute("PRAGMA user_version").fetchone() for db in (held, ours))
        other = next((name for name in table_names(ours) if Table.of(held, name) != Table.of(ours, name)), None)
    if version == own:
        return f"table {other} is not as schema version {own} has it" if other else ""
    return "" if other else f"schema version {version} with the tables of version {own}"


def _is_blank(path: Path) -> bool:
    """Whether there is no database, or one without tables."""
    if not _size(path):
        return True
    with closing(connect_read_only(path)) as db:
        return not table_names(db)


def _has_log_mode(path: Path) -> bool:
    """Whether the file's header says that a write-ahead log goes with it; one just built has none yet."""
    if _size(path) < SMALLEST_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def quarantine(folder: Path, now_text: str, reason: str) -> Path:
    """Move the database's files into a folder of their own, with the reason; the oldest beyond a few are deleted."""
    held = _quarantines(folder)
    when = "".join(letter for letter in now_text if letter.isalnum())
    aside = folder / f"{_QUARANTINE}{when}-{_number(held[-1]) + 1 if held else 1}"
    aside.mkdir()
    (aside / _REASON).write_text(f"{reason}\n{now_text}\n", encoding="utf-8")
    _move(folder, aside)
    log.error("state quarantined", extra={"reason": reason, "folder": str(aside)})
    for old in [*held, aside][:-QUARANTINES_AT_MOST]:
        shutil.rmtree(old, ignore_errors=True)
        log.warning("old quarantine deleted", extra={"folder": str(old)})
    return aside


def _move(folder: Path, aside: Path) -> None:
    """The database goes first: while it is in its place, a quarantine is either not begun or its rescue has ended."""
    for suffix in ("", *_COMPANIONS):
        with suppress(FileNotFoundError):
            (folder / (DATABASE + suffix)).rename(aside / (DATABASE + suffix))
    sync(aside)
    sync(folder)


def _rebuilt(aside: Path, folder: Path, create: Fill, renew: Fill) -> Rescue:
    """Build the database anew from what was put aside; after too many attempts, from nothing."""
    reason = _read(aside / _REASON).partition("\n")[0]
    attempts = _size(aside / _ATTEMPTS)
    if attempts >= ATTEMPTS_AT_MOST:
        _build(folder, create)
        _finish(aside, f"given up: {attempts} rescues did not end")
        return Rescue("lost", f"{reason}; {attempts} rescues did not end", aside)
    (aside / _ATTEMPTS).write_text("." * (attempts + 1), encoding="utf-8")
    carried: list[Rescued] = []

    def fill(db: sqlite3.Connection) -> None:
        carried.append(rescue(aside / DATABASE, db))
        renew(db)

    try:
        _build(folder, create, fill)
    except (OSError, sqlite3.Error, StateError):
        (aside / _ATTEMPTS).write_text(
            "." * attempts, encoding="utf-8"
        )  # told, not died of: a full disk may take its time
        raise
    mended = Rescue("damaged", reason, aside, carried[0].kept, carried[0].lost_batches)
    _finish(aside, mended.detail)
    return mended


def _build(folder: Path, create: Fill, fill: Fill | None = None) -> None:
    """Make a database beside its place and move it there whole, so that a half-made one never stands in it."""
    building = folder / _BUILDING
    for suffix in ("", *_COMPANIONS):
        building.with_name(building.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(building, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        create(db)
        if fill is not None:
            fill(db)
    sync(building)
    for suffix in _COMPANIONS:
        (folder / (DATABASE + suffix)).unlink(missing_ok=True)
    building.replace(folder / DATABASE)
    sync(folder)


def _has_traces(folder: Path) -> bool:
    """Whether a state was here before. The lock is no trace: whoever asks has just made it."""
    models = folder / "models"
    return (folder / _MARK).exists() or bool(_quarantines(folder)) or (models.is_dir() and any(models.iterdir()))


def _quarantines(folder: Path) -> list[Path]:
    """All quarantines, oldest first by number: the clock may have been anywhere."""
    return sorted((path for path in folder.glob(f"{_QUARANTINE}*-*") if path.is_dir()), key=_number)


def _number(aside: Path) -> int:
    last = aside.name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _unfinished(folder: Path) -> Path | None:
    """The newest quarantine, when its rescue has not ended."""
    newest = next(iter(_quarantines(folder)[-1:]), None)
    return None if newest is None or (newest / _RESCUED).exists() else newest


def _finish(aside: Path, detail: str) -> None:
    (aside / _RESCUED).write_text(f"{detail}\n", encoding="utf-8")
    (aside / _ATTEMPTS).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _mark(folder: Path, text: str) -> None:
    """Say on disk, so that a power cut leaves it, whether the state is in use."""
    path = folder / _MARK
    if _read(path) != text:
        path.write_text(text, encoding="utf-8")
        sync(path)
        sync(folder)
