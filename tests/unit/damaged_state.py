"""A state as a killed edge leaves it, with its write-ahead log, and ways to damage it at places that a seed chooses."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from edge.pages import PAGE_BYTES, Pages, log_of
from edge.salvage import DATABASE
from edge.schema import create_state
from shared.errors import MessageRefused
from shared.messages import MAX_UPLINK_JSON_BYTES, Uplink, inflate

METERS, DAYS, READINGS, BATCHES = 24, 20, 60, 24
FIRST_SEQ = 11
Rows = dict[str, set[tuple[Any, ...]]]
Damage = Callable[[Path, random.Random], None]


def create(db: sqlite3.Connection, epoch: str = "fresh") -> None:
    """An empty state."""
    create_state(db)
    renew(db, epoch)


def renew(db: sqlite3.Connection, epoch: str = "renewed") -> None:
    """A new epoch, as simply as can be; the batches keep their numbers, so that tests can tell them apart."""
    db.execute("INSERT OR REPLACE INTO facts VALUES('epoch', ?)", (epoch,))


def batch(seq: int, chance: random.Random) -> bytes:
    """A waiting batch; some are larger than a page, some much larger."""
    values = [chance.random() for _ in range(chance.choice((5, 60, 1500)))]
    kinds = {"readings": {"value": values, "meter_id": [f"m{seq}"] * len(values)}}
    return Uplink(site="desk", epoch="old", seq=seq, at="now", kinds=kinds).compress()


def make(folder: Path, *, log: bool, seed: int = 0) -> Rows:
    """A state of a few thousand rows, as a kill leaves it: with what was committed last in the log, or all in place.

    Returns every row there ever was in it.
    """
    chance = random.Random(seed)
    live = folder.with_name(folder.name + "-live")
    live.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    ever: Rows = {}
    with closing(sqlite3.connect(live / DATABASE, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        create(db, "old")
        for days in (range(DAYS // 2), range(DAYS // 2, DAYS - 2), range(DAYS - 2, DAYS - 1), range(DAYS - 1, DAYS)):
            _fill(db, days, chance)
            if days.start or not log:
                db.execute("DELETE FROM outbox WHERE seq < ?", (FIRST_SEQ,))
                for name, rows in rows_of(live / DATABASE).items():
                    ever[name] = ever.get(name, set()) | rows
            if days.stop <= DAYS - 2 or not log:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for name in (DATABASE, DATABASE + "-wal"):
            shutil.copy(live / name, folder / name)
    shutil.rmtree(live)
    return ever


def _fill(db: sqlite3.Connection, days: range, chance: random.Random) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT OR REPLACE INTO facts VALUES(?, ?)",
        [("site", "desk"), ("step_s", "3600"), ("next_seq", str(FIRST_SEQ + BATCHES))],
    )
    meters = [(m, f"meter-{m}", 500_000 + days[-1], 7, 7, 500_000, 500_000, 0) for m in range(METERS)]
    db.executemany("INSERT OR REPLACE INTO meters VALUES(?,?,?,?,?,?,?,?)", meters)
    db.executemany("INSERT OR REPLACE INTO forms VALUES(?,?,?,?,?)", [(0, "kW", 2, 0, "ok"), (1, "kWh", 0, 3600, "ok")])
    for day in days:
        each = range(day * READINGS // DAYS, (day + 1) * READINGS // DAYS)
        readings = [(m, 10**15 + n, chance.choice((1.0, chance.random())), m % 2) for m in range(METERS) for n in each]
        db.executemany("INSERT INTO readings(meter, ts_us, value, form) VALUES(?,?,?,?)", readings)
        db.executemany(
            "INSERT INTO history VALUES(?,?,?)", [(20_000 + day, m, chance.randbytes(120)) for m in range(METERS)]
        )
        issued = [(500_000 + day, 0, m, chance.randbytes(48), 1, 3) for m in range(METERS)]
        db.executemany("INSERT INTO issued VALUES(?,?,?,?,?,?)", issued)
        states = [(0, m, 4, struct.pack("20f", *(chance.random() for _ in range(20)))) for m in range(METERS)]
        db.executemany("INSERT OR REPLACE INTO calibration VALUES(?,?,?,?)", states)
        records = [(m, 3, m % 2, day + 0.5, chance.random(), chance.random()) for m in range(METERS)]
        db.executemany("INSERT OR REPLACE INTO standing VALUES(?,?,?,?,?,?)", records)
        db.execute("INSERT INTO arrivals VALUES(?,?)", (day + 1, chance.randbytes(16)))
        last = FIRST_SEQ + BATCHES - 1
        seqs = range(1 + day * last // DAYS, 1 + (day + 1) * last // DAYS)
        db.executemany("INSERT INTO outbox VALUES(?,?)", [(seq, batch(seq, chance)) for seq in seqs])
    db.execute("COMMIT")


def rows_of(path: Path) -> Rows:
    """All rows by table, with names instead of numbers where a rescue may number anew."""
    with closing(sqlite3.connect(path)) as db:
        held: Rows = {
            "facts": set(db.execute("SELECT * FROM facts WHERE name NOT IN ('epoch', 'next_seq')")),
            "meters": set(db.execute("SELECT name, closed, settled_us, latest_us, issued, delivered FROM meters")),
            "forms": set(db.execute("SELECT unit, kind, period_us, quality FROM forms")),
            "readings": set(
                db.execute(
                    "SELECT name, ts_us, value, unit, quality FROM readings r, meters, forms f "
                    "WHERE meter = row AND r.form = f.form"
                )
            ),
            "history": set(db.execute("SELECT name, day, load_kw FROM history, meters WHERE meter = row")),
            "issued": set(db.execute("SELECT name, role, origin, spread_kw FROM issued, meters WHERE meter = row")),
            "calibration": set(db.execute("SELECT name, source, state FROM calibration, meters WHERE meter = row")),
            "standing": set(
                db.execute("SELECT name, down, evidence, champion_kw, naive_kw FROM standing, meters WHERE meter = row")
            ),
            "arrivals": set(db.execute("SELECT mid, digest FROM arrivals")),
            "outbox": {(seq, _content(body)) for seq, body in db.execute("SELECT seq, body FROM outbox")},
        }
    return held


def _content(body: bytes) -> bytes:
    """What a batch says: gzip's own header holds bytes that mean nothing here."""
    try:
        return inflate(body, MAX_UPLINK_JSON_BYTES, "a batch")
    except MessageRefused:
        return body


def changed_pages(before: Path, after: Path) -> set[int]:
    """The pages of a database, as its log has them, that differ between two copies of it."""
    with closing(Pages(before)) as old, closing(Pages(after)) as new:
        return {number for number in range(1, old.count + 1) if old[number] != new[number]}


def flip_bytes(folder: Path, chance: random.Random) -> None:
    """One to twenty bytes become others, anywhere in the database."""
    content = bytearray((folder / DATABASE).read_bytes())
    for _ in range(chance.randint(1, 20)):
        content[chance.randrange(len(content))] ^= chance.randint(1, 255)
    (folder / DATABASE).write_bytes(content)


def _overwrite_pages(folder: Path, chance: random.Random, most: int, content_of: Callable[[int], bytes]) -> None:
    content = bytearray((folder / DATABASE).read_bytes())
    for _ in range(chance.randint(1, most)):
        start = chance.randrange(len(content) // PAGE_BYTES) * PAGE_BYTES
        size = chance.choice((PAGE_BYTES, PAGE_BYTES // 2))
        content[start : start + size] = content_of(size)
    (folder / DATABASE).write_bytes(content)


def zero_pages(folder: Path, chance: random.Random) -> None:
    """Pages, or halves of them, become zeros, as blocks that a file system lost."""
    _overwrite_pages(folder, chance, 4, bytes)


def scramble_pages(folder: Path, chance: random.Random) -> None:
    """Pages, or halves of them, become noise."""
    _overwrite_pages(folder, chance, 4, chance.randbytes)


def truncate(folder: Path, chance: random.Random) -> None:
    """The file ends somewhere, perhaps at once."""
    path = folder / DATABASE
    path.write_bytes(path.read_bytes()[: chance.choice((0, 1, chance.randrange(path.stat().st_size)))])


def swap_halves(folder: Path, _chance: random.Random) -> None:
    """The second half of the pages stands before the first."""
    content = (folder / DATABASE).read_bytes()
    middle = len(content) // PAGE_BYTES // 2 * PAGE_BYTES
    (folder / DATABASE).write_bytes(content[middle:] + content[:middle])


def swap_pages(folder: Path, chance: random.Random) -> None:
    """Two pages stand in each other's place."""
    content = (folder / DATABASE).read_bytes()
    pages = [content[start : start + PAGE_BYTES] for start in range(0, len(content), PAGE_BYTES)]
    one, other = chance.sample(range(len(pages)), 2)
    pages[one], pages[other] = pages[other], pages[one]
    (folder / DATABASE).write_bytes(b"".join(pages))


def remove_database(folder: Path, _chance: random.Random) -> None:
    """Only the log is left."""
    (folder / DATABASE).unlink()


def remove_log(folder: Path, _chance: random.Random) -> None:
    """What was committed last is gone."""
    log_of(folder / DATABASE).unlink()


def flip_log_bytes(folder: Path, chance: random.Random) -> None:
    """Bytes of the log become others."""
    path = log_of(folder / DATABASE)
    content = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 5)):
        content[chance.randrange(len(content))] ^= chance.randint(1, 255)
    path.write_bytes(content)


def truncate_log(folder: Path, chance: random.Random) -> None:
    """The log ends somewhere, as at a power cut."""
    path = log_of(folder / DATABASE)
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def damage_both(folder: Path, chance: random.Random) -> None:
    """Noise in the database and flipped bytes in the log."""
    scramble_pages(folder, chance)
    flip_log_bytes(folder, chance)


DAMAGES: Final[tuple[Damage, ...]] = (
    flip_bytes,
    zero_pages,
    scramble_pages,
    truncate,
    swap_halves,
    swap_pages,
    remove_database,
    remove_log,
    flip_log_bytes,
    truncate_log,
    damage_both,
)
LOG_DAMAGES: Final[tuple[Damage, ...]] = (remove_log, flip_log_bytes, truncate_log, damage_both)
