"""Calibration and stand-down replayed: in the order of the edge's rounds, on nothing but what was known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from central.dataset import Panel
from central.edge_replay import Ladder, replay, served_windows
from central.evaluation import Forecaster, Windows, judged_windows
from central.hindcast import Hindcast, Stretch, hindcast
from shared.calibration import fresh, learned, log_factors

KNOTS = (1, 6)
QUANTILES = (0.1, 0.5, 0.9)
HOUR_US = 3_600_000_000


def says(low: float, high: float) -> Forecaster:
    """A forecaster that says the same of every interval."""

    def forecast(
        windows: NDArray[np.float32], _: NDArray[np.int64], leads: NDArray[np.int64], _ahead: object = None, /
    ) -> NDArray[np.float64]:
        return np.tile([low, (low + high) / 2, high], (len(windows), len(leads), 1))

    return forecast


@pytest.fixture
def panel() -> Panel:
    return Panel(["a", "b"], 0, 3600, np.random.default_rng(1).normal(5.0, 2.0, (2, 400)))


def raw_of(panel: Panel, begin: int = 100, end: int = 400) -> Hindcast:
    begins, ends = np.array([begin, begin]), np.array([end, end])
    return hindcast(panel, [Stretch(says(4.5, 5.5), begins, ends)], KNOTS, QUANTILES)


def test_states_know_nothing_at_or_after_their_origin(panel: Panel) -> None:
    load_kw = panel.load_kw.copy()
    load_kw[:, 250:] = 99.0
    other = Panel(panel.meters, 0, 3600, load_kw)
    was, now = (replay(p, raw_of(panel)).model for p in (panel, other))
    assert np.array_equal(was[:, : 250 - 100 + 1], now[:, : 250 - 100 + 1])
    assert not np.array_equal(was[:, 250 - 100 + 2], now[:, 250 - 100 + 2])


def test_a_lead_is_first_learned_from_when_its_interval_has_ended(panel: Panel) -> None:
    states = replay(panel, raw_of(panel)).model
    assert np.array_equal(states[:, 0], fresh(2, 2))
    assert (states[:, 1, 0] != 0).any()
    assert not states[:, 5, 1].any()
    assert (states[:, 6, 1] != 0).any()
    by_hand = learned(fresh(2, 2)[:, 1], panel.load_kw[:, 105], np.tile([4.5, 5.0, 5.5], (2, 1)), outer=(0.1, 0.9))
    assert np.array_equal(states[:, 6, 1], by_hand)


def test_where_nothing_was_forecast_nothing_is_learned(panel: Panel) -> None:
    stretch = Stretch(says(4.5, 5.5), np.array([100, 200]), np.array([400, 400]))
    states = replay(panel, hindcast(panel, [stretch], KNOTS, QUANTILES)).model
    assert not states[1, :101].any()
    assert states[1, 101, 0].any()


def test_states_are_carried_over_from_one_model_to_the_next(panel: Panel) -> None:
    begins, swap, ends = np.array([100, 100]), np.array([250, 300]), np.array([400, 400])
    stretches = [Stretch(says(4.5, 5.5), begins, swap), Stretch(says(4.0, 6.0), swap, ends)]
    raw = hindcast(panel, stretches, KNOTS, QUANTILES)
    assert raw.spread_kw[0, [149, 150], 0, 0].tolist() == [4.5, 4.0]
    assert raw.spread_kw[1, [199, 200], 0, 0].tolist() == [4.5, 4.0]
    states = replay(panel, raw).model
    assert np.abs(log_factors(states[:, 151]) - log_factors(states[:, 149])).max() < 0.2
    assert log_factors(states[:, 151]).min() > 0.1  # too narrow before, and still held to be


def test_judged_windows_come_out_nearer_to_nominal(panel: Panel) -> None:
    origins_us = np.arange(300, 394, dtype=np.int64) * HOUR_US
    meters = np.repeat(np.arange(2), len(origins_us))
    windows = judged_windows(panel, meters, np.tile(origins_us, 2), horizon_steps=6)
    forecast = np.tile([4.0, 5.0, 6.0], (len(windows), 6, 1))
    begins, ends = np.array([31, 31]), np.array([400, 400])
    raw = hindcast(panel, [Stretch(says(4.0, 6.0), begins, ends)], KNOTS, QUANTILES)
    _, moved, down = served_windows(panel, windows, forecast, raw, Ladder(says(4.0, 6.0), 6, QUANTILES))

    def covered(f: NDArray[np.float64]) -> float:
        return float(((f[..., 0] <= windows.actual) & (windows.actual <= f[..., 2])).mean())

    assert not down.any()
    assert np.array_equal(moved[..., 1], forecast[..., 1])
    assert 0.8 - covered(moved) < 0.6 * (0.8 - covered(forecast))


HOURS = 1300
SWAP = 900


@pytest.fixture(scope="module")
def weekly() -> Panel:
    """Two meters that repeat their week, but for a little noise."""
    week = np.random.default_rng(2).gamma(2.0, 1.0, (2, 168))
    load_kw = np.tile(week, 8)[:, :HOURS] + np.random.default_rng(3).normal(0, 0.05, (2, HOURS))
    return Panel(["a", "b"], 0, 3600, load_kw)


def last_weeks(wrong_by_kw: float) -> Forecaster:
    """A forecaster that says the mean of the last three weeks, better than the last one, and is wrong by as much."""

    def forecast(
        windows: NDArray[np.float32], _: NDArray[np.int64], leads: NDArray[np.int64], _ahead: object = None, /
    ) -> NDArray[np.float64]:
        middle = np.mean([windows[:, -168 * week + leads - 1] for week in (1, 2, 3)], axis=0, dtype=np.float64)
        return np.stack([middle + wrong_by_kw - 0.1, middle + wrong_by_kw, middle + wrong_by_kw + 0.1], axis=-1)

    return forecast


def served(panel: Panel, first: float, then: float) -> tuple[Windows, NDArray[np.float64], NDArray[np.bool_]]:
    """What the windows after SWAP are sent, calibrated, by models so wrong before and after it; simple rungs say 7."""
    origins_us = np.arange(SWAP, HOURS - 6, dtype=np.int64) * HOUR_US
    meters = np.repeat(np.arange(2), len(origins_us))
    windows = judged_windows(panel, meters, np.tile(origins_us, 2), horizon_steps=6)
    swap, begins, ends = np.array([SWAP] * 2), np.array([504] * 2), np.array([HOURS] * 2)
    raw = hindcast(
        panel, [Stretch(last_weeks(first), begins, swap), Stretch(last_weeks(then), swap, ends)], KNOTS, QUANTILES
    )
    own = last_weeks(then)(panel.windows(windows.meters, windows.origins_us), windows.origins_us, windows.leads)
    _, moved, down = served_windows(panel, windows, own, raw, Ladder(says(6.5, 7.5), 6, QUANTILES))
    return windows, moved, down


def test_a_model_worse_than_last_week_is_stood_down_and_the_simple_rungs_serve(weekly: Panel) -> None:
    _, moved, down = served(weekly, first=1.0, then=1.0)
    assert down.all()
    assert (moved[..., 1] == 7.0).all()
    assert not served(weekly, first=0.0, then=0.0)[2].any()


def test_where_simple_rungs_serve_more_quantiles_change_nothing_for_the_outer_ones_and_the_median(
    weekly: Panel,
) -> None:
    """Five quantiles around the same three, of a model that is stood down."""

    def between(three: Forecaster) -> Forecaster:
        def forecast(
            windows: NDArray[np.float32], origins_us: NDArray[np.int64], leads: NDArray[np.int64], _: object = None, /
        ) -> NDArray[np.float64]:
            low, median, high = np.moveaxis(three(windows, origins_us, leads), -1, 0)
            return np.stack([low, (low + median) / 2, median, (median + high) / 2, high], axis=-1)

        return forecast

    begins, ends = np.array([504] * 2), np.array([HOURS] * 2)
    levels = (0.1, 0.3, 0.5, 0.7, 0.9)
    three, five = (
        replay(
            weekly,
            hindcast(weekly, [Stretch(wide(last_weeks(1.0)), begins, ends)], KNOTS, quantiles),
            Ladder(wide(says(6.5, 7.5)), 6, quantiles),
        )
        for wide, quantiles in ((lambda same: same, QUANTILES), (between, levels))
    )
    assert three.down.any()
    assert three.simple.any()
    for name in ("model", "simple", "down"):
        np.testing.assert_array_equal(getattr(five, name), getattr(three, name))


def test_a_good_successor_inherits_the_verdict_and_returns(weekly: Panel) -> None:
    windows, moved, down = served(weekly, first=0.1, then=0.0)
    first = down[windows.meters == 0]
    assert first[0]
    assert not first[-1]
    back = int(np.flatnonzero(~first)[0])
    assert not first[back:].any()
    assert (moved[windows.meters == 0][back:, :, 1] != 7.0).all()


def test_a_bad_successor_is_stood_down_when_there_is_enough_evidence_and_not_before(weekly: Panel) -> None:
    windows, _, down = served(weekly, first=0.0, then=2.0)
    first = down[windows.meters == 0]
    assert not first[:48].any()
    assert first[-1]


def test_the_verdict_knows_nothing_at_or_after_its_origin(weekly: Panel) -> None:
    load_kw = weekly.load_kw.copy()
    load_kw[:, 1000:] = 99.0
    windows, _, was = served(weekly, first=0.0, then=2.0)
    _, _, now = served(Panel(weekly.meters, 0, 3600, load_kw), first=0.0, then=2.0)
    before = windows.origins_us <= 1000 * HOUR_US
    assert np.array_equal(was[before], now[before])
