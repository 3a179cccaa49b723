"""What was learned of meters, on disk: nothing odd in it keeps an edge from starting, other quantiles begin anew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node
from edge.rescue import _CREDIBLE
from edge.salvage import DATABASE
from edge.store import Store
from shared.errors import StateError
from shared.params import Params


def _state(folder: Path, **forecast: object) -> Store:
    store = Store(folder, "2026-01-01T00:00:00Z")
    params = Params.model_validate({"site": "desk", "clock": "event", "forecast": forecast})
    build_node(params, store, ArtifactFolder(folder / "models"))
    return store


def _learned(folder: Path) -> list[int]:
    with sqlite3.connect(folder / DATABASE) as db:
        tables = ("issued", "calibration", "standing")
        return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def _learn(folder: Path, standing: tuple[object, ...] = (0, 1, 0, 1.0, 1.0, 1.0)) -> None:
    with sqlite3.connect(folder / DATABASE) as db:
        db.execute("INSERT INTO meters VALUES(0, 'a', 0, 0, 0, 0, 0, 0)")
        db.execute("INSERT INTO issued VALUES(0, 0, 0, ?, 0, 0)", (bytes(48),))
        db.execute("INSERT INTO calibration(source, meter, leads, state) VALUES(0, 0, 4, ?)", (bytes(80),))
        db.execute(
            "INSERT INTO standing(meter, version, down, evidence, champion_kw, naive_kw) VALUES(?,?,?,?,?,?)", standing
        )


def test_other_outer_quantiles_begin_calibration_anew_and_the_same_keep_it(tmp_path: Path) -> None:
    _state(tmp_path).close()
    _learn(tmp_path)
    _state(tmp_path, quantiles=[0.1, 0.25, 0.5, 0.75, 0.9]).close()
    assert _learned(tmp_path) == [1, 1, 1]
    _state(tmp_path, quantiles=[0.05, 0.5, 0.95]).close()
    assert _learned(tmp_path) == [0, 0, 0]


def test_a_version_that_no_model_has_is_our_own_error(tmp_path: Path) -> None:
    _state(tmp_path).close()
    _learn(tmp_path, (0, 2**40, 0, 1.0, 1.0, 1.0))
    with pytest.raises(StateError):
        _state(tmp_path)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("calibration", {"source": 7, "meter": 0, "state": b""}),
        ("standing", {"version": 2**40, "down": 0, "evidence": 1.0, "champion_kw": 1.0, "naive_kw": 1.0}),
        ("standing", {"version": 1, "down": 1, "evidence": 0.0, "champion_kw": 1.0, "naive_kw": 1.0}),
        ("standing", {"version": 1, "down": 0, "evidence": 1.0, "champion_kw": float("inf"), "naive_kw": 1.0}),
    ],
)
def test_a_rescue_takes_no_row_that_nobody_can_have_learned(table: str, row: dict[str, object]) -> None:
    assert not _CREDIBLE[table](row)


def test_a_rescue_takes_what_was_learned() -> None:
    assert _CREDIBLE["calibration"]({"source": 1, "meter": 3, "state": b""})
    assert _CREDIBLE["standing"]({"version": 1, "down": 1, "evidence": 2.0, "champion_kw": 1.0, "naive_kw": 0.5})
