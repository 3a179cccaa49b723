"""Forecasts learn from the truth, through the edge's one door: widths come right, and champions are stood down."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.calibration import Calibration, Source
from edge.effects import ChunkArrived, DesiredArrived, ForecastsConfirmed, Tick
from edge.forecaster import RUNGS
from edge.metrics import samples
from shared.calibration import fresh
from shared.clock import HOUR_US
from shared.manifest import pack
from shared.messages import Desired
from tests.small_model import manifest_of, small_manifest, small_model
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

NOISY = ("n0", "n1", "n2", "n3")
WEEK_H = 168
STOOD_DOWN_BY_H, RETURNED_BY_H = 4 * WEEK_H, 6 * WEEK_H + 48
CHANCE = np.random.default_rng(11)
NOISE_KW = CHANCE.lognormal(0, 0.8, (len(NOISY), RETURNED_BY_H + 48))
A_WEEK_KW, LATER_KW = CHANCE.uniform(0.2, 2.0, WEEK_H), CHANCE.uniform(0.2, 2.0, RETURNED_BY_H + 48)


TOO_SURE = (0.3, 0.5, 0.7)  # what the champion's quantiles are, which it takes for .1 .5 .9


def _install(desk: EdgeAtDesk, version: int = 1, *, beside: int | None = None) -> None:
    """Bring a model in as champion that is too sure, and a challenger `beside` it."""
    artifact, golden = small_model(quantiles=TOO_SURE)
    champion = manifest_of(artifact, golden, version)
    challenger, challengers_chunks = small_manifest(version=beside or 1)
    desired = Desired(champion=champion, challenger=challenger if beside else None)
    desk.tell(DesiredArrived(desk.node.topics.desired, desired.encode()))
    for manifest, chunks in ((champion, pack(artifact).chunks), (challenger, challengers_chunks)):
        for number, chunk in enumerate(chunks):
            desk.tell(ChunkArrived(manifest.sha256, number, chunk))
    assert desk.node.models.champion is not None


def _weekly_kw(hour: int) -> float:
    """A load that repeats each week, which none can forecast better than seasonal naive, until it never does."""
    return float(A_WEEK_KW[hour % WEEK_H] if hour < STOOD_DOWN_BY_H else LATER_KW[hour])


def _hour(hour: int) -> list[tuple[str, dict[str, Any]]]:
    """What all meters send of an hour."""
    noisy = [(meter, reading(hour, float(NOISE_KW[k, hour]))) for k, meter in enumerate(NOISY)]
    return [*noisy, ("weekly", reading(hour, _weekly_kw(hour)))]


def _play(desk: EdgeAtDesk, hours: Iterable[int], *, at_once: int = 1) -> None:
    """Send hours, `at_once` in a batch, and let the broker confirm every forecast."""
    hours = list(hours)
    for first in range(0, len(hours), at_once):
        desk.send(*[message for hour in hours[first : first + at_once] for message in _hour(hour)])
        confirmed = [publish.forecast for publish in desk.published if publish.forecast is not None]
        desk.tell(ForecastsConfirmed(tuple(confirmed[-len(NOISY) - 1 :])))


def _copied(folder: Path, to: Path) -> EdgeAtDesk:
    return EdgeAtDesk(Path(shutil.copytree(folder, to / "edge")))


@pytest.fixture(scope="module")
def four_weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edge's state folder after four weeks under one champion."""
    desk = EdgeAtDesk(tmp_path_factory.mktemp("four-weeks") / "edge")
    _install(desk)
    _play(desk, range(STOOD_DOWN_BY_H), at_once=24)
    desk.store.close()
    return desk.folder


@pytest.fixture(scope="module")
def six_weeks(four_weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two weeks later."""
    desk = _copied(four_weeks, tmp_path_factory.mktemp("six-weeks"))
    _play(desk, range(STOOD_DOWN_BY_H, RETURNED_BY_H), at_once=24)
    desk.store.close()
    return desk.folder


@pytest.fixture
def desk(four_weeks: Path, tmp_path: Path) -> EdgeAtDesk:
    return _copied(four_weeks, tmp_path)


def _coverage(scores: list[dict[str, Any]], from_h: int, until_h: int) -> float:
    """Share of the champion's scores of the noisy meters within the outer quantiles, in a stretch of hours."""
    inside = [
        row["low_kw"] <= row["y_kw"] <= row["high_kw"]
        for row in scores
        if row["meter_id"] in NOISY and row["rung"] == "champion" and row["role"] == "champion"
        if from_h <= (row["valid_us"] - START_US) / HOUR_US < until_h
    ]
    assert len(inside) > 400
    return float(np.mean(inside))


def _learned(desk: EdgeAtDesk, source: Source = Source.MODEL) -> Any:
    return desk.node.site.calibration.of(source, np.arange(desk.node.site.rows))


def _row(desk: EdgeAtDesk, meter: str = "weekly") -> int:
    return desk.node.site.meters.by_name[meter].row


def _standing(desk: EdgeAtDesk, version: int = 1) -> Any:
    return desk.node.site.standing.of(np.arange(desk.node.site.rows), version)


def _last(desk: EdgeAtDesk, meter: str) -> dict[str, Any]:
    return desk.of_topic(f"forecasts/{meter}")[-1]


def _metrics(desk: EdgeAtDesk) -> dict[str, float]:
    return {sample.name + "".join(map(str, sample.labels.values())): sample.value for sample in samples(desk.node)}


# -- calibration ---------------------------------------------------------------------------------------------------


def test_the_interval_of_a_model_that_is_too_sure_covers_more_from_week_to_week(
    six_weeks: Path, tmp_path: Path
) -> None:
    scores = _copied(six_weeks, tmp_path).rows("scores")
    weekly = [_coverage(scores, week * WEEK_H, (week + 1) * WEEK_H) for week in range(6)]
    assert weekly == sorted(weekly)
    assert weekly[0] < 0.4
    assert weekly[-1] > weekly[0] + 0.3


def test_what_is_published_is_what_is_scored(desk: EdgeAtDesk) -> None:
    _play(desk, [STOOD_DOWN_BY_H])
    issued = _last(desk, "n0")["quantiles"]
    _play(desk, [STOOD_DOWN_BY_H + 1])
    score = [row for row in desk.rows("scores") if row["meter_id"] == "n0" and row["lead"] == 1][-1]
    told = [score[name] for name in ("low_kw", "forecast_kw", "high_kw")]
    assert told == pytest.approx([issued[level][0] for level in ("0.1", "0.5", "0.9")], abs=1e-4)


def test_the_metrics_tell_how_much_wider_than_the_model_s_the_issued_intervals_are(desk: EdgeAtDesk) -> None:
    _play(desk, [STOOD_DOWN_BY_H])
    told = _metrics(desk)
    assert told["metercast_forecast_width_kwissued24"] > 1.3 * told["metercast_forecast_width_kwmodelled24"]


def test_a_restart_goes_on_with_the_same_numbers(desk: EdgeAtDesk) -> None:
    _play(desk, range(STOOD_DOWN_BY_H, STOOD_DOWN_BY_H + 3))
    before = _learned(desk), _learned(desk, Source.RULE), _standing(desk)
    desk.restart()
    for was, now in zip(before, (_learned(desk), _learned(desk, Source.RULE), _standing(desk)), strict=True):
        np.testing.assert_array_equal(was, now)
    assert before[0].any()


def test_a_crash_before_the_commit_of_a_round_learns_its_truths_once(desk: EdgeAtDesk, tmp_path: Path) -> None:
    other = _copied(desk.folder, tmp_path / "other")
    hour = STOOD_DOWN_BY_H
    _play(other, range(hour, hour + 2))
    desk.send(*_hour(hour), tick=False)
    desk.node.handle(Tick(caught_up=True), START_US)  # the effects of which nobody carries out
    assert not np.array_equal(_learned(other), _learned(_copied(desk.folder, tmp_path / "third")))
    desk.restart()
    desk.tick()
    _play(desk, [hour + 1])
    np.testing.assert_array_equal(_learned(desk), _learned(other))
    np.testing.assert_array_equal(_standing(desk), _standing(other))
    assert _last(desk, "n0")["quantiles"] == _last(other, "n0")["quantiles"]


def test_a_forecast_published_again_after_a_crash_learns_nothing_again(desk: EdgeAtDesk) -> None:
    desk.send(*_hour(STOOD_DOWN_BY_H))
    first, before = _last(desk, "n0"), _learned(desk)
    desk.restart()  # the broker had not confirmed it
    desk.published.clear()
    desk.tick()
    np.testing.assert_array_equal(_learned(desk), before)
    assert _last(desk, "n0") == first


def test_a_swap_of_champions_keeps_what_was_learned_of_the_meters(desk: EdgeAtDesk) -> None:
    before = _learned(desk)
    _install(desk, version=2)
    np.testing.assert_array_equal(_learned(desk), before)
    _play(desk, [STOOD_DOWN_BY_H])
    assert (_last(desk, "n0")["model"]["version"], _learned(desk).any()) == (2, True)


def test_each_source_of_forecasts_learns_by_itself(desk: EdgeAtDesk) -> None:
    _install(desk, beside=2)
    began = _learned(desk, Source.CHALLENGER)
    _play(desk, range(STOOD_DOWN_BY_H, STOOD_DOWN_BY_H + 4))
    after = _learned(desk, Source.CHALLENGER)
    np.testing.assert_array_equal(began, fresh(len(began), 4))
    assert not np.array_equal(after, began)
    assert not np.array_equal(after, _learned(desk))


def test_a_state_of_another_shape_on_disk_begins_anew() -> None:
    calibration = Calibration((1, 24), (0.1, 0.5, 0.9), 3600)
    state = np.full_like(fresh(1, 2), 0.25)
    spoilt = state.copy()
    spoilt.flat[0] = np.nan
    calibration.unpack(Source.MODEL, [(0, state.tobytes()), (1, state.tobytes()[:-4]), (2, spoilt.tobytes())])
    held = calibration.of(Source.MODEL, np.arange(4))
    np.testing.assert_array_equal(held, np.concatenate([state, fresh(3, 2)]))


def test_a_meter_without_history_has_no_number_before_calibration_nor_after() -> None:
    calibration = Calibration((1,), (0.1, 0.5, 0.9), 3600)
    calibration.put(Source.RULE, np.array([0, 1]), np.full_like(fresh(2, 1), 0.25))
    load_kw = np.array([[[1.0, 2.0, 3.0]], [[np.nan] * 3]])
    moved = calibration.apply(load_kw, np.full(2, Source.RULE, dtype=np.int8), np.array([0, 1]), np.zeros(2))
    assert np.isfinite(moved[0]).all()
    assert np.isnan(moved[1]).all()


# -- stand-down ----------------------------------------------------------------------------------------------------


def test_a_champion_that_seasonal_naive_beats_is_stood_down_for_that_meter_alone(desk: EdgeAtDesk) -> None:
    _play(desk, [STOOD_DOWN_BY_H])
    told = _last(desk, "weekly")
    assert told["rung"] == RUNGS[1]
    assert told["model"] is None
    assert told["reason"].startswith("the champion was worse than seasonal naive here: mean absolute error ")
    assert {_last(desk, meter)["rung"] for meter in NOISY} == {"champion"}
    (event,) = desk.rows("events")
    assert (event["event"], event["detail"].split(":")[0]) == ("champion_stood_down", "weekly")
    assert _metrics(desk)["metercast_meters_stood_down"] == 1


def test_it_returns_when_it_is_better_again(six_weeks: Path, tmp_path: Path) -> None:
    desk = _copied(six_weeks, tmp_path)
    _play(desk, [RETURNED_BY_H])
    assert (_last(desk, "weekly")["rung"], _last(desk, "weekly")["reason"]) == ("champion", "")
    assert [event["event"] for event in desk.rows("events")] == ["champion_stood_down", "champion_returned"]
    assert _metrics(desk)["metercast_meters_stood_down"] == 0


def test_while_it_is_stood_down_it_is_judged_in_the_background_and_central_is_told_of_the_rung_that_serves(
    desk: EdgeAtDesk,
) -> None:
    before, seen = _standing(desk)[_row(desk)], len(desk.rows("scores"))
    _play(desk, range(STOOD_DOWN_BY_H, STOOD_DOWN_BY_H + 50))
    assert _standing(desk)[_row(desk)]["evidence"] > before["evidence"]
    told = [row for row in desk.rows("scores")[seen:] if row["meter_id"] == "weekly"]
    assert {(row["role"], row["rung"]) for row in told[-4:]} == {("champion", RUNGS[1])}
    assert len({(row["valid_us"], row["lead"]) for row in told}) == len(told) == 200


def test_what_a_stood_down_champion_would_have_issued_survives_a_restart(desk: EdgeAtDesk, tmp_path: Path) -> None:
    other = _copied(desk.folder, tmp_path / "other")
    for hour in range(STOOD_DOWN_BY_H, STOOD_DOWN_BY_H + 30):
        _play(desk, [hour])
        _play(other, [hour])
        if hour % 10 == 0:
            other.restart()
    np.testing.assert_array_equal(_standing(desk), _standing(other))
    np.testing.assert_array_equal(_learned(desk), _learned(other))


def test_another_champion_inherits_the_verdict_and_half_of_the_evidence(desk: EdgeAtDesk) -> None:
    before = _standing(desk)[_row(desk)]
    _install(desk, version=2)
    _play(desk, [STOOD_DOWN_BY_H])
    assert (_last(desk, "weekly")["rung"], _last(desk, "weekly")["model"]) == (RUNGS[1], None)
    after = _standing(desk, 2)[_row(desk)]
    assert after["down"]
    assert after["evidence"] == before["evidence"] / 2  # its predecessor's forecasts, met since, say nothing of it
    assert _metrics(desk)["metercast_meters_stood_down"] == 1
