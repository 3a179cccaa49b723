"""The state database, read and never written: whether it is sound, ours, in use, and how much waits in it.

Invariants: nothing is written, and nothing appears beside a database that was closed; what cannot be read is left
out, and the verdict of SQLite's own check says why.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from edge.doctor.wording import counted, size
from edge.salvage import DATABASE
from edge.schema import SCHEMA_VERSION
from shared.findings import Finding, note, ok, to_mend
from shared.params import Params

LOCK: Final = "lock"
QUARANTINE: Final = "quarantine-*"
CENTRAL_IS_LATE_SHARE: Final = 0.8  # from here on the status is degraded
METERS_NEARLY_ALL_SHARE: Final = 0.8
_EMPTY: Final = 0  # the schema of a database nobody has written to


@dataclass(frozen=True, slots=True)
class Seen:
    """What the state folder holds; without a database the rest is empty. `barrier` is what kept us from reading it."""

    there: bool
    barrier: str = ""
    in_use: bool = False
    verdict: str = "ok"
    schema: int = SCHEMA_VERSION
    size_bytes: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    latest_us: Mapping[str, int] = field(default_factory=dict)
    batches: int = 0
    outbox_bytes: int = 0
    quarantined: tuple[str, ...] = ()


def look(folder: Path) -> Seen:
    """Everything there is to see; never raises for what it finds."""
    file = folder / DATABASE
    quarantined = tuple(sorted(path.name for path in folder.glob(QUARANTINE)))
    seen = Seen(there=False, quarantined=quarantined)
    try:
        if not file.exists():
            return seen
        size_bytes = sum(path.stat().st_size for path in folder.glob(f"{DATABASE}*"))
        seen = replace(seen, there=True, size_bytes=size_bytes, in_use=_is_locked(folder / LOCK))
        with closing(_open(file)) as database:
            return _look_inside(database, seen)
    except (OSError, sqlite3.OperationalError) as error:
        return replace(seen, there=True, barrier=str(error))
    except sqlite3.DatabaseError as error:
        return replace(seen, verdict=str(error))


def _is_locked(lock: Path) -> bool:
    """Whether an edge holds the folder; a lock of ours would last microseconds and is shared."""
    try:
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _open(file: Path) -> sqlite3.Connection:
    """Without a log beside it the database is closed and whole: then SQLite need not put files there to read it."""
    is_closed = not file.with_name(f"{file.name}-wal").exists()
    how = "immutable=1" if is_closed else "mode=ro"
    return sqlite3.connect(f"{file.absolute().as_uri()}?{how}", uri=True)


def _look_inside(database: sqlite3.Connection, seen: Seen) -> Seen:
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    waiting = _rows(database, "SELECT count(*), total(length(body)) FROM outbox") or [(0, 0)]
    return replace(
        seen,
        schema=schema,
        verdict=verdict,
        facts=dict(_rows(database, "SELECT name, value FROM facts")),
        latest_us=_latest_us(database),
        batches=waiting[0][0],
        outbox_bytes=int(waiting[0][1]),
    )


def _latest_us(database: sqlite3.Connection) -> dict[str, int]:
    """A meter's newest reading: its row is written when its intervals close, and may be behind what came since."""
    settled = dict(_rows(database, "SELECT name, CAST(coalesce(latest_us, 0) AS INTEGER) FROM meters"))
    kept = dict(_rows(database, "SELECT name, max(ts_us) FROM readings JOIN meters ON meter = row GROUP BY name"))
    return {name: max(latest_us, kept.get(name, 0)) for name, latest_us in settled.items()}


def _rows(database: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """What a query finds, and nothing where a table or column is missing or damaged."""
    with suppress(sqlite3.Error):
        return list(database.execute(query))
    return []


def judge(seen: Seen, params: Params) -> list[Finding]:
    """Whether the state is sound, this edge's, and far from its bounds."""
    if not seen.there or seen.schema == _EMPTY:
        return [ok("state", f"none yet in {params.edge.state_dir}; the first run makes it"), *_set_aside(seen)]
    if seen.barrier:
        mend = "ask again as the user whose edge it is, or change the owner of edge.state_dir"
        return [to_mend("state", f"cannot be read: {seen.barrier}", mend), *_set_aside(seen)]
    if seen.verdict != "ok":
        mend = "start the edge: it sets a damaged state aside and begins a new one; else move the folder away"
        return [to_mend("state", f"{DATABASE} is damaged: {seen.verdict}", mend), *_set_aside(seen)]
    if seen.schema != SCHEMA_VERSION:
        found = f"written with schema {seen.schema}, and this version of metercast has {SCHEMA_VERSION}"
        return [to_mend("state", found, "run the version that wrote it, or set another edge.state_dir")]
    return [_sound(seen), _ownership(seen, params), _outbox(seen, params), _meters(seen, params), *_set_aside(seen)]


def _sound(seen: Seen) -> Finding:
    use = "an edge is running on it" if seen.in_use else "no edge is running on it"
    return ok("state", f"sound, {size(seen.size_bytes)}, schema {seen.schema}; {use}")


def _ownership(seen: Seen, params: Params) -> Finding:
    wanted = {"site": params.site, "step_s": str(params.step_s)}
    others = [f"{name} {seen.facts[name]}" for name, value in wanted.items() if seen.facts.get(name, value) != value]
    if others:
        found = f"begun with {' and '.join(others)}, and the parameters say {params.site} and {params.step_s}"
        return to_mend("site and step", found, "go back to these in the parameters, or set another edge.state_dir")
    epoch = seen.facts.get("epoch", "none")
    return ok("site and step", f"{params.site} and {params.step_s} s, as the parameters say; epoch {epoch}")


def _outbox(seen: Seen, params: Params) -> Finding:
    share = seen.outbox_bytes / params.outbox.max_bytes
    told = f"{seen.batches:,} batches wait for central, {size(seen.outbox_bytes)}, {share:.0%} of outbox.max_bytes"
    if share >= CENTRAL_IS_LATE_SHARE:
        mend = "see that central runs and the bridge is up: a full outbox gives up its oldest batches"
        return to_mend("outbox", told, mend)
    return ok("outbox", told)


def _meters(seen: Seen, params: Params) -> Finding:
    known, limit = len(seen.latest_us), params.edge.max_meters
    told = f"{known:,} of at most {limit:,}"
    if known >= limit:
        mend = "raise edge.max_meters, or find who invents meter ids: new meters become dead letters"
        return to_mend("meters", told, mend)
    if known >= METERS_NEARLY_ALL_SHARE * limit:
        return note("meters", told, "raise edge.max_meters before new meters become dead letters")
    return ok("meters", told)


def _set_aside(seen: Seen) -> list[Finding]:
    if not seen.quarantined:
        return []
    found = f"{counted(len(seen.quarantined), 'damaged state')} set aside, the latest {seen.quarantined[-1]}"
    return [note("set aside", found, "see what damaged the disk, then delete these folders in edge.state_dir")]
