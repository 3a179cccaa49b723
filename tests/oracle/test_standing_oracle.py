"""Stand-down and calibration by two roads: an edge that lived through the hours, and the backtest that replays them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates
from central.dataset import Panel
from central.edge_replay import Ladder, Replay, replay
from central.evaluation import Forecaster, model_rung, simple_rungs
from central.hindcast import Hindcast, Stretch, hindcast
from edge.calibration import Source
from edge.effects import ChunkArrived, DesiredArrived
from edge.inference import Predictor
from shared.calendars import Calendar
from shared.clock import HOUR_US
from shared.features import feature_matrix, to_load
from shared.messages import Desired
from shared.params import scored_leads
from tests.small_model import SAID_QUANTILES, small_manifest
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

METERS = ("noisy", "weekly")
SWAP_H, HOURS = 4 * 168, 6 * 168
MIN_HISTORY_H = 72
KNOTS = scored_leads(3600, 48)
CHANCE = np.random.default_rng(11)
NOISY_KW = CHANCE.lognormal(0, 0.8, HOURS)
# A load that nearly repeats each week, which this model cannot forecast as well as seasonal naive, until it never does.
WEEKLY_KW = np.concatenate([np.tile(CHANCE.uniform(0.2, 2.0, 168), 4), CHANCE.uniform(0.2, 2.0, HOURS - SWAP_H)])
LOAD_KW = np.stack([NOISY_KW, WEEKLY_KW * CHANCE.lognormal(0, 0.1, HOURS)])


def _install(desk: EdgeAtDesk, version: int, seed: int) -> Predictor:
    manifest, chunks = small_manifest(version, seed=seed)
    desk.tell(DesiredArrived(desk.node.topics.desired, Desired(champion=manifest, challenger=None).encode()))
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))
    champion = desk.node.models.champion
    assert champion is not None
    assert champion.manifest.version == version
    return champion


def _live(desk: EdgeAtDesk, hours: Iterable[int]) -> None:
    for hour in hours:
        sent = ((meter, reading(hour, float(LOAD_KW[row, hour]))) for row, meter in enumerate(METERS))
        desk.send(*sent, tick=hour % 24 == 23)


def _forecaster(model: Predictor, calendar: Calendar) -> Forecaster:
    """The edge's model as the backtest takes one."""

    def forecast(
        windows: NDArray[np.float32],
        origins_us: NDArray[np.int64],
        leads: NDArray[np.int64],
        _: Covariates | None = None,
        /,
    ) -> NDArray[np.float64]:
        matrix = feature_matrix(windows, origins_us, leads, calendar=calendar)
        return to_load(model.run(matrix.x), matrix)

    return model_rung(forecast, SAID_QUANTILES, min_history_steps=MIN_HISTORY_H)


def _replayed(models: tuple[Predictor, Predictor], calendar: Calendar) -> tuple[Hindcast, Replay]:
    """The replay of origins 1 … HOURS; the second model came in after the round of SWAP_H."""
    panel = Panel(list(METERS), START_US, 3600, LOAD_KW)
    begins, swap, ends = (np.full(len(METERS), column) for column in (1, SWAP_H + 1, HOURS + 1))
    first, second = (_forecaster(model, calendar) for model in models)
    stretches = [Stretch(first, begins, swap), Stretch(second, swap, ends)]
    raw = hindcast(panel, stretches, KNOTS, SAID_QUANTILES)
    return raw, replay(panel, raw, Ladder(simple_rungs(SAID_QUANTILES, calendar), 48, SAID_QUANTILES))


def test_the_backtest_stands_a_model_down_and_calibrates_each_source_as_the_edge_did(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge")
    first = _install(desk, version=1, seed=1)
    _live(desk, range(SWAP_H))
    second = _install(desk, version=2, seed=2)
    _live(desk, range(SWAP_H, HOURS))
    events = [(row["event"], row["at_us"]) for row in desk.rows("events") if row["event"].startswith("champion_")]
    learned = {source: desk.node.site.calibration.of(source, np.arange(2)) for source in (Source.MODEL, Source.RULE)}
    order = [desk.node.site.meters.by_name[meter].row for meter in METERS]
    calendar = Calendar(desk.params.calendar.zone, desk.params.calendar.country or None)
    desk.store.close()

    raw, passed = _replayed((first, second), calendar)
    turns = np.flatnonzero(np.diff(passed.down[1])) + 1 + raw.first
    assert not passed.down[0].any()
    assert events == [
        (name, START_US + int(column) * HOUR_US)
        for name, column in zip(("champion_stood_down", "champion_returned"), turns, strict=True)
    ]
    assert turns[0] < SWAP_H + 1 < turns[1]  # its successor inherited the verdict, and gave it back
    for source, states in ((Source.MODEL, passed.model), (Source.RULE, passed.simple)):
        np.testing.assert_allclose(states[:, -1], learned[source][order], atol=1e-5)
