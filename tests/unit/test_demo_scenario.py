"""The demo's scenario: what is replayed, what changes, and what is wrong on purpose."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from demo.scenario import (
    CHARGING_KW,
    ZONE,
    Scenario,
    hourly_kw,
    last_origins,
    plant_charging,
    quick,
    read_households,
    wrong_payloads,
)

SCENARIO = Scenario()


def test_the_shipped_households_are_24_and_all_report_in_every_week() -> None:
    readings = read_households(SCENARIO)
    weeks = readings.groupby(["meter_id", readings.ts.dt.day_of_year // 7]).size()
    assert readings.meter_id.nunique() == 24
    assert readings.value.gt(0).mean() > 0.99
    assert weeks.index.get_level_values(0).nunique() * weeks.index.get_level_values(1).nunique() == len(weeks)


def test_the_quick_scenario_keeps_half_of_the_households() -> None:
    assert read_households(quick()).meter_id.nunique() == 12


def test_only_every_third_household_changes_and_only_from_the_day_of_the_change() -> None:
    before = read_households(SCENARIO)
    after = plant_charging(before, SCENARIO)
    differs = after.value != before.value
    changed = SCENARIO.changed(sorted(before.meter_id.unique()))
    assert len(changed) == 8
    assert set(after.meter_id[differs]) == set(changed)
    assert after.ts[differs].min() >= SCENARIO.change_at


def test_a_car_charges_from_one_to_five_local_time_on_every_second_night() -> None:
    before = read_households(SCENARIO)
    after = plant_charging(before, SCENARIO)
    meter = SCENARIO.changed(sorted(before.meter_id.unique()))[0]
    added = (after.value - before.value)[after.meter_id == meter]
    local = after.ts[added[added > 0].index].dt.tz_convert(ZONE)
    nights = sorted(local.dt.date.unique())
    assert set(local.dt.hour) == {1, 2, 3, 4}
    assert added.max() == pytest.approx(CHARGING_KW / 2)
    assert {later - earlier for earlier, later in pairwise(nights)} == {timedelta(days=2)}


def test_cars_do_not_all_charge_on_the_same_night() -> None:
    before = read_households(SCENARIO)
    added = plant_charging(before, SCENARIO).value - before.value
    first_nights = before.ts[added > 0].groupby(before.meter_id).min().dt.date
    assert first_nights.nunique() == 2


def test_an_hour_with_one_half_missing_is_missing_in_the_truth() -> None:
    ts = pd.date_range(SCENARIO.start, periods=4, freq="30min")
    readings = pd.DataFrame({"meter_id": "a", "ts": ts, "value": [0.5, 0.25, 0.5, 0.5]}).drop(index=2)
    kw = hourly_kw(readings, SCENARIO, ["a", "b"])
    assert kw[0, 0] == pytest.approx(0.75)
    assert np.isnan(kw[0, 1])
    assert np.isnan(kw[1]).all()


def test_a_meter_is_entitled_to_the_origin_its_readings_reach() -> None:
    ts = pd.date_range(SCENARIO.start, periods=3, freq="30min")
    readings = pd.DataFrame({"meter_id": "a", "ts": ts, "value": 0.5})
    assert last_origins(readings, SCENARIO, ["a", "b"]).tolist() == [1, -1]
    assert last_origins(readings[:2], SCENARIO, ["a"]).tolist() == [1]
    assert last_origins(readings[:1], SCENARIO, ["a"]).tolist() == [0]


def test_every_wrong_reading_is_an_identity_of_its_own_that_no_half_hour_shares() -> None:
    readings = []
    for payload in wrong_payloads(datetime(2013, 5, 2, 10, tzinfo=UTC))[:-1]:
        content = json.loads(payload)
        readings += content if isinstance(content, list) else [content]
    stamps = [reading["ts"] for reading in readings]
    inside = [datetime.fromisoformat(ts) for ts in stamps if ts.startswith("2013")]
    assert len(set(stamps)) == len(stamps) == 8
    assert all(ts.minute not in (0, 30) for ts in inside)


def test_instants_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="start < live_from < change_at < end"):
        Scenario(change_at=SCENARIO.start)
