"""The disk below the state: whether it takes writes, how fast it syncs, and whether it has room."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from edge.doctor.wording import size, span
from shared.findings import Finding, note, ok, to_mend

SYNCS: Final = 5
PAGE: Final = bytes(4096)
SLOW_SYNC_S: Final = 0.05
TOO_SLOW_SYNC_S: Final = 0.5


def examine(folder: Path, *, outbox_left_bytes: int, state_bytes: int) -> list[Finding]:
    """Writability, syncs and room of the folder, or of the nearest one above it that exists."""
    existing = nearest(folder)
    try:
        sync_s = time_sync(existing)
    except OSError as error:
        found = f"{existing} cannot be written: {error.strerror}"
        writable = [to_mend("edge.state_dir", found, "change its owner, or set edge.state_dir to another folder")]
    else:
        made = "" if existing == folder else "; the first run makes it"
        writable = [ok("edge.state_dir", f"{folder} can be written{made}"), judge_sync(sync_s)]
    free_bytes = shutil.disk_usage(existing).free
    return [*writable, judge_room(free_bytes, outbox_left_bytes=outbox_left_bytes, state_bytes=state_bytes)]


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if _exists(path))


def _exists(path: Path) -> bool:
    """Also False behind a folder we may not enter."""
    try:
        return path.exists()
    except OSError:
        return False


def time_sync(folder: Path) -> float:
    """Median seconds of writing a page and syncing it, in a file that has no name; raises OSError."""
    taken_s = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            began_s = time.perf_counter()
            file.write(PAGE)
            file.flush()
            os.fsync(file.fileno())
            taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s)


def judge_sync(sync_s: float) -> Finding:
    """Whether commits are held up: each waits for one sync."""
    told = f"a sync takes {span(sync_s)}; each commit waits for one"
    if sync_s >= TOO_SLOW_SYNC_S:
        return to_mend("sync", told, "move edge.state_dir to a faster disk: readings wait in the broker meanwhile")
    if sync_s >= SLOW_SYNC_S:
        return note("sync", told, "watch the backlog, or move edge.state_dir to a faster disk")
    return ok("sync", told)


def judge_room(free_bytes: int, *, outbox_left_bytes: int, state_bytes: int) -> Finding:
    """Whether the outbox may fill up while the state is written anew once (a repair keeps the old one)."""
    wanted = outbox_left_bytes + state_bytes
    told = f"{size(free_bytes)} free; the outbox may take {size(outbox_left_bytes)} more"
    if state_bytes:
        told += f", a second copy of the state {size(state_bytes)}"
    if free_bytes >= wanted:
        return ok("disk", told)
    return to_mend("disk", told, f"make room for {size(wanted - free_bytes)} more, or lower outbox.max_bytes")
