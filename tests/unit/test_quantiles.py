"""Any set of quantiles may be asked for: the median is modelled beside them, and nothing else changes with the set."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from central.evaluation import Windows, measure
from edge import starter
from edge.calibration import Calibration
from edge.effects import ChunkArrived, DesiredArrived
from edge.forecaster import Lineup, Plan, forecast
from shared import params_file, quantiles
from shared.baselines import fallback_forecast
from shared.calendars import Calendar
from shared.calibration import fresh
from shared.errors import ParamsError
from shared.messages import Desired
from shared.metrics import DECILES, at_quantiles
from tests.small_model import small_manifest
from tests.unit.edge_harness import EdgeAtDesk, reading

LEADS = np.arange(1, 49)
ORIGIN_US = 1_767_571_200_000_000
LOAD_KW = (2 + np.sin(np.arange(720) / 24 * 2 * np.pi) + np.random.default_rng(1).gamma(1, 0.3, 720)).astype(np.float32)

# Any set of one to nine, in hundredths and thousandths, on either or both sides of the median.
sets = st.sets(st.integers(1, 999), min_size=1, max_size=9).map(lambda found: tuple(sorted(k / 1000 for k in found)))


@pytest.fixture(scope="module")
def shipped() -> starter.Starter:
    return starter.load(step_s=3600)


@given(sets)
def test_what_is_modelled_ascends_and_holds_the_median_and_all_that_is_asked_for(asked: quantiles.Quantiles) -> None:
    modelled = quantiles.modelled(asked)
    assert list(modelled) == sorted({*asked, 0.5})
    assert tuple(modelled[place] for place in quantiles.places(asked, modelled)) == asked
    low, median, high = (modelled[place] for place in quantiles.spread_places(modelled))
    assert low == modelled[0] <= median == 0.5 <= modelled[-1] == high


@given(sets)
def test_parameters_take_any_set_and_names_read_as_the_numbers_they_name(asked: quantiles.Quantiles) -> None:
    names = [quantiles.label(level) for level in asked]
    assert params_file.load(overrides=[f"forecast.quantiles={','.join(names)}"]).forecast.quantiles == asked
    assert len(set(names)) == len(names)
    assert tuple(map(float, names)) == asked


@pytest.mark.parametrize(
    "wrong", ["", "0.9,0.1", "0.1,0.1", "0,0.5", "0.5,1", "-0.1", ".nan", "0.3,0.3000001", "0.4999999"]
)
def test_what_is_no_set_of_quantiles_is_refused_in_a_sentence(wrong: str) -> None:
    with pytest.raises(ParamsError, match=r"forecast: quantiles must ascend inside \(0, 1\)"):
        params_file.load(overrides=[f"forecast.quantiles=[{wrong}]"])


@settings(max_examples=30, deadline=None)
@given(sets)
def test_every_rung_forecasts_any_set_ascending_around_the_same_median(
    shipped: starter.Starter, asked: quantiles.Quantiles
) -> None:
    for lineup in (Lineup(), Lineup(starter=shipped)):
        made, usual = (
            forecast(LOAD_KW[None], ORIGIN_US, Plan(3600, 48, quantiles.modelled(one), Calendar(), 72), lineup)
            for one in (asked, (0.1, 0.5, 0.9))
        )
        assert np.isfinite(made.load_kw).all()
        assert (np.diff(made.load_kw, axis=2) >= 0).all()
        median = made.load_kw[..., quantiles.spread_places(quantiles.modelled(asked))[1]]
        np.testing.assert_allclose(median, usual.load_kw[..., 1], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(sets, st.integers(0, 2**32 - 1))
def test_calibration_keeps_the_median_and_the_order_of_any_set(asked: quantiles.Quantiles, seed: int) -> None:
    modelled, knots, row = quantiles.modelled(asked), (1, 6, 24, 48), np.zeros(1, dtype=np.int64)
    kw = _simple_kw(modelled)
    calibration, rng = Calibration(knots, modelled, 3600), np.random.default_rng(seed)
    spread = kw[0, np.array(knots) - 1][:, quantiles.spread_places(modelled)]
    for _ in range(40):
        for knot in range(len(knots)):
            calibration.learn(0, row, np.array([knot]), rng.gamma(1, 2, 1), spread[[knot]])
    moved = calibration.apply(kw, np.zeros(1, dtype=np.int8), row, np.zeros(1))
    middle = quantiles.spread_places(modelled)[1]
    np.testing.assert_array_equal(moved[..., middle], kw[..., middle])
    assert (np.diff(moved, axis=2) >= 0).all()
    calibration.put(0, row, fresh(1, len(knots)))
    np.testing.assert_array_equal(calibration.apply(kw, np.zeros(1, dtype=np.int8), row, np.zeros(1)), kw)


@settings(max_examples=30, deadline=None)
@given(sets)
def test_measures_are_of_the_median_and_say_nothing_of_an_interval_that_is_not_spanned(
    asked: quantiles.Quantiles,
) -> None:
    modelled = quantiles.modelled(asked)
    actual = np.random.default_rng(2).gamma(4, 0.5, (1, 48))
    windows = Windows(np.zeros(1, dtype=np.int64), np.array([ORIGIN_US]), LEADS, 3600, actual, np.ones(1))
    found = measure(windows, _simple_kw(modelled), modelled, slice(None))
    usual = measure(windows, _simple_kw((0.1, 0.5, 0.9)), (0.1, 0.5, 0.9), slice(None))
    for name in ("mase", "smape", "wape", "peak_hour_error"):
        assert found[name] == usual[name]
    assert math.isfinite(found["wql"])
    spanned = modelled[0] <= 0.1 and modelled[-1] >= 0.9
    assert quantiles.spans(modelled, 0.1, 0.9) == spanned
    assert all(math.isfinite(found[name]) == spanned for name in ("coverage_80", "coverage_80_raw", "width_80"))


@given(sets)
def test_interpolating_any_set_gives_numbers_that_ascend_and_its_own_back(asked: quantiles.Quantiles) -> None:
    modelled = quantiles.modelled(asked)
    kw = np.cumsum(np.random.default_rng(len(asked)).gamma(1, 1, (5, len(modelled))), axis=1)
    deciles = at_quantiles(kw, modelled, DECILES)
    assert np.isfinite(deciles).all()
    assert (np.diff(deciles, axis=1) >= 0).all()
    np.testing.assert_allclose(at_quantiles(kw, modelled, modelled), kw, rtol=1e-12)


def _simple_kw(levels: quantiles.Quantiles) -> NDArray[np.float64]:
    return fallback_forecast(LOAD_KW[None], np.array([ORIGIN_US]), LEADS, levels, calendar=Calendar())[0]


# -- through the edge's one door ---------------------------------------------------------------------------------------


def test_an_edge_publishes_what_is_asked_for_and_scores_the_median_as_ever(tmp_path: Path) -> None:
    asked, usual = _desk(tmp_path / "asked", "[0.1,0.9]"), _desk(tmp_path / "usual", "[0.1,0.5,0.9]")
    for desk in (asked, usual):
        _install(desk)  # the champion of a fleet that publishes .1 .5 .9 serves here too
        _send(desk, 96, 130)
    last, other = (desk.of_topic("forecasts/m1")[-1] for desk in (asked, usual))
    assert last["rung"] == other["rung"] == "champion"
    assert last["quantiles"] == {level: other["quantiles"][level] for level in ("0.1", "0.9")}
    assert len(asked.rows("scores")) > 100
    assert asked.rows("scores") == usual.rows("scores")


@pytest.mark.parametrize("levels", [(0.9,), (0.2, 0.8), (0.05, 0.25, 0.75, 0.95), (0.51, 0.52)])
def test_whatever_is_asked_for_is_published_and_nothing_else(tmp_path: Path, levels: quantiles.Quantiles) -> None:
    told = _desk(tmp_path / "edge", str(list(levels))).of_topic("forecasts/m1")[-1]["quantiles"]
    assert list(told) == [str(level) for level in levels]
    assert (np.diff(np.array(list(told.values())), axis=0) >= 0).all()


def _desk(folder: Path, levels: str) -> EdgeAtDesk:
    """An edge that has met a meter for four days."""
    desk = EdgeAtDesk(folder, (f"forecast.quantiles={levels}",))
    _send(desk, 0, 96)
    return desk


def _send(desk: EdgeAtDesk, first: int, end: int) -> None:
    for hour in range(first, end):
        desk.send(("m1", reading(hour, float(LOAD_KW[hour]))))


def _install(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    desk.tell(DesiredArrived(desk.node.topics.desired, Desired(champion=manifest).encode()))
    for number, chunk in enumerate(chunks):
        desk.tell(ChunkArrived(manifest.sha256, number, chunk))
