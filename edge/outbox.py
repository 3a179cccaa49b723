"""The outbox on disk: batches that wait for central, numbered anew under a new epoch, or given up for a gap entry.

Invariants: a change of numbers, or of batches to a gap, is one transaction; every reading and letter of a batch that is
given up is counted in the gap that stands for it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge.restoring import FACT as RESTORE
from edge.restoring import WANTED
from shared.clock import iso
from shared.errors import MessageRefused, StateError
from shared.messages import GAP_COLUMNS, Uplink, columns_of

GAP_METERS_AT_MOST: Final = 5000  # told one by one in a gap entry
# What stands in a gap's `meter_id` where it is no meter: none of these is a meter's id.
OTHERS: Final = "*"
LETTERS: Final = "*deadletter"
UNREADABLE: Final = "*unreadable"
COVARIATES: Final = "*covariates"


def body_of(db: sqlite3.Connection, seq: int) -> bytes | None:
    """One waiting batch; raises StateError."""
    try:
        found = db.execute("SELECT body FROM outbox WHERE seq = ?", (seq,)).fetchone()
    except sqlite3.Error as error:
        raise StateError(f"the outbox cannot be read: {error}") from error
    return found[0] if found else None


def index_of(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """(seq, bytes) of all waiting batches in order."""
    return list(db.execute("SELECT seq, length(body) FROM outbox ORDER BY seq"))


def is_sound(body: bytes) -> bool:
    """Whether a batch reads back as it was written: gzip carries a checksum."""
    try:
        Uplink.decompress(body, "the outbox")
    except MessageRefused:
        return False
    return True


def renumber(db: sqlite3.Connection, epoch: str) -> None:
    """Begin `epoch` and number the waiting batches from 1, in one transaction; raises StateError."""
    with _transaction(db, "the outbox cannot be numbered anew"):
        waiting = db.execute("SELECT seq FROM outbox ORDER BY seq").fetchall()
        for number, (seq,) in enumerate(waiting, start=1):
            (body,) = db.execute("SELECT body FROM outbox WHERE seq = ?", (seq,)).fetchone()
            # Negative until all are done: a new number may be another batch's old one.
            new = -number, _renumbered(body, epoch, number)
            db.execute("UPDATE outbox SET seq = ?, body = ? WHERE seq = ?", (*new, seq))
        db.execute("UPDATE outbox SET seq = -seq")
        numbers = {"next_seq": str(len(waiting) + 1), "vouched": str(len(waiting)), "recorded": "0,0"}
        facts = {"epoch": epoch, **numbers, RESTORE: WANTED}
        db.executemany("INSERT OR REPLACE INTO facts VALUES(?, ?)", facts.items())


def _renumbered(body: bytes, epoch: str, number: int) -> bytes:
    """A batch under its new name; of a gap entry only its own number means anything in the new epoch."""
    batch = Uplink.decompress(body, "the outbox")
    gaps = batch.kinds.get("gaps")
    if gaps:
        rows = len(gaps["to_seq"])
        gaps |= {"from_seq": [number] * rows, "to_seq": [number] * rows}
    return batch.model_copy(update={"epoch": epoch, "seq": number}).compress()


def make_gap(db: sqlite3.Connection, first: int, last: int, *, site: str, reason: str, at_us: int) -> int:
    """Put one gap entry, numbered `last`, in the place of the batches `first` … `last`; returns its size.

    One transaction; raises StateError. Batches that cannot be read any more are counted as lost without a number.
    """
    lost: Counter[str] = Counter()
    from_seq = first
    with _transaction(db, "no gap can be written into the outbox"):
        for (body,) in db.execute("SELECT body FROM outbox WHERE seq BETWEEN ? AND ?", (first, last)):
            readings, earlier = _given_up(body)
            lost.update(readings)
            from_seq = min(from_seq, *earlier) if earlier else from_seq
        (epoch,) = db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
        batch = _gap(site, epoch, (from_seq, last), lost, reason, at_us)
        db.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
        db.execute("INSERT INTO outbox VALUES(?, ?)", (last, batch))
    return len(batch)


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


@contextmanager
def _transaction(db: sqlite3.Connection, failure: str) -> Iterator[None]:
    """All or nothing; what goes wrong is StateError, `failure` its beginning."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except (sqlite3.Error, MessageRefused) as error:
        raise StateError(f"{failure}: {error}") from error
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
