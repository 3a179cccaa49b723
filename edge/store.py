"""The edge's state on disk: SQLite, one transaction per batch, synced before anything is acknowledged.

Invariants: `commit` is all or nothing and on disk when it returns; what `load_site` reads back is what the core held
when its last commit was made. Tables are in the order of time, not of meters: what a batch or an hour writes for a
thousand meters then lies on a few pages, not on a thousand. `readings` is a log, of which a later row about the same
instant counts; it is written anew from memory when most of it is stale.
"""

from __future__ import annotations

import fcntl
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, Final

import numpy as np

from edge.changes import Changes
from edge.dialects.native import Reading
from edge.forms import Form
from edge.salvage import DATABASE, close, open_or_rescue
from edge.scoring import Issued, Scoreboard
from edge.site import SiteState
from edge.standing import is_record
from edge.window import NEVER, Ints
from shared.clock import iso
from shared.errors import MessageRefused, StateDamaged, StateError
from shared.grid import KINDS, Flag
from shared.messages import GAP_COLUMNS, Uplink, columns_of
from shared.standing import RECORD

SCHEMA_VERSION: Final = 3
REWRITTEN_FROM: Final = 50_000  # rows in the log of readings
GAP_METERS_AT_MOST: Final = 5000  # told one by one in a gap entry
# What stands in a gap's `meter_id` where it is no meter: none of these is a meter's id.
OTHERS: Final = "*"
LETTERS: Final = "*deadletter"
UNREADABLE: Final = "*unreadable"
COVARIATES: Final = "*covariates"
CHECKPOINT_PAGES: Final = 4000  # 16 MB of log between two checkpoints, each of which waits for the disk
_TABLES: Final = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meters(
    row INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, closed INTEGER NOT NULL, settled_us INTEGER NOT NULL,
    latest_us INTEGER NOT NULL, issued INTEGER NOT NULL, delivered INTEGER NOT NULL, retired INTEGER NOT NULL);
CREATE TABLE forms(
    form INTEGER PRIMARY KEY, unit TEXT NOT NULL, kind INTEGER NOT NULL, period_us INTEGER NOT NULL,
    quality TEXT NOT NULL);
CREATE TABLE readings(
    place INTEGER PRIMARY KEY, meter INTEGER NOT NULL, ts_us INTEGER NOT NULL, value REAL NOT NULL,
    form INTEGER NOT NULL);
CREATE TABLE history(day INTEGER NOT NULL, meter INTEGER NOT NULL, load_kw BLOB NOT NULL, PRIMARY KEY(day, meter))
    WITHOUT ROWID;
CREATE TABLE issued(
    origin INTEGER NOT NULL, role INTEGER NOT NULL, meter INTEGER NOT NULL, spread_kw BLOB NOT NULL,
    rung INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY(origin, role, meter)) WITHOUT ROWID;
CREATE TABLE calibration(
    source INTEGER NOT NULL, meter INTEGER NOT NULL, leads INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY(source, meter)) WITHOUT ROWID;
CREATE TABLE standing(
    meter INTEGER PRIMARY KEY, version INTEGER NOT NULL, down INTEGER NOT NULL, evidence REAL NOT NULL,
    champion_kw REAL NOT NULL, naive_kw REAL NOT NULL);
CREATE TABLE arrivals(mid INTEGER PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE outbox(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
# Tables that states of this schema may lack: they are made at the next start.
_ADDED: Final = """
CREATE TABLE IF NOT EXISTS covariates(
    name TEXT NOT NULL, issued_us INTEGER NOT NULL, start_us INTEGER NOT NULL, step_us INTEGER NOT NULL,
    said TEXT NOT NULL, PRIMARY KEY(name, issued_us, start_us)) WITHOUT ROWID;
"""


def _locked(folder: Path) -> IO[bytes]:
    """The folder's lock, held until closed or killed: two edges on one state would lose batches of each other."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StateError(f"edge.state_dir {folder}: in use by another edge") from error
    return lock


def new_epoch() -> str:
    """A random id for an epoch of the ledger."""
    return secrets.token_hex(8)


class Store:
    """The state database of one edge."""

    def __init__(self, folder: Path, now_text: str) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self.mended = open_or_rescue(folder, create_state, lambda db: _renumber(db, new_epoch()), now_text=now_text)
            self._db = sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._logged = self._held = 0  # readings in the log, and held when it was last written anew
            self._check_version(folder)
            self._db.executescript(_ADDED)
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"edge.state_dir {folder}: {error}") from error

    def _check_version(self, folder: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            self.close()
            raise StateError(f"edge.state_dir {folder}: schema {version} was written by another version of metercast")

    def close(self) -> None:
        """Close the database and let another edge have the folder."""
        close(self._db, self._folder)
        self._lock.close()

    @property
    def facts(self) -> dict[str, str]:
        """Named single values: epoch, clock, models."""
        return dict(self._db.execute("SELECT name, value FROM facts"))

    def belong_to(self, *, site: str, step_s: int, leads: Sequence[int], quantiles: Sequence[float]) -> None:
        """Make sure that this state is of this site, step, scored leads and outer quantiles; a new one becomes so.

        Raises StateError for another site or step. Other leads cost the scores that were pending, and begin calibration
        and standing anew. So do other outer quantiles, but standing, which compares medians, goes on.
        """
        held = self.facts
        for name, key, value in (("site", "site", site), ("step_s", "grid.step in seconds", str(step_s))):
            if held.get(name, value) != value:
                raise StateError(
                    f"edge.state_dir {self._folder}: was begun with {key} {held[name]}, not {value}; "
                    "go back to that, or set another edge.state_dir"
                )
        told = {"leads": ",".join(map(str, leads)), "outer": f"{quantiles[0]},{quantiles[-1]}"}
        others = {name for name, value in told.items() if held.get(name, value) != value}
        for table in ("issued", "calibration") if others else ():
            self._db.execute(f"DELETE FROM {table}")
        if "leads" in others:
            self._db.execute("DELETE FROM standing")
        facts = {"site": site, "step_s": str(step_s), **told}
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES(?, ?)", facts.items())

    @property
    def forms(self) -> list[Form]:
        """The forms of the readings that are kept, by number."""
        rows = self._db.execute("SELECT unit, kind, period_us, quality FROM forms ORDER BY form")
        return [Form(unit, KINDS[kind], period_us, quality) for unit, kind, period_us, quality in rows]

    @property
    def arrivals(self) -> dict[int, bytes]:
        """Packet id → digest of committed payloads without `ts`."""
        return dict(self._db.execute("SELECT mid, digest FROM arrivals"))

    def commit(self, changes: Changes, site: SiteState) -> None:
        """Write everything in one transaction; raises StateError when it cannot, and then nothing is written."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._write(changes, site)
            logged = self._logged + len(changes.readings)
            if logged > max(REWRITTEN_FROM, 2 * self._held):
                logged = self._held = self._rewrite_readings(site)
            self._db.execute("COMMIT")
            self._logged = logged
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            kind = StateDamaged if _is_damage(error) else StateError
            raise kind(f"the state database cannot be written: {error}") from error

    def _write(self, changes: Changes, site: SiteState) -> None:
        many = self._db.executemany
        many("INSERT OR REPLACE INTO facts VALUES(?, ?)", changes.facts.items())
        many("INSERT OR REPLACE INTO forms VALUES(?,?,?,?,?)", map(_form_row, changes.forms))
        many("INSERT INTO readings(meter, ts_us, value, form) VALUES(?,?,?,?)", changes.readings)
        many("INSERT OR REPLACE INTO history VALUES(?,?,?)", _history_rows(changes, site))
        many("INSERT OR REPLACE INTO issued VALUES(?,?,?,?,?,?)", _issued_rows(changes.issued))
        if changes.issued:
            self._db.execute("DELETE FROM issued WHERE origin < ?", (_oldest_issued(site),))
        many("INSERT OR REPLACE INTO calibration VALUES(?,?,?,?)", _calibration_rows(changes, site))
        many("INSERT OR REPLACE INTO standing VALUES(?,?,?,?,?,?)", _standing_rows(changes, site))
        gone = "DELETE FROM covariates WHERE name = ? AND issued_us = ? AND start_us = ?"
        many(gone, changes.covariates_dropped)  # first: what was let go of may have come again in the same batch
        many("INSERT OR REPLACE INTO covariates VALUES(?,?,?,?,?)", changes.covariates)
        many("INSERT OR REPLACE INTO outbox VALUES(?, ?)", changes.outbox)
        many("INSERT OR REPLACE INTO arrivals VALUES(?, ?)", changes.arrivals.items())
        many("DELETE FROM outbox WHERE seq = ?", ((seq,) for seq in changes.acked))
        many("INSERT OR REPLACE INTO meters VALUES(?,?,?,?,?,?,?,?)", (_meter_row(site, row) for row in changes.meters))
        many("DELETE FROM history WHERE day = ? AND meter = ?", _left_days(changes, site))

    def _rewrite_readings(self, site: SiteState) -> int:
        """Write the log of readings anew: what the meters hold. Returns how many rows that is."""
        self._db.execute("DELETE FROM readings")
        rows = (
            row for meter in site.meters.by_row for row in zip(repeat(meter.row), meter.ts_us, meter.value, meter.form)
        )
        self._db.executemany("INSERT INTO readings(meter, ts_us, value, form) VALUES(?,?,?,?)", rows)
        return sum(len(meter.ts_us) for meter in site.meters.by_row)

    def outbox_body(self, seq: int) -> bytes | None:
        """One waiting batch; raises StateError."""
        try:
            found = self._db.execute("SELECT body FROM outbox WHERE seq = ?", (seq,)).fetchone()
        except sqlite3.Error as error:
            raise StateError(f"the outbox cannot be read: {error}") from error
        return found[0] if found else None

    def outbox_index(self) -> list[tuple[int, int]]:
        """(seq, bytes) of all waiting batches in order."""
        return list(self._db.execute("SELECT seq, length(body) FROM outbox ORDER BY seq"))

    def renew_epoch(self, epoch: str) -> list[tuple[int, int]]:
        """Number the waiting batches from 1 under `epoch`, in one transaction; returns (seq, bytes) of them."""
        _renumber(self._db, epoch)
        return self.outbox_index()

    def make_gap(self, first: int, last: int, *, site: str, reason: str, at_us: int) -> int:
        """Put one gap entry, numbered `last`, in the place of the batches `first` … `last`; returns its size.

        One transaction; raises StateError. Batches that cannot be read any more are counted as lost without a number.
        """
        lost: Counter[str] = Counter()
        from_seq = first
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for (body,) in self._db.execute("SELECT body FROM outbox WHERE seq BETWEEN ? AND ?", (first, last)):
                readings, earlier = _given_up(body)
                lost.update(readings)
                from_seq = min(from_seq, *earlier) if earlier else from_seq
            batch = _gap(site, self.facts["epoch"], (from_seq, last), lost, reason, at_us)
            self._db.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
            self._db.execute("INSERT INTO outbox VALUES(?, ?)", (last, batch))
            self._db.execute("COMMIT")
        except (sqlite3.Error, KeyError) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StateError(f"no gap can be written into the outbox: {error}") from error
        return len(batch)

    def load_site(self, site: SiteState) -> None:
        """Fill an empty site with what the last commit left; raises StateError alone."""
        try:
            for line in self._db.execute("SELECT * FROM meters ORDER BY row"):
                _load_meter(site, line)
            for row, *reading in self._db.execute("SELECT meter, ts_us, value, form FROM readings ORDER BY place"):
                meter = site.meters.by_row[row]
                in_order = not meter.ts_us or reading[0] > meter.ts_us[-1]
                (meter.append if in_order else meter.keep)(Reading(*reading), site.forms)
                self._logged += 1
            for meter in site.meters.by_row:
                site.settled_us[meter.row] = meter.settled_us
            for day, lines in groupby(self._db.execute("SELECT * FROM history ORDER BY day"), key=itemgetter(0)):
                _load_day(site, day, list(lines))
            site.covariates.load(self._db.execute("SELECT * FROM covariates"))
            rows = self._db.execute("SELECT * FROM issued ORDER BY origin, role")
            for (origin, role), lines in groupby(rows, key=itemgetter(0, 1)):
                # What lies beyond was issued by a clock that ran ahead, and would take the place of what came before.
                own = [line for line in lines if origin <= site.issued[line[2]]]
                if own:
                    site.scoreboard.put(_issued_from(origin, role, own, site.scoreboard))
            self._load_learned(site)
        except (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise StateError(f"the state database cannot be read: {error}") from error

    def _load_learned(self, site: SiteState) -> None:
        """What was learned of meters; an odd row costs that, which comes again with the truths, and not the start."""
        rows = self._db.execute("SELECT source, meter, state FROM calibration ORDER BY source, meter")
        for source, lines in groupby(rows, key=itemgetter(0)):
            site.calibration.unpack(source, [(row, state) for _source, row, state in lines if _is_row(row, site)])
        records = self._db.execute("SELECT meter, version, down, evidence, champion_kw, naive_kw FROM standing")
        for row, *record in records.fetchall():
            if not _is_row(row, site) or not is_record(*record):
                continue
            site.standing.put(np.array([row]), np.array([tuple(record)], dtype=RECORD))


def _is_row(row: object, site: SiteState) -> bool:
    return isinstance(row, int) and 0 <= row < site.rows


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_sound(body: bytes) -> bool:
    """Whether a batch reads back as it was written: gzip carries a checksum."""
    try:
        Uplink.decompress(body, "the outbox")
    except MessageRefused:
        return False
    return True


def create_state(db: sqlite3.Connection) -> None:
    """Make the tables of an empty state, in a new epoch."""
    epoch = f"INSERT INTO facts VALUES('epoch', '{new_epoch()}');"
    db.executescript(f"BEGIN; {_TABLES} {_ADDED} {epoch} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


def _renumber(db: sqlite3.Connection, epoch: str) -> None:
    """Begin `epoch` and number the waiting batches from 1, in one transaction; raises StateError."""
    waiting = db.execute("SELECT seq FROM outbox ORDER BY seq").fetchall()
    try:
        db.execute("BEGIN IMMEDIATE")
        for number, (seq,) in enumerate(waiting, start=1):
            (body,) = db.execute("SELECT body FROM outbox WHERE seq = ?", (seq,)).fetchone()
            # Negative until all are done: a new number may be another batch's old one.
            db.execute(
                "UPDATE outbox SET seq = ?, body = ? WHERE seq = ?", (-number, _renumbered(body, epoch, number), seq)
            )
        db.execute("UPDATE outbox SET seq = -seq")
        numbers = {"next_seq": str(len(waiting) + 1), "vouched": str(len(waiting)), "recorded": "0,0"}
        facts = {"epoch": epoch, **numbers, "restore": "wanted"}
        db.executemany("INSERT OR REPLACE INTO facts VALUES(?, ?)", facts.items())
        db.execute("COMMIT")
    except (sqlite3.Error, MessageRefused) as error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise StateError(f"the outbox cannot be numbered anew: {error}") from error


def _renumbered(body: bytes, epoch: str, number: int) -> bytes:
    """A batch under its new name; of a gap entry only its own number means anything in the new epoch."""
    batch = Uplink.decompress(body, "the outbox")
    gaps = batch.kinds.get("gaps")
    if gaps:
        rows = len(gaps["to_seq"])
        gaps |= {"from_seq": [number] * rows, "to_seq": [number] * rows}
    return batch.model_copy(update={"epoch": epoch, "seq": number}).compress()


def _given_up(body: bytes) -> tuple[dict[str, int], list[int]]:
    """How many readings of each meter a batch holds, and where gaps in it begin."""
    try:
        kinds = Uplink.decompress(body, "the outbox").kinds
    except MessageRefused:
        return {UNREADABLE: 1}, []
    counts = Counter(kinds.get("readings", {}).get("meter_id", []))
    counts[COVARIATES] += len(kinds.get("covariates", {}).get("name", []))
    counts[LETTERS] += sum(kinds.get("dead_letters", {}).get("count", []))
    gaps = kinds.get("gaps", {})
    for meter, readings in zip(gaps.get("meter_id", []), gaps.get("readings", []), strict=True):
        counts[meter] += readings
    return +counts, gaps.get("from_seq", [])


def _gap(site: str, epoch: str, span: tuple[int, int], lost: Counter[str], reason: str, at_us: int) -> bytes:
    """The batch that stands for those of `span`; of very many meters the least are told together."""
    told = lost.most_common(GAP_METERS_AT_MOST)
    rest = lost.total() - sum(count for _meter, count in told)
    rows = [(*span, meter, count, reason, at_us) for meter, count in [*told, *([(OTHERS, rest)] if rest else [])]]
    rows = rows or [(*span, OTHERS, 0, reason, at_us)]
    kinds = {"gaps": columns_of(GAP_COLUMNS, rows)}
    return Uplink(site=site, epoch=epoch, seq=span[1], at=iso(at_us), kinds=kinds).compress()


def _form_row(entry: tuple[int, Form]) -> tuple[object, ...]:
    number, form = entry
    return number, form.unit, form.code, form.period_us, form.quality


def _meter_row(site: SiteState, row: int) -> tuple[object, ...]:
    meter = site.meters.by_row[row]
    numbers = (site.window.closed, site.issued, site.delivered)
    closed, issued, delivered = (int(array[row]) for array in numbers)
    return row, meter.name, closed, meter.settled_us, meter.latest_us, issued, delivered, int(site.retired[row])


def _left_days(changes: Changes, site: SiteState) -> Iterator[tuple[int, int]]:
    """(day, meter) of the days that have left the ring with what was closed: at most all that it held before."""
    width, per_day = site.window.width, site.steps_per_day
    for row, first, count in changes.closed:
        before, now = ((number - width) // per_day for number in (first, first + count))
        yield from ((day, row) for day in range(before, min(now, first // per_day + 1)))


def _history_rows(changes: Changes, site: SiteState) -> Iterator[tuple[int, int, bytes]]:
    """Each touched day of the ring as one blob, loads then flags; slots not yet closed are NaN."""
    per_day, window = site.steps_per_day, site.window
    touched: dict[int, set[int]] = {}
    for row, first, count in changes.closed:
        in_ring = max(first, int(window.closed[row]) - window.width)
        for day in range(in_ring // per_day, (first + count - 1) // per_day + 1):
            touched.setdefault(day, set()).add(row)
    for day, rows in touched.items():
        place = np.fromiter(rows, dtype=np.int64, count=len(rows))[:, None]
        numbers = np.arange(day * per_day, (day + 1) * per_day)
        closed = window.closed[place]
        held = (numbers < closed) & (numbers >= closed - window.width)
        load_kw = np.where(held, window.load_kw[place, numbers % window.width], np.float32(np.nan))
        flags = np.where(held, window.flags[place, numbers % window.width], np.uint8(Flag.GAP))
        for row, loads, told in zip(rows, load_kw, flags, strict=True):
            yield day, row, loads.tobytes() + told.tobytes()


def _load_meter(site: SiteState, line: tuple[int, str, int, int, int, int, int, int]) -> None:
    row, name, closed, settled_us, latest_us, issued, delivered, retired = line
    meter = site.add_meter(name)
    if meter.row != row:
        raise ValueError(f"meter {name} stands in row {row}, expected {meter.row}")
    meter.settled_us, meter.latest_us = settled_us, latest_us
    site.window.closed[row], site.issued[row], site.delivered[row] = closed, issued, delivered
    site.retired[row] = bool(retired)


def _load_day(site: SiteState, day: int, lines: list[tuple[int, int, bytes]]) -> None:
    """Put one day of many meters, as `_history_rows` wrote it, into the ring."""
    window, per_day = site.window, site.steps_per_day
    rows = np.array([row for _day, row, _blob in lines], dtype=np.int64)[:, None]
    blobs = np.frombuffer(b"".join(blob for _day, _row, blob in lines), dtype=np.uint8).reshape(len(lines), -1)
    numbers = np.arange(day * per_day, (day + 1) * per_day)
    closed = window.closed[rows]
    held = (numbers < closed) & (numbers >= closed - window.width)
    which, slot = np.nonzero(held)
    place = (rows[which, 0], numbers[slot] % window.width)
    window.load_kw[place] = blobs[:, : 4 * per_day].copy().view(np.float32)[held]
    window.flags[place] = blobs[:, 4 * per_day :][held]


def _issued_rows(issued: Iterable[Issued]) -> Iterator[tuple[object, ...]]:
    for one in issued:
        for index, row in enumerate(one.rows.tolist()):
            body = one.spread_kw[index].tobytes()
            yield one.origin, one.role, row, body, int(one.rung[index]), int(one.version[index])


def _calibration_rows(changes: Changes, site: SiteState) -> Iterator[tuple[int, int, int, bytes]]:
    moved: dict[int, list[Ints]] = {}
    for source, rows in changes.calibrated:
        moved.setdefault(source, []).append(rows)
    for source, parts in moved.items():
        unique = np.array(sorted({row for rows in parts for row in rows.tolist()}), dtype=np.int64)
        leads = len(site.scoreboard.leads)
        for row, state in zip(unique.tolist(), site.calibration.packed(source, unique), strict=True):
            yield source, row, leads, state


def _standing_rows(changes: Changes, site: SiteState) -> Iterator[tuple[object, ...]]:
    rows = np.array(sorted(changes.standing), dtype=np.int64)
    for row, record in zip(rows.tolist(), site.standing.held(rows).tolist(), strict=True):
        yield (row, *record)


def _oldest_issued(site: SiteState) -> int:
    """The first origin whose forecast may still meet its truth, of the meter that is furthest behind."""
    origins = site.issued[site.active_rows]
    begun = origins[origins != NEVER]
    return int(begun.min()) - max(site.scoreboard.leads) - 1 if len(begun) else NEVER


def _issued_from(
    origin: int, role: int, lines: list[tuple[int, int, int, bytes, int, int]], scoreboard: Scoreboard
) -> Issued:
    """What one role issued to many meters at one origin, as `_issued_rows` wrote it."""
    _origins, _roles, rows, bodies, rungs, versions = zip(*lines, strict=True)
    spread_kw = np.frombuffer(b"".join(bodies), dtype=np.float32).reshape(len(lines), len(scoreboard.leads), 3)
    return Issued(role, origin, np.array(rows), spread_kw, np.array(rungs, np.int8), np.array(versions, np.int64))
