"""What can still be read of a damaged state goes into a fresh one.

Invariants: the damaged files are only read; a batch of the outbox is kept only when its checksum holds, with the
content, number and epoch it had; every other row is kept only when its columns have the types, sizes and references
they should have (SQLite keeps no checksum of a page, so a flipped bit inside a number cannot be seen); numbers that
are places in a list of the edge's (meters, forms) are without holes afterwards.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edge.calibration import is_state
from edge.covariates import issue_from
from edge.pages import PAGE_BYTES, Pages, Row, log_of, read_log
from edge.standing import is_record
from shared.clock import LATEST_US
from shared.errors import MessageRefused
from shared.grid import KINDS, UNITS
from shared.messages import Uplink
from shared.standing import RECORD
from shared.topics import is_id

# Columns whose numbers stand for a row of another table, and those tables; each numbers its rows from 0.
_REFERENCES: Final = {"meter": "meters", "form": "forms"}
_LISTS: Final = tuple(_REFERENCES.values())
_FACTS_OF_AN_EPOCH: Final = ("epoch", "next_seq", "vouched", "recorded")
_DIGEST_BYTES_AT_MOST: Final = 64  # a waiting batch is longer: on a page the two tables' rows look alike
_GZIP: Final = b"\x1f\x8b"
SMALLEST_BYTES: Final = 512  # no SQLite page is smaller

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was carried over: rows by table, and the numbers of batches that were lost, where they can be known."""

    kept: Mapping[str, int]
    lost_batches: tuple[tuple[int, int], ...]


def rescue(damaged: Path, fresh: sqlite3.Connection) -> Rescued:
    """Copy every row that can be read and is credible into a database just created, in one transaction.

    A table is read as far as its tree leads. If that is not to a good end, its rows are looked for on every page.
    The epoch's facts stay behind. Raises sqlite3.Error and OSError of the fresh side only.
    """
    intake = Intake(fresh)
    fresh.execute("BEGIN IMMEDIATE")
    try:
        for names in (_LISTS, tuple(name for name in intake.tables if name not in _LISTS)):
            sick = _copy_by_tree(damaged, intake, [name for name in names if name in intake.tables])
            _copy_by_page(damaged, intake, sick)
        intake.drop_odd_blobs()
        fresh.execute("COMMIT")
    finally:
        if fresh.in_transaction:
            fresh.execute("ROLLBACK")
    return Rescued(intake.kept(), intake.lost_batches())


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that leaves the file and its log as they are; text comes as bytes, for it may be none."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=1.0)
    db.text_factory = bytes
    return db


def _copy_by_tree(damaged: Path, intake: Intake, names: Sequence[str]) -> list[str]:
    """Copy what SQLite finds; returns the tables that may hold more. Behind a damaged log it sees what was, not is."""
    # Beside a database that is empty or nearly so SQLite deletes the log; a page cut short it ends with zeros.
    size = damaged.stat().st_size if damaged.exists() else 0
    if size < SMALLEST_BYTES or size % PAGE_BYTES or read_log(log_of(damaged)).damaged:
        return list(names)
    try:
        db = connect_read_only(damaged)
    except sqlite3.Error:
        return list(names)
    with closing(db):
        for name in names:
            for content in _rows(db, name, intake.tables[name]):
                intake.take(name, content)
        return [name for name in names if not _is_whole(db, name)]


def _rows(db: sqlite3.Connection, name: str, ours: Table) -> Iterator[Content]:
    """The rows of a table up to the first that cannot be read, with the columns that both databases have."""
    try:
        held = [column.name for column in Table.of(db, name).columns if column.name in ours.names]
        if held:
            for row in db.execute(f"SELECT {', '.join(held)} FROM {name}"):
                yield dict(zip(held, row, strict=True))
    except sqlite3.Error:
        return


def _is_whole(db: sqlite3.Connection, name: str) -> bool:
    try:
        rows = db.execute(f"SELECT * FROM {name}")
        while rows.fetchmany(1000):
            pass
        return bool(db.execute(f"PRAGMA integrity_check({name})").fetchall() == [(b"ok",)])
    except sqlite3.Error:
        return False


def _copy_by_page(damaged: Path, intake: Intake, sick: Sequence[str]) -> None:
    intake.sick.update(sick)
    with closing(Pages(damaged)) as pages:
        for row in pages.rows() if sick else ():
            for name in sick:
                content = intake.tables[name].shaped(row)
                if content is not None:
                    intake.take(name, content)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as declared; `key` is its place in the primary key from 1, 0 when outside."""

    name: str
    kind: str
    needed: bool
    key: int

    def fits(self, value: object) -> bool:
        """Whether a stored value may be one of this column."""
        if value is None:
            return not self.needed
        if self.kind == "INTEGER":
            return isinstance(value, int)
        if self.kind == "REAL":
            return isinstance(value, (int, float)) and math.isfinite(value)
        return isinstance(value, bytes)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as declared; without a rowid its rows are stored with the key's columns first."""

    columns: tuple[Column, ...]
    has_rowid: bool

    @classmethod
    def of(cls, db: sqlite3.Connection, name: str) -> Table:
        """As the database has it; without columns when it has none of that name."""
        columns = tuple(
            Column(_text(column), _text(kind), bool(needed or key), key)
            for _place, column, kind, needed, _default, key in db.execute(f"PRAGMA table_info({name})")
        )
        listed = db.execute("SELECT wr FROM pragma_table_list WHERE name = ? AND schema = 'main'", (name,)).fetchone()
        return cls(columns, listed is not None and not listed[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def key(self) -> str:
        """The first column of its primary key."""
        return next(column.name for column in self.columns if column.key)

    def shaped(self, row: Row) -> Content | None:
        """A stored row as one of this table, None when it has another shape."""
        if (row.key is not None) != self.has_rowid or len(row.values) != len(self.columns):
            return None
        stored = self.columns
        if row.key is None:
            stored = tuple(sorted(self.columns, key=lambda column: column.key or len(self.columns) + 1))
        content: Content = dict(zip((column.name for column in stored), row.values, strict=True))
        if row.key is not None and content[self.key] is None:  # INTEGER PRIMARY KEY is the rowid, and stored as none
            content[self.key] = row.key
        return content if self.fits(content) else None

    def fits(self, content: Content) -> bool:
        """Whether every column may hold what it holds."""
        return all(column.fits(content.get(column.name)) for column in self.columns)


class Intake:
    """Takes rows into a fresh state: only credible ones, of each key the first."""

    def __init__(self, fresh: sqlite3.Connection) -> None:
        self._fresh = fresh
        self.tables = {name: Table.of(fresh, name) for name in table_names(fresh)}
        self._insert = {name: _insert_into(name, table) for name, table in self.tables.items()}
        self.sick: set[str] = set()
        self._places: dict[str, dict[int, int]] = {name: {} for name in _LISTS}
        self._covered: list[tuple[int, int]] = []  # numbers of the old epoch that batches here stand for
        self._seen: list[int] = []  # and numbers it must have had
        self._next_seq = 0

    def take(self, name: str, content: Content) -> None:
        """Put one row in, unless it is not credible or its key is there already."""
        table = self.tables[name]
        try:
            if not table.fits(content):
                return
            told = {column.name: _told(column, content.get(column.name)) for column in table.columns}
        except UnicodeDecodeError:
            return
        if not _CREDIBLE.get(name, _any)(told):
            return
        if name == "facts" and told["name"] in _FACTS_OF_AN_EPOCH:
            self._note_fact(told)
        elif name == "outbox":
            self._take_batch(told)
        elif name in _LISTS:
            self._take_place(name, told)
        elif self._refers(told):
            self._put(name, told)

    def _put(self, name: str, content: Content) -> bool:
        return self._fresh.execute(self._insert[name], list(content.values())).rowcount == 1

    def _take_place(self, name: str, content: Content) -> None:
        """A row of a list gets the next place; what refers to it by its old one is put right in `_refers`."""
        places, key = self._places[name], self.tables[name].key
        if content[key] not in places and self._put(name, {**content, key: len(places)}):
            places[content[key]] = len(places)

    def _refers(self, content: Content) -> bool:
        """Put the new places of what the row refers to into it; returns whether all of that is there."""
        for column, name in _REFERENCES.items():
            if column in content and name in self.tables:
                content[column] = self._places[name].get(content[column])
        return all(content[column] is not None for column in _REFERENCES if column in content)

    def _take_batch(self, content: Content) -> None:
        body: bytes = content["body"]
        if not body.startswith(_GZIP):
            return
        try:
            batch = Uplink.decompress(body, "the outbox")
        except MessageRefused:
            self._seen.append(content["seq"])
            return
        gaps = batch.kinds.get("gaps", {})
        first = min((int(number) for number in gaps.get("from_seq", ())), default=batch.seq)
        self._covered.append((min(first, batch.seq), batch.seq))
        self._put("outbox", {**content, "seq": batch.seq})

    def _note_fact(self, content: Content) -> None:
        if content["name"] == "next_seq" and content["value"].isdecimal():
            self._next_seq = int(content["value"])

    def lost_batches(self) -> tuple[tuple[int, int], ...]:
        """Ranges of numbers that waited and are not here: between those that are, or seen without their content.

        Batches leave the outbox in order, so a hole is damage. How far it went on before the first one found is not
        known; how far behind the last one is, if its table is damaged and the next number was found.
        """
        ends = self._seen + [last for _first, last in self._covered]
        if "outbox" in self.sick and ends:
            ends.append(self._next_seq - 1)
        if not ends:
            return ()
        begins = min([*self._seen, *(first for first, _last in self._covered)])
        edges = [(begins - 1, begins - 1), *sorted(self._covered), (max(ends) + 1, max(ends) + 1)]
        return tuple((last + 1, first - 1) for (_, last), (first, _) in pairwise(edges) if last + 1 < first)

    def drop_odd_blobs(self) -> None:
        """Blobs of one table are of one length, but for the outbox's: those of a rarer length are damaged."""
        for name, table in self.tables.items():
            for column in (column.name for column in table.columns if column.kind == "BLOB" and name != "outbox"):
                lengths = f"SELECT length({column}) FROM {name} GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
                self._fresh.execute(f"DELETE FROM {name} WHERE length({column}) <> ({lengths})")

    def kept(self) -> dict[str, int]:
        """Rows by table."""
        return {name: self._fresh.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in self.tables}


def table_names(db: sqlite3.Connection) -> list[str]:
    """The tables of a database."""
    found = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")
    return [_text(name) for (name,) in found]


def _insert_into(name: str, table: Table) -> str:
    marks = ", ".join("?" * len(table.columns))
    return f"INSERT OR IGNORE INTO {name}({', '.join(table.names)}) VALUES({marks})"


def _any(_content: Content) -> bool:
    return True


def _is_form(content: Content) -> bool:
    return content["unit"] in UNITS and 0 <= content["kind"] < len(KINDS)


def _is_issue(content: Content) -> bool:
    try:
        issue_from((content["name"], content["issued_us"], content["start_us"], content["step_us"], content["said"]))
    except (ValueError, TypeError, OverflowError):
        return False
    return True


_CREDIBLE: Final[dict[str, Callable[[Content], bool]]] = {
    "arrivals": lambda content: len(content["digest"]) <= _DIGEST_BYTES_AT_MOST,
    "calibration": lambda content: is_state(content["source"], content["leads"], content["state"]),
    "covariates": _is_issue,
    "meters": lambda content: is_id(content["name"]),
    "forms": _is_form,
    "readings": lambda content: bool(0 <= content["ts_us"] < LATEST_US),
    "standing": lambda content: is_record(*(content[name] for name in RECORD.names or ())),
}


def _told(column: Column, value: object) -> object:
    """A stored value as the column's own type; raises UnicodeDecodeError."""
    if column.kind == "TEXT" and isinstance(value, bytes):
        return value.decode()
    return float(value) if column.kind == "REAL" and isinstance(value, int) else value


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
