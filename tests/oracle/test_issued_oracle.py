"""What an edge sent, by two roads: its own messages, and the replay of its calibration from the scores it sent up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from central.issued import History, served
from edge.calibration import Source
from edge.effects import ChunkArrived, DesiredArrived
from shared.calendars import Calendar
from shared.clock import HOUR_US, iso
from shared.features import feature_matrix, load_floor, to_load
from shared.messages import Desired
from shared.params import scored_leads
from tests.small_model import SAID_QUANTILES, small_manifest
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

HOURS = 14 * 24
KNOTS = scored_leads(3600, 48)
LOAD_KW = np.random.default_rng(5).lognormal(0, 0.8, HOURS)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> EdgeAtDesk:
    """An edge that has served a meter with its champion for eleven days."""
    desk = EdgeAtDesk(tmp_path_factory.mktemp("issued") / "edge")
    manifest, chunks = small_manifest()
    desk.tell(DesiredArrived(desk.node.topics.desired, Desired(champion=manifest, challenger=None).encode()))
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))
    for hour in range(HOURS):
        desk.send(("m", reading(hour, float(LOAD_KW[hour]))), tick=hour % 24 == 23)
    return desk


@pytest.fixture(scope="module")
def scores(lived: EdgeAtDesk) -> pd.DataFrame:
    """Its scores as the record holds them."""
    rows = pd.DataFrame(lived.rows("scores"))
    assert {"champion", "seasonal_naive_24"} <= set(rows["rung"])
    valid_at = pd.to_datetime(rows["valid_us"], unit="us", utc=True)
    return rows.assign(valid_at=valid_at, lead=rows["lead"].astype(np.int32))


def _model_kw(desk: EdgeAtDesk, hour: int) -> tuple[np.ndarray, np.ndarray]:
    """What the champion says [48, 3] at an hour before calibration, and its window's floor [1]."""
    champion = desk.node.models.champion
    assert champion is not None
    window = np.full((1, 720), np.nan, dtype=np.float32)
    window[0, 720 - hour :] = LOAD_KW[:hour]
    at = np.array([START_US + hour * HOUR_US])
    matrix = feature_matrix(window, at, np.arange(1, 49), calendar=Calendar("UTC"))
    return to_load(champion.run(matrix.x), matrix)[0], load_floor(window)


def _told(desk: EdgeAtDesk, scores: pd.DataFrame, hour: int, version: int = 1) -> tuple[np.ndarray, str]:
    model_kw, floor_kw = _model_kw(desk, hour)
    found = served(
        History.of(scores, 3600), model_kw, origin_us=START_US + hour * HOUR_US, version=version,
        quantiles=SAID_QUANTILES, knots=KNOTS, floor_kw=floor_kw,
    )  # fmt: skip
    assert found.calibrated_kw is not None
    return found.calibrated_kw, found.note


def test_the_states_replayed_from_scores_are_the_edges_to_the_bit(lived: EdgeAtDesk, scores: pd.DataFrame) -> None:
    states = History.of(scores, 3600).states(START_US + HOURS * HOUR_US, KNOTS, (0.1, 0.9))
    row = lived.node.site.meters.by_name["m"].row
    np.testing.assert_array_equal(states, lived.node.site.calibration.of(Source.MODEL, np.array([row])))


@pytest.mark.parametrize("hour", [8 * 24, 12 * 24 + 7, HOURS])
def test_the_replayed_forecast_is_the_one_that_was_published(
    lived: EdgeAtDesk, scores: pd.DataFrame, hour: int
) -> None:
    calibrated_kw, note = _told(lived, scores, hour)
    told = next(f for f in lived.of_topic("forecasts/m") if f["origin"] == iso(START_US + hour * HOUR_US))
    assert told["rung"] == "champion"
    published = np.array(list(told["quantiles"].values())).T
    np.testing.assert_allclose(calibrated_kw, published, rtol=0, atol=6e-5)  # four decimals
    model_kw, _ = _model_kw(lived, hour)
    assert np.abs(model_kw - published).max() > 0.05  # before calibration it was another
    known = [lead for lead in KNOTS if hour + lead <= HOURS]
    assert note.endswith(f"published at leads {', '.join(map(str, known))}" if known else "has not been scored yet")


def test_what_was_issued_is_told_of_the_leads_whose_truth_has_come(lived: EdgeAtDesk, scores: pd.DataFrame) -> None:
    hour = HOURS - 10
    told = next(f for f in lived.of_topic("forecasts/m") if f["origin"] == iso(START_US + hour * HOUR_US))
    issued = History.of(scores, 3600).issued(START_US + hour * HOUR_US)
    assert [one.lead for one in issued] == [1, 6]
    for one in issued:
        sent = [told["quantiles"][level][one.lead - 1] for level in ("0.1", "0.5", "0.9")]
        assert [one.low_kw, one.median_kw, one.high_kw] == pytest.approx(sent, abs=1e-6)


def test_nothing_after_an_origin_is_used_for_it(lived: EdgeAtDesk, scores: pd.DataFrame) -> None:
    hour = 10 * 24
    later = scores["valid_us"] >= START_US + hour * HOUR_US
    changed = scores.assign(y_kw=scores["y_kw"].where(~later, 1e6))
    np.testing.assert_array_equal(_told(lived, scores, hour)[0], _told(lived, changed, hour)[0])


def test_doubt_is_told(lived: EdgeAtDesk, scores: pd.DataFrame) -> None:
    hour = 10 * 24
    assert _told(lived, scores, hour, version=2)[1].endswith("published at this origin was the forecast of version 1")
    first = scores["valid_us"] < START_US + 6 * 24 * HOUR_US
    assert "kW from that" in _told(lived, scores[~first], hour)[1]  # of days that are not in the record
    valid_us = scores["valid_us"]
    at, before = valid_us == START_US + (hour + 5) * HOUR_US, valid_us == START_US + (hour - 20) * HOUR_US
    other = scores["rung"].where(~(at & (scores["lead"] == 6)), "profile_mean")
    assert _told(lived, scores.assign(rung=other), hour)[1].endswith("was the forecast of profile_mean")
    down = scores[(valid_us < START_US + hour * HOUR_US) | (scores["lead"] > 48)]
    down = down.assign(rung=down["rung"].where(~before, "profile_mean"))
    assert "while other rungs served here is missing" in _told(lived, down, hour)[1]


def test_without_scores_that_is_said(lived: EdgeAtDesk, scores: pd.DataFrame) -> None:
    model_kw, floor_kw = _model_kw(lived, 200)
    found = served(
        History.of(scores.iloc[:0], 3600), model_kw, origin_us=START_US + 200 * HOUR_US, version=1,
        quantiles=SAID_QUANTILES, knots=KNOTS, floor_kw=floor_kw,
    )  # fmt: skip
    assert (found.calibrated_kw, found.issued) == (None, [])
    assert found.note.endswith("these are the model's own numbers, before calibration")
