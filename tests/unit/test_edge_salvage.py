"""A damaged, half-written or lost state: seen at start, put aside, built anew from what is left; never a crash loop."""

import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from edge import salvage
from edge.pages import PAGE_BYTES, Pages, log_of, read_log
from edge.salvage import DATABASE, QUARANTINES_AT_MOST, Rescue, examine, open_or_rescue
from edge.schema import SCHEMA_VERSION
from edge.store import Store
from shared.clock import HOUR_US, iso
from shared.errors import StateError
from tests.unit import damaged_state
from tests.unit.damaged_state import (
    DAMAGES,
    FIRST_SEQ,
    LOG_DAMAGES,
    Damage,
    Rows,
    changed_pages,
    create,
    renew,
    rows_of,
)
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

NOW = "2026-11-25T08:00:00Z"
SEEDS = 6
CASES = [(damage, log) for log in (True, False) for damage in DAMAGES if log or damage not in LOG_DAMAGES]
opened = partial(open_or_rescue, create=create, renew=renew, now_text=NOW)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, Rows]]:
    """A state with its last commits in the log, and one with all in place; each with every row it ever held."""
    folder = tmp_path_factory.mktemp("states")
    return {log: (folder / str(log), damaged_state.make(folder / str(log), log=log)) for log in (True, False)}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _copy(whole: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / "edge.mark").write_text("running\n")
    return folder


def _facts(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        return dict(db.execute("SELECT name, value FROM facts"))


def _run_for_a_while(folder: Path) -> None:
    """Use the state as an edge does, and close it."""
    db = sqlite3.connect(folder / DATABASE, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("INSERT OR REPLACE INTO facts VALUES('more', '1')")
    salvage.close(db, folder)


def _rows_of_pages(path: Path, numbers: set[int]) -> int:
    with closing(Pages(path)) as pages:
        return sum(len(list(pages.rows_of(number))) for number in numbers)


@pytest.mark.parametrize(("damage", "log"), CASES)
def test_whatever_the_damage_a_whole_database_is_left_and_holds_only_rows_that_were_there(
    damage: Damage, log: bool, states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    whole, ever = states[log]
    for seed in range(SEEDS):
        folder = _copy(whole, tmp_path / "edge")
        damage(folder, random.Random(f"{damage.__name__} {seed}"))
        changed = changed_pages(whole / DATABASE, folder / DATABASE)
        mended = opened(folder)
        with closing(sqlite3.connect(folder / DATABASE)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], seed
        held = rows_of(folder / DATABASE)
        assert held["outbox"] <= ever["outbox"], seed
        foreign = sum(len(held[table] - ever[table]) for table in held)
        # SQLite keeps no checksum of a page: a number with a flipped bit is a number.
        flipped = damage in (damaged_state.flip_bytes, damaged_state.scramble_pages, damaged_state.damage_both)
        assert foreign <= (_rows_of_pages(whole / DATABASE, changed) if flipped else 0), seed
        if mended is not None:
            assert _facts(folder)["epoch"] in ("renewed", "fresh"), seed
            _run_for_a_while(folder)
            assert opened(folder) is None, seed


@pytest.mark.parametrize("damage", [damaged_state.zero_pages, damaged_state.scramble_pages, damaged_state.swap_pages])
def test_rows_on_pages_that_are_whole_are_kept(
    damage: Damage, states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    """All of them, but for those of a meter or form whose own row is gone."""
    whole, _ever = states[False]
    before = rows_of(_copy(whole, tmp_path / "before") / DATABASE)
    owed = kept = 0
    for seed in range(SEEDS):
        folder = _copy(whole, tmp_path / "edge")
        damage(folder, random.Random(f"kept {damage.__name__} {seed}"))
        lost = _rows_of_pages(whole / DATABASE, changed_pages(whole / DATABASE, folder / DATABASE))
        opened(folder)
        held = rows_of(folder / DATABASE)
        if held["meters"] >= before["meters"] and held["forms"] >= before["forms"]:
            owed += sum(len(before[table]) for table in ("readings", "history", "issued")) - lost
            kept += sum(len(held[table] & before[table]) for table in ("readings", "history", "issued"))
    assert owed > 0
    assert kept >= owed


def test_pages_read_alone_give_the_rows_that_sqlite_gives(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    for whole, _ever in states.values():
        folder = _copy(whole, tmp_path / "edge")
        with closing(Pages(folder / DATABASE)) as pages:
            found = list(pages.rows())
        with closing(sqlite3.connect(folder / DATABASE)) as db:
            batches = set(db.execute("SELECT seq, body FROM outbox"))
            history = set(db.execute("SELECT * FROM history"))
        assert {(row.key, row.values[1]) for row in found if row.key and len(row.values) == 2} >= batches
        assert {row.values for row in found if row.key is None and len(row.values) == 3} == history


def test_the_log_is_read_as_far_as_sqlite_reads_it(states: dict[bool, tuple[Path, Rows]], tmp_path: Path) -> None:
    whole, _ever = states[True]
    for size in (1.0, 0.93, 0.5, 0.2):
        folder = _copy(whole, tmp_path / "edge")
        path = log_of(folder / DATABASE)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
        held = read_log(path)
        ends = [number for number, end in enumerate(held.ends[: held.whole], start=1) if end]
        with closing(sqlite3.connect(folder / DATABASE)) as db:
            _busy, frames, _moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert max(ends, default=0) == frames
        assert not held.damaged


def test_a_first_start_makes_a_state_and_mends_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path) is None
    assert _facts(tmp_path) == {"epoch": "fresh"}
    assert opened(tmp_path) is None


@pytest.mark.parametrize("trace", ["models/champion.onnx", "edge.mark", "quarantine-20260101T000000Z-1/RESCUED.txt"])
def test_a_database_that_is_gone_where_an_edge_has_been_is_lost_and_no_first_start(trace: str, tmp_path: Path) -> None:
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).write_text("closed\n")
    mended = opened(tmp_path)
    assert mended == Rescue("lost", "the database is gone")
    assert mended.detail == "state lost: the database is gone"
    assert opened(tmp_path) is None


def test_a_kill_and_a_clean_stop_are_no_damage(states: dict[bool, tuple[Path, Rows]], tmp_path: Path) -> None:
    folder = _copy(states[True][0], tmp_path / "edge")
    assert opened(folder) is None
    _run_for_a_while(folder)
    assert not log_of(folder / DATABASE).exists()
    assert opened(folder) is None
    assert _facts(folder)["epoch"] == "old"


def test_a_log_that_is_gone_after_a_kill_begins_a_new_epoch_and_keeps_all_else(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[True][0], tmp_path / "edge")
    damaged_state.remove_log(folder, random.Random(0))
    mended = opened(folder)
    assert mended is not None
    assert (mended.found, mended.quarantined) == ("cut", None)
    assert _facts(folder)["epoch"] == "renewed"


def test_a_damaged_batch_is_lost_by_name_and_its_neighbours_stay(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    before = rows_of(folder / DATABASE)["outbox"]
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        (body,) = db.execute("SELECT body FROM outbox WHERE seq = ?", (FIRST_SEQ + 3,)).fetchone()
        spoilt = body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
        db.execute("UPDATE outbox SET body = ? WHERE seq = ?", (spoilt, FIRST_SEQ + 3))
    mended = opened(folder)
    assert mended is not None
    assert mended.reason.startswith(f"uplink batch {FIRST_SEQ + 3}: ")
    assert mended.lost_batches == ((FIRST_SEQ + 3, FIRST_SEQ + 3),)
    assert rows_of(folder / DATABASE)["outbox"] == {row for row in before if row[0] != FIRST_SEQ + 3}
    assert f"lost uplink batches {FIRST_SEQ + 3} to {FIRST_SEQ + 3}" in mended.detail


def test_a_batch_is_not_taken_for_an_arrival_when_the_arrivals_are_gone(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    before = rows_of(folder / DATABASE)
    _spoil(folder, "arrivals")
    mended = opened(folder)
    assert mended is not None
    assert mended.kept["arrivals"] == 0
    assert rows_of(folder / DATABASE)["outbox"] == before["outbox"]


def test_a_rescue_that_is_killed_goes_on_at_the_next_start(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    before = rows_of(folder / DATABASE)
    _spoil(folder)

    def killed(_db: sqlite3.Connection) -> None:
        raise SystemExit

    for _ in range(2):
        with pytest.raises(SystemExit):
            open_or_rescue(folder, create, killed, now_text=NOW)
        assert not (folder / DATABASE).exists()
    mended = opened(folder)
    assert mended is not None
    assert mended.found == "damaged"
    assert len(rows_of(folder / DATABASE)["readings"]) > 0.8 * len(before["readings"])
    assert len(list(folder.glob("quarantine-*"))) == 1


def test_a_rescue_that_keeps_killing_the_process_is_given_up(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    _spoil(folder)

    def killed(_db: sqlite3.Connection) -> None:
        raise SystemExit

    for _ in range(salvage.ATTEMPTS_AT_MOST):
        with pytest.raises(SystemExit):
            open_or_rescue(folder, create, killed, now_text=NOW)
    mended = open_or_rescue(folder, create, killed, now_text=NOW)
    assert mended is not None
    assert mended.found == "lost"
    assert _facts(folder) == {"epoch": "fresh"}
    assert opened(folder) is None


def test_a_disk_without_room_is_told_and_costs_nothing(states: dict[bool, tuple[Path, Rows]], tmp_path: Path) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    _spoil(folder)

    def create_in_little_room(db: sqlite3.Connection) -> None:
        create(db)
        db.execute("PRAGMA max_page_count = 20")

    for _ in range(salvage.ATTEMPTS_AT_MOST + 1):
        with pytest.raises(StateError, match="full"):
            open_or_rescue(folder, create_in_little_room, renew, now_text=NOW)
    mended = opened(folder)
    assert mended is not None
    assert mended.kept["readings"] > 0


def test_only_the_newest_quarantines_are_kept_and_models_stay(
    states: dict[bool, tuple[Path, Rows]], tmp_path: Path
) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    (folder / "models").mkdir()
    (folder / "models" / "champion.onnx").write_bytes(b"model")
    for _ in range(QUARANTINES_AT_MOST + 2):
        _spoil(folder)
        opened(folder)
    held = sorted(path.name for path in folder.glob("quarantine-*"))
    assert held == [f"quarantine-20261125T080000Z-{number}" for number in (3, 4, 5)]
    assert (folder / held[0] / "REASON.txt").read_text().endswith(f"\n{NOW}\n")
    assert (folder / "models" / "champion.onnx").read_bytes() == b"model"


def test_a_folder_that_is_none_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "edge").write_text("a file")
    with pytest.raises(StateError, match=r"edge\.state_dir"):
        opened(tmp_path / "edge")


def test_a_database_that_somebody_else_holds_is_no_damage(tmp_path: Path) -> None:
    assert opened(tmp_path) is None
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="locked"):
            opened(tmp_path)
    assert opened(tmp_path) is None


def test_a_state_of_another_version_is_left_to_whoever_reads_versions(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.executescript("CREATE TABLE facts(name); PRAGMA user_version=1;")
    assert opened(tmp_path) is None
    assert list(tmp_path.glob("quarantine-*")) == []


def test_a_version_number_that_was_never_one_is_damage(states: dict[bool, tuple[Path, Rows]], tmp_path: Path) -> None:
    folder = _copy(states[False][0], tmp_path / "edge")
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute("PRAGMA user_version=65538")
    assert examine(folder / DATABASE) == "schema version 65538 was never one"
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    mended = opened(folder)
    assert mended is not None
    assert mended.reason == f"schema version {SCHEMA_VERSION + 1} with the tables of version {SCHEMA_VERSION}"
    assert mended.lost_batches == ()


def test_the_node_starts_on_what_is_left_of_a_real_state(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "whole")
    desk.send(*[(f"m{meter}", reading(hour, 1.0 + meter)) for meter in range(6) for hour in range(80)])
    desk.store.close()

    for seed in range(6):
        folder = tmp_path / f"seed-{seed}"
        shutil.copytree(tmp_path / "whole", folder)
        damaged_state.zero_pages(folder, random.Random(seed))
        Store(folder, NOW).close()
        left = EdgeAtDesk(folder)
        left.send(*[(f"m{meter}", reading(80, 1.0)) for meter in range(6)])
        assert left.of_topic("forecasts/m0")[-1]["origin"] == iso(START_US + 81 * HOUR_US), seed
        left.store.close()


def _spoil(folder: Path, table: str = "readings") -> None:
    """Make the first page of a table unreadable."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (folder / DATABASE).open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
        os.fsync(file.fileno())
