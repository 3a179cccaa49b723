"""What the doctor sees of a state folder, and that it never writes there."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge.doctor import state
from edge.salvage import DATABASE
from shared.clock import HOUR_US
from shared.findings import Finding, Grade
from shared.params import Params
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading


@pytest.fixture
def desk(tmp_path: Path) -> EdgeAtDesk:
    """A running edge with two meters and something that waits for central."""
    edge = EdgeAtDesk(tmp_path / "state")
    edge.send(("m1", reading(0, 1.0)), ("m2", reading(1, 2.0)))
    return edge


@pytest.fixture
def folder(desk: EdgeAtDesk) -> Path:
    """Its folder after it ended."""
    desk.store.close()
    return desk.folder


def findings(folder: Path, **more: object) -> dict[str, Finding]:
    settings = {"site": "desk", "edge": {"state_dir": folder}, **more}
    return {one.subject: one for one in state.judge(state.look(folder), Params.model_validate(settings))}


def change(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.execute(statement, values)


def test_a_sound_state_is_told_with_its_site_its_outbox_and_its_meters(folder: Path) -> None:
    found = findings(folder)
    assert [str(one) for one in found.values() if one.grade is not Grade.OK] == []
    assert "no edge is running on it" in found["state"].found
    assert found["site and step"].found.startswith("desk and 3600 s, as the parameters say; epoch ")
    assert found["outbox"].found.startswith(f"{state.look(folder).batches} batches wait for central, ")
    assert state.look(folder).latest_us == {"m1": START_US, "m2": START_US + HOUR_US}


def test_looking_at_a_closed_state_changes_no_file_and_leaves_none_behind(folder: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}
    state.look(folder)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}
    assert after == before


def test_a_state_in_use_is_read_up_to_its_edges_last_commit(desk: EdgeAtDesk) -> None:
    desk.send(("m3", reading(2, 3.0)))
    seen = state.look(desk.folder)
    assert (seen.in_use, set(seen.latest_us)) == (True, {"m1", "m2", "m3"})
    desk.send(("m4", reading(2, 3.0)))
    assert set(state.look(desk.folder).latest_us) == {"m1", "m2", "m3", "m4"}


def test_the_newest_reading_is_seen_though_its_hour_is_open(desk: EdgeAtDesk) -> None:
    desk.send(*(("m1", reading(hour, 1.0)) for hour in (1, 2)))
    desk.send(("m1", reading(2.25, 3.0)))
    assert state.look(desk.folder).latest_us["m1"] == START_US + 2 * HOUR_US + HOUR_US // 4


def test_what_a_killed_edge_left_in_its_log_is_read(desk: EdgeAtDesk, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in desk.folder.glob("edge.sqlite*"):
        (copy / file.name).write_bytes(file.read_bytes())
    assert set(state.look(copy).latest_us) == {"m1", "m2"}


def test_a_folder_without_a_state_waits_for_the_first_run(tmp_path: Path) -> None:
    assert [one.grade for one in findings(tmp_path / "none").values()] == [Grade.OK]


def test_an_empty_database_is_no_state_yet(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"")
    assert [one.grade for one in findings(tmp_path).values()] == [Grade.OK]


@pytest.mark.parametrize("place", [0, 4096])
def test_a_damaged_state_is_to_mend(place: int, folder: Path) -> None:
    with (folder / DATABASE).open("r+b") as file:
        file.seek(place)
        file.write(b"\x5a" * 4096)
    found = findings(folder)["state"]
    assert found.grade is Grade.MEND
    assert "damaged" in found.found


def test_a_state_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / DATABASE).mkdir()
    found = findings(tmp_path)["state"]
    assert (found.grade, found.found) == (Grade.MEND, "cannot be read: unable to open database file")


def test_a_state_of_another_version_is_to_mend(folder: Path) -> None:
    change(folder, "PRAGMA user_version=999")
    assert findings(folder)["state"].grade is Grade.MEND


@pytest.mark.parametrize(
    ("more", "others"), [({"site": "other"}, "site desk"), ({"grid": {"step": "15min"}}, "step_s 3600")]
)
def test_a_state_of_another_site_or_step_is_to_mend(more: dict[str, object], others: str, folder: Path) -> None:
    found = findings(folder, **more)["site and step"]
    assert found.grade is Grade.MEND
    assert found.found.startswith(f"begun with {others}, ")


def test_an_outbox_that_is_nearly_full_is_to_mend(folder: Path) -> None:
    change(folder, "INSERT INTO outbox(seq, body) VALUES(1000, ?)", bytes(900_000))
    found = findings(folder, outbox={"max_bytes": 1_048_576})["outbox"]
    assert found.grade is Grade.MEND
    assert "86% of outbox.max_bytes" in found.found


@pytest.mark.parametrize(("limit", "grade"), [(2, Grade.MEND), (3, Grade.OK)])
def test_a_site_with_as_many_meters_as_it_may_have_is_to_mend(limit: int, grade: Grade, folder: Path) -> None:
    assert findings(folder, edge={"state_dir": folder, "max_meters": limit})["meters"].grade is grade


def test_a_table_that_is_not_there_costs_only_what_it_would_have_told(folder: Path) -> None:
    change(folder, "DROP TABLE meters")
    seen = state.look(folder)
    assert (seen.latest_us, seen.facts["site"], seen.verdict) == ({}, "desk", "ok")


def test_states_that_were_set_aside_are_counted(folder: Path) -> None:
    for name in ("quarantine-20260105", "quarantine-20260106"):
        (folder / name).mkdir()
    found = findings(folder)["set aside"]
    assert found.grade is Grade.NOTE
    assert found.found == "2 damaged states set aside, the latest quarantine-20260106"
