"""The edge's state on disk: SQLite, one transaction per batch, synced before anything is acknowledged.

Invariants: `commit` is all or nothing and on disk when it returns; what `load_site` reads back is what the core held
when its last commit was made. The log of readings is written anew from memory when most of it is stale.
Its tables are in edge/schema.py, their rows in edge/rows.py, the waiting batches in edge/outbox.py.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Sequence
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, Final

from edge import outbox
from edge.changes import Changes
from edge.dialects.native import Reading
from edge.forms import Form
from edge.rows import (
    calibration_rows,
    form_of,
    form_row,
    history_rows,
    is_row,
    issued_from,
    issued_rows,
    left_days,
    load_day,
    load_meter,
    load_standing,
    meter_row,
    oldest_issued,
    standing_rows,
)
from edge.salvage import DATABASE, close, open_or_rescue
from edge.schema import ADDED, create_state, new_epoch, require_version
from edge.site import SiteState
from shared.errors import StateDamaged, StateError

REWRITTEN_FROM: Final = 50_000  # rows in the log of readings
CHECKPOINT_PAGES: Final = 4000  # 16 MB of log between two checkpoints, each of which waits for the disk


def _locked(folder: Path) -> IO[bytes]:
    """The folder's lock, held until closed or killed: two edges on one state would lose batches of each other."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StateError(f"edge.state_dir {folder}: in use by another edge") from error
    return lock


class Store:
    """The state database of one edge."""

    def __init__(self, folder: Path, now_text: str) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            self.mended = open_or_rescue(
                folder, create_state, lambda db: outbox.renumber(db, new_epoch()), now_text=now_text
            )
            self._db = sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._logged = self._held = 0  # readings in the log, and held when it was last written anew
            self._require_version()
            self._db.executescript(ADDED)
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"edge.state_dir {folder}: {error}") from error

    def _require_version(self) -> None:
        try:
            require_version(self._db, self._folder)
        except StateError:
            self.close()
            raise

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
        return [form_of(*row) for row in rows]

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
        many("INSERT OR REPLACE INTO forms VALUES(?,?,?,?,?)", map(form_row, changes.forms))
        many("INSERT INTO readings(meter, ts_us, value, form) VALUES(?,?,?,?)", changes.readings)
        many("INSERT OR REPLACE INTO history VALUES(?,?,?)", history_rows(changes, site))
        many("INSERT OR REPLACE INTO issued VALUES(?,?,?,?,?,?)", issued_rows(changes.issued))
        if changes.issued:
            self._db.execute("DELETE FROM issued WHERE origin < ?", (oldest_issued(site),))
        many("INSERT OR REPLACE INTO calibration VALUES(?,?,?,?)", calibration_rows(changes, site))
        many("INSERT OR REPLACE INTO standing VALUES(?,?,?,?,?,?)", standing_rows(changes, site))
        gone = "DELETE FROM covariates WHERE name = ? AND issued_us = ? AND start_us = ?"
        many(gone, changes.covariates_dropped)  # first: what was let go of may have come again in the same batch
        many("INSERT OR REPLACE INTO covariates VALUES(?,?,?,?,?)", changes.covariates)
        many("INSERT OR REPLACE INTO outbox VALUES(?, ?)", changes.outbox)
        many("INSERT OR REPLACE INTO arrivals VALUES(?, ?)", changes.arrivals.items())
        many("DELETE FROM outbox WHERE seq = ?", ((seq,) for seq in changes.acked))
        many("INSERT OR REPLACE INTO meters VALUES(?,?,?,?,?,?,?,?)", (meter_row(site, row) for row in changes.meters))
        many("DELETE FROM history WHERE day = ? AND meter = ?", left_days(changes, site))

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
        return outbox.body_of(self._db, seq)

    def outbox_index(self) -> list[tuple[int, int]]:
        """(seq, bytes) of all waiting batches in order."""
        return outbox.index_of(self._db)

    def renew_epoch(self, epoch: str) -> list[tuple[int, int]]:
        """Number the waiting batches from 1 under `epoch`; returns (seq, bytes) of them. Raises StateError."""
        outbox.renumber(self._db, epoch)
        return self.outbox_index()

    def make_gap(self, first: int, last: int, *, site: str, reason: str, at_us: int) -> int:
        """Let a gap entry take the place of the batches `first` … `last`; returns its size. Raises StateError."""
        return outbox.make_gap(self._db, first, last, site=site, reason=reason, at_us=at_us)

    def load_site(self, site: SiteState) -> None:
        """Fill an empty site with what the last commit left; raises StateError alone."""
        try:
            for line in self._db.execute("SELECT * FROM meters ORDER BY row"):
                load_meter(site, line)
            for row, *reading in self._db.execute("SELECT meter, ts_us, value, form FROM readings ORDER BY place"):
                meter = site.meters.by_row[row]
                in_order = not meter.ts_us or reading[0] > meter.ts_us[-1]
                (meter.append if in_order else meter.keep)(Reading(*reading), site.forms)
                self._logged += 1
            for meter in site.meters.by_row:
                site.settled_us[meter.row] = meter.settled_us
            for day, lines in groupby(self._db.execute("SELECT * FROM history ORDER BY day"), key=itemgetter(0)):
                load_day(site, day, list(lines))
            site.covariates.load(self._db.execute("SELECT * FROM covariates"))
            self._load_issued(site)
            self._load_learned(site)
        except (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise StateError(f"the state database cannot be read: {error}") from error

    def _load_issued(self, site: SiteState) -> None:
        """What waits for its truth, but for what a clock that ran ahead issued: it would take the place of the rest."""
        rows = self._db.execute("SELECT * FROM issued ORDER BY origin, role")
        for (origin, role), lines in groupby(rows, key=itemgetter(0, 1)):
            own = [line for line in lines if origin <= site.issued[line[2]]]
            if own:
                site.scoreboard.put(issued_from(origin, role, own, site.scoreboard))

    def _load_learned(self, site: SiteState) -> None:
        """What was learned of meters; an odd row costs that, which comes again with the truths, and not the start."""
        rows = self._db.execute("SELECT source, meter, state FROM calibration ORDER BY source, meter")
        for source, lines in groupby(rows, key=itemgetter(0)):
            site.calibration.unpack(source, [(row, state) for _source, row, state in lines if is_row(row, site)])
        records = self._db.execute("SELECT meter, version, down, evidence, champion_kw, naive_kw FROM standing")
        for row, *record in records.fetchall():
            load_standing(site, row, record)


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
