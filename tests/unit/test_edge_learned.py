"""What the edge learned of its meters, on disk: an odd row costs that row, and other quantiles cost what they spoil."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.calibration import Source
from edge.changes import Changes
from edge.rescue import rescue
from edge.salvage import DATABASE
from edge.schema import create_state
from shared.calibration import fresh
from shared.errors import StateError
from shared.standing import RECORD, reason_of
from tests.unit.edge_harness import EdgeAtDesk, reading

KNOTS = 4
METERS = ("a", "b")
GOOD = np.full((len(METERS), KNOTS, 5), 0.25, dtype=np.float32)
RECORDS = np.array([(3, True, 250.0, 300.0, 200.0), (3, False, 250.0, 100.0, 200.0)], dtype=RECORD)
STATE = GOOD[0].tobytes()


def _state(part: int, value: float) -> bytes:
    spoilt = GOOD[0].copy()
    spoilt[1, part] = value
    return bytes(spoilt)


# Rows of the state tables that no edge would have written, of meter `a`.
ODD_STATES: dict[str, tuple[Any, ...]] = {
    "an unknown source": (7, 0, KNOTS, STATE),
    "a source below all": (-1, 0, KNOTS, STATE),
    "a source that is text": ("model", 0, KNOTS, STATE),
    "no number": (0, 0, KNOTS, _state(0, np.nan)),
    "a part out of bounds": (0, 0, KNOTS, _state(2, -1e30)),
    "hours below zero": (0, 0, KNOTS, _state(4, -50.0)),
    "hours without end": (0, 0, KNOTS, _state(4, np.inf)),
    "another size": (0, 0, KNOTS, STATE[:-4]),
    "a state that is text": (0, 0, KNOTS, "x" * len(STATE)),
}
ODD_RECORDS: dict[str, tuple[Any, ...]] = {
    "a version beyond int32": (0, 2**40, 0, 1.0, 1.0, 1.0),
    "a version that is text": (0, "one", 0, 1.0, 1.0, 1.0),
    "a verdict that is none": (0, 3, 2, 1.0, 1.0, 1.0),
    "a verdict without evidence": (0, 3, 1, 0.0, 1.0, 1.0),
    "a verdict on next to nothing": (0, 3, 1, 1e-60, 1.0, 1.0),
    "evidence below zero": (0, 3, 0, -1.0, 1.0, 1.0),
    "an error without end": (0, 3, 0, 1.0, float("inf"), 1.0),
    "an error beyond float32": (0, 3, 0, 1.0, 1.0, 1e300),
    "an error that is text": (0, 3, 0, 1.0, 1.0, "much"),
}
ODD = [("calibration", told) for told in ODD_STATES] + [("standing", told) for told in ODD_RECORDS]
NO_METERS = [
    ("calibration", (0, 10**12, KNOTS, STATE)),
    ("calibration", (0, -1, KNOTS, STATE)),
    ("standing", (10**12, 3, 1, 1.0, 1.0, 1.0)),
    ("standing", (-1, 3, 1, 1.0, 1.0, 1.0)),
]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[EdgeAtDesk]:
    """An edge that has learned something of two meters, and has forecasts waiting for their truths."""
    desk = EdgeAtDesk(tmp_path / "edge")
    for hour in range(24):
        desk.send(*[(meter, reading(hour, 1.0)) for meter in METERS])
    site, rows = desk.node.site, np.arange(len(METERS))
    site.calibration.put(Source.MODEL, rows, GOOD)
    site.standing.put(rows, RECORDS)
    desk.store.commit(Changes(calibrated=[(Source.MODEL, rows)], standing=set(rows.tolist())), site)
    yield desk
    desk.store.close()


def _write(folder: Path, table: str, row: Sequence[Any]) -> None:
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        db.execute(f"INSERT OR REPLACE INTO {table} VALUES({','.join('?' * len(row))})", row)


def _odd(table: str, told: str) -> tuple[Any, ...]:
    return ODD_STATES[told] if table == "calibration" else ODD_RECORDS[told]


def _learned(desk: EdgeAtDesk) -> Any:
    return desk.node.site.calibration.of(Source.MODEL, np.arange(len(METERS)))


def _standing(desk: EdgeAtDesk) -> Any:
    return desk.node.site.standing.held(np.arange(len(METERS)))


def _count(desk: EdgeAtDesk, table: str) -> int:
    with closing(sqlite3.connect(desk.folder / DATABASE)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize(("table", "told"), ODD)
def test_the_edge_starts_without_an_odd_row_and_with_all_others(desk: EdgeAtDesk, table: str, told: str) -> None:
    desk.store.close()
    _write(desk.folder, table, _odd(table, told))
    desk.boot()
    np.testing.assert_array_equal(_learned(desk)[1], GOOD[1])
    assert _standing(desk)[1] == RECORDS[1]
    if table == "standing":
        assert _standing(desk)[0] == np.zeros(1, dtype=RECORD)[0]
    elif _odd(table, told)[0] == Source.MODEL:
        np.testing.assert_array_equal(_learned(desk)[0], fresh(1, KNOTS)[0])
    desk.send(*[(meter, reading(24, 1.0)) for meter in METERS])
    assert len(desk.of_topic("forecasts/a")) > 0


@pytest.mark.parametrize(("table", "row"), NO_METERS)
def test_what_is_said_to_be_of_no_meter_is_of_none(desk: EdgeAtDesk, table: str, row: tuple[Any, ...]) -> None:
    desk.store.close()
    _write(desk.folder, table, row)
    desk.boot()
    np.testing.assert_array_equal(_learned(desk), GOOD)
    assert (_standing(desk) == RECORDS).all()


@pytest.mark.parametrize(("table", "told"), ODD)
def test_a_rescue_leaves_an_odd_row_behind(desk: EdgeAtDesk, table: str, told: str, tmp_path: Path) -> None:
    desk.store.close()
    before = {name: _count(desk, name) for name in ("calibration", "standing")}
    _write(desk.folder, table, _odd(table, told))
    beside = table == "calibration" and _odd(table, told)[0] != Source.MODEL  # else it took the place of a good one
    with closing(sqlite3.connect(tmp_path / "fresh", isolation_level=None)) as db:
        create_state(db)
        kept = rescue(desk.folder / DATABASE, db).kept
    desk.boot()
    assert {name: kept[name] for name in before} == {**before, table: before[table] - (not beside)}


def test_an_odd_row_elsewhere_is_told_as_an_error_of_the_state(desk: EdgeAtDesk) -> None:
    desk.store.close()
    with closing(sqlite3.connect(desk.folder / DATABASE, isolation_level=None)) as db:
        db.execute("UPDATE issued SET rung = 100000")
    with pytest.raises(StateError, match="cannot be read"):
        desk.boot()


def test_a_verdict_that_is_kept_can_be_told(desk: EdgeAtDesk) -> None:
    desk.restart()
    assert reason_of(_standing(desk)[0]).endswith("mean absolute error 1.2 kW against 0.8 kW of late")


def _with_quantiles(desk: EdgeAtDesk, quantiles: str) -> EdgeAtDesk:
    desk.store.close()
    return EdgeAtDesk(desk.folder, (f"forecast.quantiles={quantiles}",))


def test_other_outer_quantiles_begin_calibration_anew_and_learn_nothing_from_what_was_issued_before(
    desk: EdgeAtDesk,
) -> None:
    assert _count(desk, "issued") > 0
    other = _with_quantiles(desk, "[0.05,0.5,0.95]")
    assert (_count(other, "issued"), _count(other, "calibration")) == (0, 0)
    np.testing.assert_array_equal(_learned(other), fresh(len(METERS), KNOTS))
    other.send(*[(meter, reading(24, 1.0)) for meter in METERS])
    assert not other.node.site.calibration.of(Source.RULE, np.arange(len(METERS))).any()
    other.store.close()


def test_the_verdicts_on_medians_outlive_other_outer_quantiles(desk: EdgeAtDesk) -> None:
    other = _with_quantiles(desk, "[0.05,0.5,0.95]")
    assert (_standing(other) == RECORDS).all()
    other.store.close()


def test_more_quantiles_within_the_same_outer_ones_cost_nothing(desk: EdgeAtDesk) -> None:
    waiting = _count(desk, "issued")
    other = _with_quantiles(desk, "[0.1,0.25,0.5,0.75,0.9]")
    assert _count(other, "issued") == waiting
    np.testing.assert_array_equal(_learned(other), GOOD)
    other.store.close()


def test_a_state_that_does_not_tell_its_outer_quantiles_is_taken_as_it_is_and_tells_them_from_then_on(
    desk: EdgeAtDesk,
) -> None:
    desk.store.close()
    with closing(sqlite3.connect(desk.folder / DATABASE, isolation_level=None)) as db:
        db.execute("DELETE FROM facts WHERE name = 'outer'")
    desk.boot()
    np.testing.assert_array_equal(_learned(desk), GOOD)
    other = _with_quantiles(desk, "[0.05,0.5,0.95]")
    np.testing.assert_array_equal(_learned(other), fresh(len(METERS), KNOTS))
    other.store.close()
