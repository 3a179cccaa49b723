"""Covariates at an edge: committed and recorded like any message, back after a restart, harmless when absent."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import covariates as edge_covariates
from edge.covariates import KEPT_US
from edge.effects import ChunkArrived, Commit, CovariatesArrived, DesiredArrived
from edge.rescue import rescue
from edge.salvage import DATABASE
from edge.schema import create_state
from shared.clock import DAY_US, HOUR_US, iso
from shared.covariates import MAX_NAMES
from shared.manifest import pack
from shared.messages import Desired
from shared.packets import Incoming
from tests.small_model import DRIVEN_BY, driven_load, driven_model, driver, manifest_of
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[EdgeAtDesk]:
    desk = EdgeAtDesk(tmp_path / "edge")
    yield desk
    desk.store.close()


def _issue(issued_h: float, start_h: float, values: Sequence[float | None], **more: Any) -> dict[str, Any]:
    times = {"issued_at": iso(START_US + round(issued_h * HOUR_US)), "start": iso(START_US + round(start_h * HOUR_US))}
    return {**times, "step": "1h", "values": values, **more}


def _publish(desk: EdgeAtDesk, *contents: Any, name: str = "temperature", retain: bool = False) -> None:
    topic = f"metercast/desk/covariates/{name}"
    payloads = [content if isinstance(content, bytes) else json.dumps(content).encode() for content in contents]
    messages = tuple(Incoming(topic, payload, len(payload), retain=retain) for payload in payloads)
    desk.tell(CovariatesArrived(messages))


def _known(desk: EdgeAtDesk, origin_h: int, lead: int, name: str = "temperature") -> float:
    columns = desk.node.site.covariates.columns((name,), START_US + origin_h * HOUR_US, np.array([lead]))
    return float(columns[0, 0])


def test_an_issue_is_committed_and_recorded_as_it_was_said(desk: EdgeAtDesk) -> None:
    _publish(desk, _issue(0, 1, [1.5, None, 2.5], unit="°C"))
    assert isinstance(desk.effects[0], Commit)
    (row,) = desk.rows("covariates")
    assert row == {
        "name": "temperature",
        "issued_us": START_US,
        "start_us": START_US + HOUR_US,
        "step_s": 3600.0,
        "values": [1.5, None, 2.5],
        "unit": "°C",
        "received_us": START_US,
    }
    assert _known(desk, 0, 2) == 1.5


def test_an_issue_delivered_again_or_retained_counts_once_and_a_corrected_one_takes_its_place(desk: EdgeAtDesk) -> None:
    _publish(desk, _issue(0, 1, [1.5]), _issue(0, 1, [1.5]))
    _publish(desk, _issue(0, 1, [1.5]), retain=True)
    assert len(desk.rows("covariates")) == 1
    _publish(desk, _issue(0, 1, [7.0]))
    assert [row["values"] for row in desk.rows("covariates")] == [[1.5], [7.0]]
    assert _known(desk, 0, 2) == 7.0
    assert desk.node.counters["covariates", "duplicate"] == 2


def test_a_restart_knows_what_was_committed(desk: EdgeAtDesk) -> None:
    _publish(desk, _issue(0, 1, [1.5, None]), _issue(2, 1, [3.5], unit="K"), _issue(0, 1, [9.0]))
    _publish(desk, _issue(0, 0, [4.0]), name="sun")
    desk.restart()
    assert desk.node.site.covariates.names == ("sun", "temperature")
    assert (_known(desk, 0, 2), _known(desk, 2, 0), _known(desk, 0, 1, "sun")) == (9.0, 3.5, 4.0)
    _publish(desk, _issue(0, 0, [4.0]), name="sun")
    assert desk.node.counters["covariates", "duplicate"] == 1


def test_a_state_of_an_earlier_version_without_covariates_goes_on(tmp_path: Path) -> None:
    EdgeAtDesk(tmp_path / "edge").store.close()
    with closing(sqlite3.connect(tmp_path / "edge" / DATABASE)) as db:
        db.execute("DROP TABLE covariates")
    desk = EdgeAtDesk(tmp_path / "edge")
    _publish(desk, _issue(0, 1, [1.5]))
    desk.restart()
    assert _known(desk, 0, 2) == 1.5
    desk.store.close()


def test_what_is_no_issue_is_a_dead_letter_and_a_cleared_topic_is_nothing(desk: EdgeAtDesk) -> None:
    _publish(desk, b"{", _issue(0, 1, ["warm"]), b"", _issue(0, 1, [1.0]))  # type: ignore[list-item]
    _publish(desk, _issue(0, 1, [1.0]), name="b/c")
    _publish(desk, b" " * (desk.params.edge.max_payload_bytes + 1))
    reasons = [letter["reason"] for letter in desk.dead_letters]
    assert len(reasons) == len(desk.rows("dead_letters")) == 4
    for reason, sentence in zip(reasons, ["JSON", r"values.0", "'b/c' is not", "edge.max_payload_bytes"], strict=True):
        assert sentence in reason
    assert len(desk.rows("covariates")) == 1


def test_what_is_issued_too_far_ahead_or_has_long_passed_is_a_dead_letter(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0)))
    ahead_h, ago_h = 24 * 500, -24 * 500
    _publish(desk, _issue(ahead_h, ahead_h, [1.0]), _issue(ago_h, ago_h, [1.0]))
    first, second = (letter["reason"] for letter in desk.dead_letters)
    assert "grid.max_ahead" in first
    assert "grid.max_age" in second
    assert not desk.rows("covariates")


def test_history_is_recorded_for_training_and_not_kept(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(24 * 60, 1.0)))
    _publish(desk, _issue(0, 0, [1.0]))
    assert len(desk.rows("covariates")) == 1
    assert desk.node.site.covariates.names == ()


def test_what_a_broker_retains_of_long_ago_is_not_recorded_again_at_each_connect(desk: EdgeAtDesk) -> None:
    _publish(desk, _issue(0, 0, [1.0]), retain=True)
    desk.send(("m1", reading(24 * 60, 1.0)))
    for _connect in range(3):
        _publish(desk, _issue(0, 0, [1.0]), retain=True)
    assert len(desk.rows("covariates")) == 1
    assert desk.node.counters["covariates", "duplicate"] == 3


def test_what_no_origin_asks_for_any_more_is_let_go_of_here_and_on_disk(desk: EdgeAtDesk) -> None:
    _publish(desk, _issue(0, 0, [1.0] * 24), name="old")
    desk.send(("m1", reading(24 + KEPT_US // HOUR_US, 1.0)))
    _publish(desk, _issue(24 * 11, 24 * 11, [1.0]))
    assert desk.node.site.covariates.names == ("temperature",)
    desk.restart()
    assert desk.node.site.covariates.names == ("temperature",)


def test_names_and_values_are_bounded_and_it_is_told(desk: EdgeAtDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_covariates, "VALUES_KEPT", 10)
    for number in range(MAX_NAMES + 1):
        _publish(desk, _issue(0, 0, [1.0]), name=f"n{number}")
    assert len(desk.node.site.covariates.names) == MAX_NAMES
    assert f"beyond the {MAX_NAMES} covariates" in desk.dead_letters[-1]["reason"]
    _publish(desk, *(_issue(hour, hour, [float(hour)] * 4) for hour in range(4)), name="n0")
    assert math.isnan(_known(desk, 1, 1, "n0"))  # the oldest went
    assert _known(desk, 3, 1, "n0") == 3.0
    status = desk.node.status(instance="i", started_at="s", version="v")
    assert "more values of a covariate than are kept" in "; ".join(status.reasons)
    desk.restart()
    assert _known(desk, 3, 1, "n0") == 3.0
    assert math.isnan(_known(desk, 1, 1, "n0"))


def test_a_rescue_carries_issues_over_and_leaves_what_is_none(desk: EdgeAtDesk, tmp_path: Path) -> None:
    _publish(desk, _issue(0, 0, [1.0, None]), _issue(1, 0, [2.0] * 300))
    desk.store._db.execute("INSERT INTO covariates VALUES('bad', 5, 7, 11, '{')")
    desk.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(tmp_path / "fresh", isolation_level=None)) as fresh:
        create_state(fresh)
        assert rescue(desk.folder / DATABASE, fresh).kept["covariates"] == 2


def _driven_desk(folder: Path, *, told: bool) -> EdgeAtDesk:
    """An edge with a model trained with a covariate, after four weeks of a meter that it drives; told or not."""
    desk = EdgeAtDesk(folder)
    artifact, golden, features, schema_hash = driven_model()
    manifest = manifest_of(artifact, golden, features=list(features), schema_hash=schema_hash)
    desk.tell(DesiredArrived("metercast/desk/models/desired", Desired(champion=manifest).encode()))
    for number, chunk in enumerate(pack(artifact).chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))
    hours = 24 * 28
    series = driver(START_US, hours + 48)
    if told:
        for day in range(18, 28):
            values = [float(value) for value in series[24 * day : 24 * day + 72]]
            _publish(desk, _issue(24 * day, 24 * day, values), name=DRIVEN_BY)
    load_kw = driven_load(START_US, hours)
    desk.send(*[("m1", reading(hour, float(load_kw[hour]))) for hour in range(hours)])
    return desk


def _error(desk: EdgeAtDesk) -> float:
    """Of the last forecast's median."""
    forecast = desk.of_topic("forecasts/m1")[-1]
    assert forecast["rung"] == "champion"
    assert forecast["origin"] == iso(START_US + 28 * DAY_US)
    truth = driven_load(START_US, 24 * 30)[24 * 28 :]
    return float(np.abs(np.array(forecast["quantiles"]["0.5"]) - truth).mean())


def test_a_model_trained_with_a_covariate_uses_it_and_serves_without(tmp_path: Path) -> None:
    told, untold = (_driven_desk(tmp_path / str(told), told=told) for told in (True, False))
    assert _error(told) < 0.7 * _error(untold)
    assert told.node.models.champion is not None
    assert told.node.models.champion.covariates == (DRIVEN_BY,)
    for desk in (told, untold):
        desk.store.close()
