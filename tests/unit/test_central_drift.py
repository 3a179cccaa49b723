"""Drift: quiet without a change, quick with one, and how that compares with a detector that knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river.drift import DummyDriftDetector

from central.drift import DriftSeen, DriftWatch, MeterDetector, adwin, changed_days_ago
from shared.clock import DAY_US, HOUR_US
from shared.params import DriftParams, scored_leads

Property = Callable[[str, object], None]
Floats = NDArray[np.float64]
START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z, a Monday
DELTA = DriftParams().delta


def daily_errors(rng: np.random.Generator, days: int) -> Floats:
    """Mean absolute error a day, of a stationary household: skewed, a little autocorrelated, more at week-ends."""
    noise = np.zeros(days)
    for day in range(1, days):
        noise[day] = 0.3 * noise[day - 1] + rng.normal(0, 0.3)
    weekend = np.where(np.arange(days) % 7 >= 5, 1.3, 1.0)
    return 0.25 * weekend * np.exp(noise)


def rises(errors: Floats) -> list[int]:
    """Days on which a meter's detector rose."""
    meter, found = MeterDetector(adwin(DELTA)), []
    for day, error in enumerate(errors):
        if meter.add(float(error), day) and meter.rose_us == day:
            found.append(day)
    return found


def false_alarms_per_meter_year(meters: int = 100, days: int = 365) -> float:
    rng = np.random.default_rng(1)
    return sum(len(rises(daily_errors(rng, days))) for _ in range(meters)) / (meters * days / 365)


def delays(change: Floats, meters: int = 60, before: int = 14, after: int = 40) -> list[int]:
    """Days from a change that begins at `before` to the first rise after it; `after` when none came."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(meters):
        errors = daily_errors(rng, before + after)
        errors[before:] += np.resize(change, after)
        found.append(next((day - before for day in rises(errors) if day >= before), after))
    return found


def test_a_stationary_meter_raises_fewer_than_one_alarm_a_year(record_property: Property) -> None:
    own = false_alarms_per_meter_year()
    dummy = dummy_alarms_per_meter_year()
    record_property("false_alarms_per_meter_year", f"{own:.2f}, of DummyDriftDetector {dummy:.2f}")
    assert own < 0.75
    assert dummy > 20 * own


def dummy_alarms_per_meter_year(meters: int = 100) -> float:
    """Of a detector that knows nothing and fires at random, often enough to be about as quick as ours."""
    alarms = 0
    for seed in range(meters):
        dummy = DummyDriftDetector(trigger_method="random", t_0=14, w=7, dynamic_cloning=True, seed=seed)
        for _ in range(365):
            dummy.update(0.0)  # type: ignore[no-untyped-call]
            alarms += dummy.drift_detected
    return alarms / meters


@pytest.mark.parametrize(
    ("name", "change"),
    [("every day 0.6 kW more", np.array([0.6])), ("night charging every second day", np.array([0.6, 0.1]))],
)
def test_a_change_in_habits_is_seen_within_a_fortnight(name: str, change: Floats, record_property: Property) -> None:
    found = delays(change)
    record_property(name, f"median {np.median(found):.0f} d, nine in ten by {np.quantile(found, 0.9):.0f} d")
    assert np.median(found) <= 12
    assert np.quantile(found, 0.9) <= 18


def test_the_moment_of_a_step_is_found() -> None:
    assert changed_days_ago([1.0, 1.1, 0.9, 1.0, 3.0, 3.1]) == 2


def scores(meters: int, day: int, error_kw: Floats, **chosen: Any) -> dict[str, list[Any]]:
    """Columns of one day's scores: every meter, every hour, with each meter's error."""
    rows = [(m, h) for h in range(24) for m in range(meters)]
    columns: dict[str, list[Any]] = {
        "meter_id": [f"m{m}" for m, _ in rows],
        "valid_us": [START_US + day * DAY_US + h * HOUR_US for _, h in rows],
        "lead": [24] * len(rows),
        "role": ["champion"] * len(rows),
        "rung": ["champion"] * len(rows),
        "model_version": [1] * len(rows),
        "y_kw": [1.0 + error_kw[m] for m, _ in rows],
        "forecast_kw": [1.0] * len(rows),
    }
    return columns | {name: [value] * len(rows) for name, value in chosen.items()}


def play(watch: DriftWatch, errors: Floats, first_day: int = 0, **chosen: Any) -> list[DriftSeen]:
    """Feed days of errors [days, meters]; returns what was seen."""
    seen = [watch.take("s", scores(errors.shape[1], first_day + day, row, **chosen)) for day, row in enumerate(errors)]
    return [one for day in seen for one in day]


def site_errors(days: int, meters: int, changed: int, at: int) -> Floats:
    rng = np.random.default_rng(3)
    errors = np.stack([daily_errors(rng, days) for _ in range(meters)], axis=1)
    errors[at:, :changed] += 0.8
    return errors


def test_a_site_drifts_when_enough_of_its_meters_agree() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    seen = play(watch, site_errors(40, 12, changed=4, at=14))
    assert len(seen) == 1
    assert set(seen[0].meters) <= {"m0", "m1", "m2", "m3"}
    assert abs(seen[0].since_us - (START_US + 14 * DAY_US)) <= 2 * DAY_US
    assert seen[0].at_us <= START_US + 26 * DAY_US
    assert watch.standing == {"s": seen[0]}


def test_one_meter_alone_is_no_drift_of_the_site() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    assert play(watch, site_errors(40, 12, changed=1, at=14)) == []


@pytest.mark.parametrize(
    "chosen", [{"role": "challenger"}, {"rung": "seasonal_naive_168"}, {"lead": 1}, {"y_kw": None}]
)
def test_what_is_not_the_champions_own_forecast_at_the_lead_is_left_out(chosen: dict[str, Any]) -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    assert play(watch, site_errors(40, 4, changed=4, at=14), **chosen) == []


def test_a_new_champion_starts_the_detectors_afresh() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    errors = site_errors(60, 6, changed=6, at=20)
    assert len(play(watch, errors[:40])) == 1
    assert play(watch, errors[40:], first_day=40, model_version=2) == []
    assert watch.standing == {}


def test_drift_ends_when_the_meters_fall_again() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    errors = site_errors(120, 6, changed=6, at=14)
    errors[44:] -= 0.8
    play(watch, errors)
    assert watch.standing == {}


def test_days_with_few_scores_do_not_count() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    for day in range(40):
        part = scores(1, day, np.array([9.0 if day > 14 else 0.2]))
        watch.take("s", {name: column[:6] for name, column in part.items()})
    assert watch.standing == {}
    assert watch._sites["s"].meters == {}


@pytest.mark.parametrize("minutes", [15, 30, 60])
@pytest.mark.parametrize("hours", [1, 6, 24, 48])
def test_the_watched_lead_is_one_that_is_scored_at_every_step(minutes: int, hours: int) -> None:
    step_s = minutes * 60
    lead = hours * 60 // minutes
    assert lead in scored_leads(step_s, horizon_steps=48 * 60 // minutes)
    watch = DriftWatch(DriftParams(lead=timedelta(hours=hours)), step_s=step_s)
    per_hour = 60 // minutes
    rows = scores(4, 0, np.full(4, 0.2), lead=lead)
    for day in range(10):
        for part in range(per_hour):
            shifted = [us + day * DAY_US + part * minutes * 60_000_000 for us in rows["valid_us"]]
            watch.take("s", rows | {"valid_us": shifted})
    assert len(watch._sites["s"].meters) == 4


def test_a_score_that_comes_twice_counts_once() -> None:
    once, twice = (DriftWatch(DriftParams(), step_s=3600) for _ in range(2))
    errors = site_errors(40, 6, changed=6, at=14)
    for day, row in enumerate(errors):
        columns = scores(6, day, row)
        columns["y_kw"] = [y_kw + (number // 6) / 10 for number, y_kw in enumerate(columns["y_kw"])]
        once.take("s", columns)
        twice.take("s", columns)
        twice.take("s", {name: column[:30] for name, column in columns.items()})
    assert once._sites["s"].meters["m0"].days == twice._sites["s"].meters["m0"].days
    assert once.standing == twice.standing != {}


def test_few_scores_that_come_often_are_no_day() -> None:
    watch = DriftWatch(DriftParams(), step_s=3600)
    for day in range(10):
        part = {name: column[:6] for name, column in scores(1, day, np.array([0.2])).items()}
        for _ in range(4):
            watch.take("s", part)
    assert watch._sites["s"].meters == {}
