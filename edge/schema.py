"""The tables of the state database, and an empty one with them.

Tables are in the order of time, not of meters: what a batch or an hour writes for a thousand meters then lies on a few
pages, not on a thousand. `readings` is a log, of which a later row about the same instant counts.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import Final

from shared.errors import StateError

SCHEMA_VERSION: Final = 3
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
ADDED: Final = """
CREATE TABLE IF NOT EXISTS covariates(
    name TEXT NOT NULL, issued_us INTEGER NOT NULL, start_us INTEGER NOT NULL, step_us INTEGER NOT NULL,
    said TEXT NOT NULL, PRIMARY KEY(name, issued_us, start_us)) WITHOUT ROWID;
"""


def new_epoch() -> str:
    """A random id for an epoch of the ledger."""
    return secrets.token_hex(8)


def create_state(db: sqlite3.Connection) -> None:
    """Make the tables of an empty state, in a new epoch."""
    epoch = f"INSERT INTO facts VALUES('epoch', '{new_epoch()}');"
    db.executescript(f"BEGIN; {_TABLES} {ADDED} {epoch} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


def require_version(db: sqlite3.Connection, folder: Path) -> None:
    """Raise StateError for a state of another schema."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise StateError(f"edge.state_dir {folder}: schema {version} was written by another version of metercast")
