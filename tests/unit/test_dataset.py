"""Panels from files and from the record, and what training may see."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.dataset import Panel
from central.file_panel import panel_from_file
from central.record_panel import panel_from_record
from central.samples import Sampling, spoil, training_rows
from shared.bindings import Bindings
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.features import FEATURES
from shared.grid import KINDS, UNITS, GridRules, MeterReadings, intervals
from shared.params import MeterBinding

HOUR_US = 3_600_000_000
RULES = GridRules(step_us=HOUR_US, hold_us=HOUR_US, max_gap_us=6 * HOUR_US)


def _half_hours(values: list[float], meter: str = "a") -> pd.DataFrame:
    ts = pd.date_range("2013-01-01", periods=len(values), freq="30min", tz="UTC")
    return pd.DataFrame({"meter_id": meter, "ts": ts, "value": values})


def _panel(hours: int = 24 * 40, meters: int = 3) -> Panel:
    load = np.random.default_rng(0).gamma(1.0, size=(meters, hours))
    return Panel([f"m{i}" for i in range(meters)], 0, 3600, load)


def test_half_hours_become_hours_by_mean_or_sum(tmp_path: Path) -> None:
    path = tmp_path / "readings.parquet"
    _half_hours([1.0, 3.0, 5.0, 5.0]).to_parquet(path)
    assert panel_from_file(path).load_kw.tolist() == [[2.0, 5.0]]
    assert panel_from_file(path, aggregate="sum").load_kw.tolist() == [[4.0, 10.0]]


def test_csv_reads_like_parquet(tmp_path: Path) -> None:
    rows = _half_hours([1.0, 3.0, 5.0, 5.0])
    rows.to_csv(tmp_path / "readings.csv", index=False)
    assert panel_from_file(tmp_path / "readings.csv").load_kw.tolist() == [[2.0, 5.0]]


def test_an_interval_with_under_half_its_readings_is_missing(tmp_path: Path) -> None:
    ts = pd.date_range("2013-01-01", periods=12, freq="15min", tz="UTC").delete([5, 6, 7, 9, 10])
    path = tmp_path / "readings.parquet"
    pd.DataFrame({"meter_id": "a", "ts": ts, "value": 1.0}).to_parquet(path)
    assert np.isnan(panel_from_file(path).load_kw).tolist() == [[False, True, False]]


def test_a_reading_listed_twice_counts_once(tmp_path: Path) -> None:
    rows = _half_hours([1.0, 3.0])
    path = tmp_path / "readings.parquet"
    pd.concat([rows, rows]).to_parquet(path)
    assert panel_from_file(path, aggregate="sum").load_kw.tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("meter_id,ts\na,2013-01-01", "has no column value"), ("meter_id,ts,value\na,yesterday-ish,1", "yesterday-ish")],
)
def test_a_file_that_cannot_be_used_is_answered_in_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "readings.csv"
    path.write_text(content)
    with pytest.raises(DataFileError, match=sentence):
        panel_from_file(path)


def test_a_missing_file_and_a_false_parquet_are_answered_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "false.parquet").write_bytes(b"no parquet")
    for name in ("false.parquet", "absent.parquet"):
        with pytest.raises(DataFileError, match=name):
            panel_from_file(tmp_path / name)


def test_record_rows_become_kw_by_unit_kind_and_period() -> None:
    rows = _half_hours([0.5, 1.0, 2.0, 2.0]).assign(unit="kWh", kind="energy", period_s=1800)
    watts = _half_hours([500.0, 1500.0], "b").assign(unit="W", kind="power", period_s=np.nan)
    panel = panel_from_record(pd.concat([rows, watts], ignore_index=True), RULES)
    assert panel.meters == ["a", "b"]
    assert panel.load_kw[0].tolist() == [1.5, 4.0]
    assert panel.load_kw[1, 0] == 1.0


def test_meters_of_two_sites_stay_apart() -> None:
    rows = pd.concat([_half_hours([1.0, 1.0]).assign(site=site) for site in ("north", "south")], ignore_index=True)
    panel = panel_from_record(rows.assign(unit="kWh", kind="energy", period_s=1800), RULES)
    assert panel.meters == ["north/a", "south/a"]


def test_meters_of_one_site_or_of_none_are_in_the_order_of_their_names() -> None:
    rows = pd.concat([_half_hours([1.0, 1.0], meter) for meter in ("b", "a", "c")], ignore_index=True)
    assert panel_from_record(rows.assign(unit="kW", kind="power", period_s=np.nan), RULES).meters == ["a", "b", "c"]


def test_a_meters_binding_limits_what_training_sees() -> None:
    rows = pd.concat(
        [_half_hours([1.0, 90.0, 2.0, 2.0]).assign(site=site) for site in ("north", "south")], ignore_index=True
    )
    bindings = Bindings([MeterBinding(meter="a", site="south", max_kw=20)])
    panel = panel_from_record(rows.assign(unit="kW", kind="power", period_s=np.nan), RULES, bindings=bindings)
    assert panel.load_kw[:, 0].tolist() == [45.5, 1.0]


BINDINGS = Bindings(
    [
        MeterBinding(meter="register-*", register_max_kwh=10, max_kw=8),
        MeterBinding(meter="*", site="south", min_kw=0, max_kw=5),
    ]
)
UNIT_AND_KIND = [("W", "power"), ("kW", "power"), ("Wh", "energy"), ("kWh", "register"), ("MWh", "register")]
sent = st.tuples(
    st.sampled_from(["north", "south"]), st.sampled_from(UNIT_AND_KIND), st.integers(0, 12 * 12 - 1), st.floats(0, 10)
)


def _record(readings: list[tuple[str, tuple[str, str], int, float]]) -> pd.DataFrame:
    """Rows of the record, five minutes apart at least, of meters that are named after kind and unit."""
    kilo = [UNITS[unit].to_kilo for _, (unit, _), _, _ in readings]
    return pd.DataFrame(
        {
            "site": [site for site, _, _, _ in readings],
            "meter_id": [f"{kind}-{unit}" for _, (unit, kind), _, _ in readings],
            "ts": pd.to_datetime([at * 300 for _, _, at, _ in readings], unit="s", utc=True),
            "value": [value / factor for (_, _, _, value), factor in zip(readings, kilo, strict=True)],
            "unit": [unit for _, (unit, _), _, _ in readings],
            "kind": [kind for _, (_, kind), _, _ in readings],
            "period_s": [900.0 if kind == "energy" else np.nan for _, (_, kind), _, _ in readings],
        }
    )


def _as_streamed(rows: pd.DataFrame, site: str, meter: str, start_us: int, count: int) -> list[float]:
    """Loads closed one by one as at an edge, each from the readings near it alone, the last of each instant."""
    own = rows[(rows["site"] == site) & (rows["meter_id"] == meter)]
    kept = {int(ts.timestamp()) * 1_000_000: at for at, ts in enumerate(own["ts"])}
    loads = []
    for opens_us in range(start_us, start_us + count * HOUR_US, HOUR_US):
        near = sorted(ts for ts in kept if opens_us - RULES.max_gap_us <= ts <= opens_us + HOUR_US + RULES.max_gap_us)
        chosen = own.iloc[[kept[ts] for ts in near]]
        readings = MeterReadings(
            np.array(near, dtype=np.int64),
            np.array(
                [value * UNITS[unit].to_kilo for value, unit in zip(chosen["value"], chosen["unit"], strict=True)],
                dtype=np.float64,
            ),
            np.array([0 if np.isnan(s) else round(s * 1e6) for s in chosen["period_s"]], dtype=np.int64),
            np.array([KINDS.index(kind) for kind in chosen["kind"]], dtype=np.int8),
        )
        limits = BINDINGS.of(site, meter).limits
        loads.append(float(intervals(readings, opens_us, 1, RULES, limits).load_kw[0]))
    return loads


@settings(max_examples=30, deadline=None)
@given(st.lists(sent, min_size=1, max_size=80))
def test_training_sees_the_bits_that_streaming_saw(readings: list[tuple[str, tuple[str, str], int, float]]) -> None:
    rows = _record(readings)  # in any order, instants repeated
    panel = panel_from_record(rows, RULES, bindings=BINDINGS)
    for name, loads in zip(panel.meters, panel.load_kw, strict=True):
        site, meter = name.split("/")
        streamed = _as_streamed(rows, site, meter, panel.start_us, len(loads))
        assert loads.tobytes() == np.array(streamed).tobytes(), name


def test_windows_and_truth_are_missing_outside_the_panel() -> None:
    panel = _panel(hours=48)
    at = np.array([24 * HOUR_US], dtype=np.int64)
    window = panel.windows(np.array([1]), at)[0]
    assert np.isnan(window[:-24]).all()
    assert window[-24:].tolist() == panel.load_kw[1, :24].astype(np.float32).tolist()
    truth = panel.truth(np.array([1]), at, np.array([1, 24, 25]))[0]
    assert truth[:2].tolist() == panel.load_kw[1, [24, 47]].tolist()
    assert np.isnan(truth[2])


@settings(max_examples=15, deadline=None)
@given(cutoff=st.integers(100, 24 * 39), seed=st.integers(0, 2**32 - 1))
def test_no_training_row_knows_anything_after_the_cutoff(cutoff: int, seed: int) -> None:
    panel = _panel()
    changed = panel.load_kw.copy()
    changed[:, cutoff:] = 1e6
    ours, theirs = (
        training_rows(
            Panel(panel.meters, 0, 3600, load),
            until_us=cutoff * HOUR_US,
            rng=np.random.default_rng(seed),
            sampling=Sampling(rows_cap=500),
            calendar=Calendar(),
        )
        for load in (panel.load_kw, changed)
    )
    assert np.array_equal(ours.x, theirs.x, equal_nan=True)
    assert np.array_equal(ours.target, theirs.target)


def test_recent_rows_weigh_more_when_a_half_life_is_asked_for() -> None:
    rows = training_rows(
        _panel(),
        until_us=24 * 40 * HOUR_US,
        rng=np.random.default_rng(0),
        sampling=Sampling(rows_cap=4000, half_life_days=7.0),
        calendar=Calendar(),
    )
    assert rows.weight.mean() == pytest.approx(1.0)
    assert rows.weight.max() / rows.weight.min() > 2 ** (30 / 7)


def test_training_meets_every_feature_of_the_load_missing() -> None:
    rows = training_rows(
        _panel(), until_us=24 * 40 * HOUR_US, rng=np.random.default_rng(0), sampling=Sampling(), calendar=Calendar()
    )
    always = {"mean_672h", "mean_over_scale", "history_share", "stale_h", "lead_h", "hour", "weekday", "hour_of_week"}
    always |= {"free_day", "holiday", "holiday_lag_168h", "free_day_latest", "base_level"}
    always |= {name for name in FEATURES if name.startswith("carried")}  # nothing is left of a deviation not known
    met = {name for name, share in zip(FEATURES, np.isnan(rows.x).mean(axis=0), strict=True) if share > 0}
    assert met >= set(FEATURES) - always


def test_a_panel_without_history_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="no training rows"):
        training_rows(
            _panel(hours=20),
            until_us=20 * HOUR_US,
            rng=np.random.default_rng(0),
            sampling=Sampling(),
            calendar=Calendar(),
        )


def test_spoiling_only_takes_values_away() -> None:
    windows = np.random.default_rng(0).normal(size=(50, 720)).astype(np.float32)
    spoilt = spoil(windows, np.random.default_rng(1), 0.9, steps_per_day=24)
    kept = np.isfinite(spoilt)
    assert 0.2 < kept.mean() < 0.95
    assert np.array_equal(spoilt[kept], windows[kept])
