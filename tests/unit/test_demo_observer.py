"""The demo's observer: what it counts and what it keeps."""

import json
from datetime import timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from demo.observer import SERVED, SHADOW, Observer
from demo.retrain import find_retrain
from shared.clock import to_us
from tests.unit.demo_run import SCENARIO, TOPICS, forecast, new_observer, push


def take_reading(observer: Observer, payload: bytes) -> None:
    observer.take(TOPICS.reading(observer.meters[0]), payload, 0.0)


def test_a_reading_published_twice_is_one_identity() -> None:
    observer = new_observer()
    for text in ("2013-03-04T00:00:00Z", "2013-03-04T00:00:00+00:00"):
        take_reading(observer, json.dumps({"ts": text, "value": 1}).encode())
    assert observer.readings_published == 1
    assert observer.counts.readings_messages == 2


def test_every_reading_of_a_list_counts() -> None:
    observer = new_observer()
    take_reading(observer, json.dumps([{"ts": 1362355200, "value": 1}, {"ts": 1362357000, "value": 2}]).encode())
    assert observer.readings_published == 2
    assert observer.newest_us[0] == 1362357000 * 1_000_000


def test_a_reading_far_off_does_not_count_as_a_meters_newest() -> None:
    observer = new_observer()
    take_reading(observer, b'{"ts": "2031-01-01T00:00:00Z", "value": 1}')
    assert observer.newest_us[0] == -1
    assert observer.readings_published == 1


def test_broken_json_is_one_identity_however_often_it_comes() -> None:
    observer = new_observer()
    take_reading(observer, b'{"ts": ')
    take_reading(observer, b'{"ts": ')
    assert observer.readings_published == 1


def test_a_dead_letter_sent_twice_counts_once() -> None:
    observer = new_observer()
    letter = json.dumps({"id": "a", "reason": "no value", "count": 3}).encode()
    observer.take(TOPICS.dead_letter, letter, 0.0)
    observer.take(TOPICS.dead_letter, letter, 0.0)
    assert observer.dead_letter_readings == 3


def test_a_forecast_is_kept_under_its_meter_and_origin() -> None:
    observer = new_observer()
    observer.take(TOPICS.forecast(observer.meters[2]), forecast(observer.meters[2], 30, 0.5, version=7), 0.0)
    served = observer.archives[SERVED]
    assert served.values[2, 30, 0].tolist() == [0.25, 0.5, 0.75]
    assert served.version[2, 30] == 7
    assert served.messages.sum() == 1
    assert observer.event_us == to_us(SCENARIO.start + timedelta(hours=30))


def test_the_starters_version_is_not_taken_for_a_models_of_the_site() -> None:
    observer = new_observer()
    meter = observer.meters[2]
    observer.take(TOPICS.forecast(meter), forecast(meter, 30, 0.5, rung="starter", version=1), 0.0)
    assert observer.archives[SERVED].version[2, 30] == 0
    assert observer.counts.fallbacks == 0


def test_fallbacks_are_counted_and_shadow_forecasts_are_not_forecasts() -> None:
    observer = new_observer()
    meter = observer.meters[0]
    observer.take(TOPICS.forecast(meter), forecast(meter, 1, 0.5, rung="seasonal_naive_168", version=0), 0.0)
    observer.take(TOPICS.shadow(meter), forecast(meter, 1, 0.5), 0.0)
    assert (observer.counts.forecasts, observer.counts.fallbacks, observer.counts.shadow) == (1, 1, 1)
    assert observer.archives[SHADOW].messages.sum() == 1


def test_a_missing_origin_after_a_meters_first_forecast_is_missed_and_an_earlier_one_is_not() -> None:
    observer = new_observer()
    meter = observer.meters[0]
    for origin in (10, 11, 13):
        observer.take(TOPICS.forecast(meter), forecast(meter, origin, 0.5), 0.0)
    entitled = np.full(len(observer.meters), 14)
    assert observer.archives[SERVED].missed(entitled) == 2


def test_a_model_announced_again_is_still_one_push() -> None:
    observer = new_observer()
    push(observer, 1, 1.0)
    push(observer, 1, 2.0)
    assert [model.wall_s for model in observer.pushed] == [1.0]
    assert [model.version for model in observer.serving] == [1]


def test_a_refusal_is_remembered_with_its_reason() -> None:
    observer = new_observer()
    message = {"schema": 1, "champion": None, "refused": [{"sha256": "ab", "reason": "digest mismatch", "at": ""}]}
    observer.take(TOPICS.reported, json.dumps(message).encode(), 0.0)
    assert observer.refused == {"ab": "digest mismatch"}


def test_without_drift_no_model_is_the_retrain() -> None:
    observer = new_observer()
    push(observer, 1, 1.0)
    assert find_retrain(observer) is None


TOPIC = st.sampled_from(
    [TOPICS.reading("m"), TOPICS.forecast("m"), TOPICS.dead_letter, TOPICS.drift, TOPICS.desired, TOPICS.status, "x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["ts", "id", "champion"]), inner),
    max_leaves=6,
)


@given(TOPIC, st.binary(max_size=40) | JSON.map(lambda content: json.dumps(content).encode()))
def test_whatever_arrives_the_observer_goes_on(topic: str, payload: bytes) -> None:
    OBSERVER.take(topic, payload, 0.0)


OBSERVER = new_observer()
