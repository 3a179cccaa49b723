"""A small made-up run of the demo, told to a real observer message by message, for the tests of its parts."""

import json
from datetime import UTC, datetime

import numpy as np

from demo.observer import Observer
from demo.retrain import find_retrain
from demo.scenario import Scenario, hourly_kw, last_origins, plant_charging, read_households
from demo.scores import Hindsight
from demo.summary import Outcome, Recorded
from shared.clock import HOUR_US, iso
from shared.topics import SiteTopics

SCENARIO = Scenario(
    start=datetime(2013, 3, 4, tzinfo=UTC),
    live_from=datetime(2013, 3, 16, tzinfo=UTC),
    change_at=datetime(2013, 3, 20, tzinfo=UTC),
    end=datetime(2013, 4, 8, tzinfo=UTC),
    meters=6,
)
TOPICS = SiteTopics("metercast", SCENARIO.site)
FIRST_MODEL, RETRAINED = 12 * 24, 23 * 24  # first origins of versions 1 and 2


def forecast(meter: str, origin: int, kw: float, *, rung: str = "champion", version: int = 1) -> bytes:
    """A forecast message of the contract's shape: `kw` as the median of every lead, ± 50 % around it."""
    message = {
        "schema": 1, "site": SCENARIO.site, "meter": meter, "origin": iso(SCENARIO.start_us + origin * HOUR_US),
        "revision": 0, "rung": rung, "model": {"version": version} if version else None,
        "quantiles": {"0.1": [kw / 2] * 48, "0.5": [kw] * 48, "0.9": [kw * 1.5] * 48},
    }  # fmt: skip
    return json.dumps(message).encode()


def new_observer() -> Observer:
    """An observer that has seen nothing."""
    return Observer(SCENARIO, TOPICS, sorted(read_households(SCENARIO).meter_id.unique()))


def play() -> Outcome:
    """A run in which v2, which says the truth's mean, replaces v1, which says 0.1 kW, four days after drift."""
    readings = plant_charging(read_households(SCENARIO), SCENARIO)
    observer = new_observer()
    for meter, ts in readings[["meter_id", "ts"]].itertuples(index=False):
        observer.take(TOPICS.reading(str(meter)), json.dumps({"ts": ts.isoformat()}).encode(), 0.0)
    kw = hourly_kw(readings, SCENARIO, observer.meters)
    for origin in range(1, SCENARIO.hours + 1):
        _take_origin(observer, origin, kw)
    return Outcome(
        observer=observer,
        hindsight=Hindsight.of(kw),
        changed=np.isin(observer.meters, SCENARIO.changed(observer.meters)),
        last_origins=last_origins(readings, SCENARIO, observer.meters),
        retrain=find_retrain(observer),
        recorded=Recorded(observer.readings_published, 0),
        seconds=1.0,
    )


def _take_origin(observer: Observer, origin: int, kw: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> None:
    wall = float(origin)
    if origin == FIRST_MODEL:
        push(observer, 1, wall)
    if origin == RETRAINED - 96:
        message = {"site": SCENARIO.site, "at": "", "meters": observer.meters[1::3], "decision": "retrain"}
        observer.take(TOPICS.drift, json.dumps(message).encode(), wall)
    if origin == RETRAINED:
        push(observer, 2, wall)
    for number, meter in enumerate(observer.meters):
        mean = float(np.nanmean(kw[number]))
        served = (0, "seasonal_naive_168", 0.1) if origin < FIRST_MODEL else (1, "champion", 0.1)
        if origin >= RETRAINED:
            served = (2, "champion", mean)
            observer.take(TOPICS.shadow(meter), forecast(meter, origin, 0.1, version=1), wall)
        version, rung, value = served
        observer.take(TOPICS.forecast(meter), forecast(meter, origin, value, rung=rung, version=version), wall)


def push(observer: Observer, version: int, wall: float) -> None:
    """Tell the observer that central wants `version` and the edge runs it."""
    champion = {"version": version, "reason": "test", "record_version": 7}
    for topic in (TOPICS.desired, TOPICS.reported):
        observer.take(topic, json.dumps({"schema": 1, "champion": champion}).encode(), wall)
