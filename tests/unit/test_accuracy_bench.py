"""The accuracy bench: the sets' conventions, what peers exchange, one judge for all, and groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import accuracy, peers_exchange
from bench.accuracy_groups import Group, group_table, groups_of, terciles
from bench.accuracy_judge import RULES, Judge, Measured, same_weekdays
from bench.accuracy_sets import SETS, DevelopmentSet, kinds_of, prepare
from shared.errors import ExitCode

DAYS = 60


def _rows(name: str, periods: int, step: str = "1h", start: str = "2020-01-01") -> pd.DataFrame:
    ts = pd.date_range(start, periods=periods, freq=step, tz="UTC")
    hours = np.arange(periods) * (pd.Timedelta(step) / pd.Timedelta("1h"))
    return pd.DataFrame({"meter_id": name, "ts": ts, "value": 2 + np.sin(hours * 2 * np.pi / 24)})


def _prepared(folder: Path, rows: pd.DataFrame, **conventions: object) -> pd.DataFrame:
    rows.to_parquet(folder / "set.parquet")
    return prepare(DevelopmentSet("set.parquet", **conventions), folder)  # type: ignore[arg-type]


def test_an_hour_of_half_hours_needs_both(tmp_path: Path) -> None:
    rows = _rows("a", 6, "30min").assign(value=1.0).drop(index=3)
    hours = _prepared(tmp_path, rows, aggregate="sum", least=2)
    assert hours["value"].tolist() == [2.0, 2.0]
    assert hours["ts"].dt.hour.tolist() == [0, 2]


def test_short_meters_and_those_of_zeros_are_left_out(tmp_path: Path) -> None:
    rows = pd.concat([_rows("good", 100), _rows("short", 50), _rows("zero", 100).assign(value=0.0)])
    hours = _prepared(tmp_path, rows, min_h=90, max_zero_share=0.5)
    assert set(hours["meter_id"]) == {"good"}


def test_a_meter_ends_before_its_long_hole_and_keeps_its_last_hours(tmp_path: Path) -> None:
    rows = pd.concat([_rows("a", 100), _rows("a", 50, start="2020-03-01"), _rows("b", 100)])
    hours = _prepared(tmp_path, rows, cut_at_hole_h=500, last_h=40)
    assert hours.groupby("meter_id").size().to_dict() == {"a": 40, "b": 40}


def test_the_end_of_a_name_says_the_kind_and_others_are_left_out(tmp_path: Path) -> None:
    rows = pd.concat([_rows(name, 10) for name in ("x:load", "x:pv", "x:net")])
    hours = _prepared(tmp_path, rows, suffixes={"pv": "pv", "net": "net"})
    assert sorted(set(hours["meter_id"])) == ["x:net", "x:pv"]
    assert kinds_of(SETS["aew"], pd.Series(["A:import", "A:generation"])).tolist() == ["load", "pv"]


def test_a_set_without_a_meter_left_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no meter is left"):
        _prepared(tmp_path, _rows("a", 10), min_h=100)


def test_peers_are_given_hours_without_gaps_filled_from_before_alone(tmp_path: Path) -> None:
    rows = _rows("a", 400)
    rows["value"] = np.arange(400.0)
    rows.drop(index=[200, 201, 369]).to_parquet(tmp_path / "readings.parquet")
    series = peers_exchange.read_series(tmp_path / "readings.parquet")["a"]
    assert len(series) == 400
    assert series.iloc[[200, 201, 369]].tolist() == [32.0, 33.0, 33.0]  # 369 is 201 a week later, itself filled


def test_the_meters_of_a_slow_peer_are_spread_over_all() -> None:
    assert peers_exchange.spread([f"{n:02d}" for n in range(10)], 4) == ["00", "03", "06", "09"]
    assert peers_exchange.spread(["b", "a"], 9) == ["a", "b"]


def test_a_librarys_table_becomes_deciles_by_lead() -> None:
    origin = pd.Timestamp("2020-01-01 05:00", tz="UTC")
    made = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2020-01-01 05:00", periods=2, freq="h"), "m": [5.0, 6]})
    for level in peers_exchange.LEVELS:
        made[f"m-lo-{level}"], made[f"m-hi-{level}"] = made["m"] - level / 20, made["m"] + level / 20
    rows = peers_exchange.decile_rows(made, "m", {"a": origin})
    first = rows[rows["lead"] == 1].sort_values("quantile")
    assert first["quantile"].tolist() == list(peers_exchange.DECILES)
    assert first["value"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert set(rows["lead"]) == {1, 2}


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Two meters over sixty days, two origins each, and the readings as truth."""
    rng = np.random.default_rng(0)
    rows = pd.concat([_rows("a", 24 * DAYS), _rows("b", 24 * DAYS)], ignore_index=True)
    rows["value"] += rng.normal(0, 0.1, len(rows))
    rows.to_parquet(tmp_path / "readings.parquet")
    origins = pd.to_datetime(["2020-02-25", "2020-02-27"], utc=True)
    pairs = pd.MultiIndex.from_product([["a", "b"], origins, range(1, 49)], names=["meter_id", "origin", "lead"])
    return Judge(tmp_path / "readings.parquet", pairs.to_frame(index=False).assign(quantile=0.5, value=0.0))


def _truth(judge: Judge) -> pd.DataFrame:
    return judge.as_rows(np.repeat(judge.windows.actual[:, :, None], 3, axis=2), (0.1, 0.5, 0.9))


def test_the_truth_itself_is_judged_perfect_in_whatever_order_it_comes(judge: Judge) -> None:
    measured = judge.measure(_truth(judge).sample(frac=1, random_state=1))
    assert measured == Measured(2, 0.0, 0.0, 1.0)


def test_a_contestant_is_measured_on_the_meters_it_forecast(judge: Judge) -> None:
    rows = _truth(judge)
    assert judge.measure(rows[rows["meter_id"] == "b"]).meters == 1
    assert judge.measure(judge.rule(RULES[1])).meters == 2


def test_the_mean_of_four_weekdays_is_that_and_has_a_spread(judge: Judge) -> None:
    windows = judge.panel.windows(judge.windows.meters, judge.windows.origins_us)
    kw = same_weekdays(windows, judge.windows.origins_us, judge.windows.leads)
    by_hand = np.mean([windows[0, 720 - 168 * week + 2] for week in range(1, 5)])
    assert kw[0, 2, 4] == pytest.approx(by_hand, rel=1e-6)
    assert (np.diff(kw, axis=2) > 0).all()


def test_few_meters_of_a_kind_are_one_group_and_more_are_thirds_by_size(judge: Judge) -> None:
    (group,) = groups_of("x", DevelopmentSet("set.parquet"), judge, _truth(judge))
    assert (group.size, group.meters, group.ratio) == ("all", 2, 0.0)
    thirds = terciles(np.arange(7), np.array([5.0, 1, 9, 3, 2, 8, 7]))
    assert [(name, members.tolist()) for name, members in thirds] == [
        ("small", [1, 4, 3]), ("middle", [0, 6]), ("large", [5, 2])
    ]  # fmt: skip


def test_a_group_worse_than_seasonal_naive_by_over_two_percent_is_marked_and_comes_first() -> None:
    table = group_table([Group("x", "pv", "all", 3, 1.01, 1.0), Group("y", "pv", "all", 3, 1.03, 1.0)]).splitlines()
    assert table[2].startswith("| y") and "worse by over 2 %" in table[2]  # noqa: PT018
    assert "worse" not in table[3]


def test_a_peer_ahead_of_ours_is_marked_on_the_same_meters() -> None:
    ours, peer = Measured(9, 1.0, 0.30, 0.8), Measured(3, 0.9, 0.31, 0.8)
    table = accuracy.accuracy_table([accuracy.Row("x", "peer", peer, ours, 1.0)])
    assert "1.000 / 0.3000 **ahead of ours: MASE**" in table


def test_without_data_the_bench_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert accuracy.main(["--peers", "none", "--out", str(tmp_path)]) == ExitCode.FAILED
    told = capsys.readouterr()
    assert "lcl_households.parquet" in told.err
    assert "DATA=folder" in told.out


def test_a_missing_set_is_told_and_the_others_are_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = pd.concat([_rows(name, 24 * 4 * 24, "15min") for name in ("p1", "p2")])
    rows.to_parquet(tmp_path / SETS["feeders"].file)
    out = tmp_path / "out"
    assert accuracy.main(["--data", str(tmp_path), "--sets", "feeders,pjm", "--peers", "none", "--out", str(out)]) == 0
    told = capfd.readouterr()
    assert "pjm is left out: pjm_zones.parquet is not in" in told.err
    assert "| feeders | metercast | 2 |" in told.out
    assert (out / "accuracy.json").exists()
