"""Two roads to what an origin knew: a panel with revisions, and a panel of only the readings received by then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.dataset import Panel
from central.file_panel import panel_from_file
from central.record_panel import panel_from_record
from central.samples import Sampling, training_rows
from shared.bindings import Bindings
from shared.calendars import Calendar
from shared.clock import HOUR_US
from shared.features import FEATURES, window_steps
from shared.grid import GridRules
from shared.params import GridParams, MeterBinding

RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)
GRACE = GridParams().grace
BINDINGS = Bindings([MeterBinding(meter="b", register_max_kwh=10, max_kw=4)])
START = pd.Timestamp("2024-03-01", tz="UTC")
HOURS = 16
DELAYS_MIN = [0, 0, 0, 1, 4, 6, 20, 59, 70, 200, 420]  # on time, within the grace, after it, hours late

sent = st.tuples(st.sampled_from("ab"), st.integers(0, HOURS * 6 - 1), st.integers(0, 9), st.sampled_from(DELAYS_MIN))


def _rows(readings: list[tuple[str, int, int, int]], kinds: tuple[str, ...]) -> pd.DataFrame:
    """Rows of the record in the order they came, of meters that went live an hour before anything else.

    Meter z reports in time every hour, so that a panel of what had come by an hour reaches up to that.
    """
    began = [("a", -6, 1, 0), ("b", -6, 1, 0)]
    in_time = [("z", 6 * hour + 5, 1, 0) for hour in range(-1, HOURS + 10)]
    rows = pd.DataFrame([*began, *in_time, *readings], columns=["meter_id", "ten_minutes", "value", "delay_min"])
    rows["ts"] = START + pd.to_timedelta(rows["ten_minutes"] * 10, unit="min")
    rows["received_at"] = rows["ts"] + pd.to_timedelta(rows["delay_min"], unit="min")
    rows["kind"] = [kinds[row % len(kinds)] for row in range(len(rows))]
    rows["unit"] = rows["kind"].map({"power": "kW", "energy": "kWh", "register": "kWh"})
    rows["period_s"] = np.where(rows["kind"] == "energy", 600.0 * (1 + rows["value"]), np.nan)
    return rows.assign(site="s").sort_values("received_at", kind="stable")


def _windows_by_subset(rows: pd.DataFrame, panel: Panel, origin_us: int) -> np.ndarray:
    """Windows of a panel that is made of nothing but what had come by the origin and the grace."""
    by_then = rows[rows["received_at"] <= pd.Timestamp(origin_us, unit="us", tz="UTC") + GRACE]
    known = panel_from_record(by_then.drop(columns="received_at"), RULES, bindings=BINDINGS)
    windows = np.full((len(panel.meters), window_steps(3600)), np.nan, dtype=np.float32)
    rows_there = [panel.meters.index(name) for name in known.meters]
    windows[rows_there] = known.windows(np.arange(len(known.meters)), np.full(len(known.meters), origin_us))
    return windows


@pytest.mark.parametrize("kinds", [("power",), ("energy",), ("register",), ("power", "energy", "register")])
@settings(max_examples=15, deadline=None)
@given(readings=st.lists(sent, min_size=1, max_size=60))
def test_a_window_holds_what_the_readings_received_by_its_origin_make_of_it(
    kinds: tuple[str, ...], readings: list[tuple[str, int, int, int]]
) -> None:
    rows = _rows(readings, kinds)
    panel = panel_from_record(rows, RULES, bindings=BINDINGS, grace=GRACE)
    meters = np.arange(len(panel.meters))
    for origin in range(0, HOURS + 10, 2):
        origin_us = int(START.value // 1000) + origin * HOUR_US
        ours = panel.windows(meters, np.full(len(meters), origin_us))
        np.testing.assert_array_equal(ours, _windows_by_subset(rows, panel, origin_us), err_msg=f"origin {origin}")


@settings(max_examples=10, deadline=None)
@given(readings=st.lists(sent, min_size=1, max_size=60), cutoff=st.integers(1, HOURS))
def test_a_panel_cut_at_an_instant_says_what_was_known_then(
    readings: list[tuple[str, int, int, int]], cutoff: int
) -> None:
    rows = _rows(readings, ("power",))
    panel = panel_from_record(rows, RULES, bindings=BINDINGS, grace=GRACE)
    cutoff_us = int(START.value // 1000) + cutoff * HOUR_US
    cut = panel.until(cutoff_us)
    by_then = rows[rows["received_at"] <= pd.Timestamp(cutoff_us, unit="us", tz="UTC") + GRACE]
    known = panel_from_record(by_then.drop(columns="received_at"), RULES, bindings=BINDINGS).until(cutoff_us)
    width = known.load_kw.shape[1]
    np.testing.assert_array_equal(cut.load_kw[:, :width], known.load_kw)
    assert np.isnan(cut.load_kw[:, width:]).all()
    for origin_us in range(panel.start_us + HOUR_US, cutoff_us + 1, 5 * HOUR_US):
        at = np.full(len(panel.meters), origin_us)
        np.testing.assert_array_equal(cut.windows(np.arange(3), at), panel.windows(np.arange(3), at))


@settings(max_examples=10, deadline=None)
@given(readings=st.lists(sent, min_size=1, max_size=60), ends=st.tuples(*[st.integers(1, HOURS)] * 3))
def test_a_panel_known_at_each_meters_own_end_is_for_each_as_if_cut_there(
    readings: list[tuple[str, int, int, int]], ends: tuple[int, int, int]
) -> None:
    panel = panel_from_record(_rows(readings, ("power",)), RULES, bindings=BINDINGS, grace=GRACE)
    columns = panel.column(int(START.value // 1000) + np.array(ends) * HOUR_US)
    known = panel.known_at(columns)
    for meter, end in enumerate(columns.tolist()):
        own, at_us = np.array([meter]), panel.start_us + end * HOUR_US
        alone = panel.until(at_us)
        np.testing.assert_array_equal(known.load_kw[meter, :end], alone.load_kw[meter])
        assert np.isnan(known.load_kw[meter, end:]).all()
        for later in (known, known.until(panel.end_us)):  # as a training cuts it: nothing comes back
            for origin_us in (at_us - 5 * HOUR_US, at_us, at_us + 3 * HOUR_US):
                wanted = alone.windows(own, np.array([origin_us]))
                np.testing.assert_array_equal(later.windows(own, np.array([origin_us])), wanted)


@settings(max_examples=10, deadline=None)
@given(readings=st.lists(sent, min_size=1, max_size=60))
def test_an_interval_as_it_was_known_is_that_of_the_window_made_then(
    readings: list[tuple[str, int, int, int]],
) -> None:
    panel = panel_from_record(_rows(readings, ("power",)), RULES, bindings=BINDINGS, grace=GRACE)
    for column in range(panel.load_kw.shape[1]):
        origins_us = np.full(len(panel.meters), panel.start_us + (column + 1) * HOUR_US)
        windows = panel.windows(np.arange(len(panel.meters)), origins_us)
        np.testing.assert_array_equal(panel.as_it_ended(column).astype(np.float32), windows[:, -1])
        for earlier in range(max(0, column - 9), column):
            known_kw = panel.as_known(earlier, column + 1).astype(np.float32)
            np.testing.assert_array_equal(known_kw, windows[:, earlier - column - 1])


@settings(max_examples=15, deadline=None)
@given(readings=st.lists(sent, min_size=1, max_size=60))
def test_a_file_that_says_when_its_readings_came_is_taken_at_its_word(
    tmp_path_factory: pytest.TempPathFactory, readings: list[tuple[str, int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("file") / "readings.parquet"
    # A full grid of readings on time, which settles how many an interval should hold on both roads.
    grid = [(meter, slot, 5, 0) for meter in "ab" for slot in range(HOURS * 6)]
    rows = _rows([*grid, *readings], ("power",))[["meter_id", "ts", "value", "received_at"]]
    rows.to_parquet(path)
    panel = panel_from_file(path)
    for origin in range(1, HOURS + 10, 5):
        origin_us = int(START.value // 1000) + origin * HOUR_US
        by_then = rows[rows["received_at"] <= pd.Timestamp(origin_us, unit="us", tz="UTC") + GRACE]
        by_then.drop(columns="received_at").to_parquet(path)
        known = panel_from_file(path)
        at = np.full(3, origin_us)
        np.testing.assert_array_equal(panel.windows(np.arange(3), at), known.windows(np.arange(3), at))


def test_history_loaded_before_a_meter_was_live_is_known_to_every_origin() -> None:
    """A backfill of two days, received when the meter went live; then a live gap of six hours filled a day later."""
    hours = pd.DataFrame({"hour": np.arange(96)})
    ts = START + pd.to_timedelta(hours["hour"], unit="h")
    live, filled = START + pd.Timedelta(hours=48), START + pd.Timedelta(hours=94)
    received = ts.where(hours["hour"] >= 48, live).where(~hours["hour"].between(60, 65), filled)
    rows = pd.DataFrame({"meter_id": "a", "ts": ts, "value": 1.0, "received_at": received})
    panel = panel_from_record(rows.assign(unit="kW", kind="power", period_s=np.nan), RULES, grace=GRACE)

    def missing(origin: int) -> list[int]:
        window = panel.windows(np.zeros(1, dtype=np.int64), np.array([panel.start_us + origin * HOUR_US]))[0]
        return [origin + at for at in range(-min(origin, len(window)), 0) if np.isnan(window[at])]

    assert missing(30) == []
    assert missing(48) == []
    assert missing(90) == [60, 61, 62, 63, 64, 65]
    assert missing(94) == []
    assert np.isfinite(panel.load_kw).all()


def test_a_training_sample_learns_a_late_truth_from_a_window_without_it() -> None:
    panel, until_us = _always_late(), 60 * 24 * HOUR_US
    rows = training_rows(
        panel, until_us=until_us, rng=np.random.default_rng(0), sampling=Sampling(dropout=0.0), calendar=Calendar()
    )
    assert np.isfinite(rows.target).all()
    assert rows.x[:, FEATURES.index("stale_h")].min() >= 6  # every window ends six hours before its origin
    punctual = training_rows(
        replace(panel, revisions=None),
        until_us=until_us,
        rng=np.random.default_rng(0),
        sampling=Sampling(dropout=0.0),
        calendar=Calendar(),
    )
    assert punctual.x[:, FEATURES.index("stale_h")].max() < 1


def _always_late() -> Panel:
    """Sixty days of an hourly meter whose every reading comes seven hours after its instant."""
    ts = pd.date_range("1970-01-01", periods=60 * 24, freq="h", tz="UTC")
    value = np.random.default_rng(0).gamma(2, size=len(ts))
    rows = pd.DataFrame({"meter_id": "a", "ts": ts, "value": value, "received_at": ts + pd.Timedelta(hours=7)})
    rows.loc[0, "received_at"] = ts[0]
    return panel_from_record(rows.assign(unit="kW", kind="power", period_s=np.nan), RULES, grace=GRACE)
