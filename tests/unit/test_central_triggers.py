"""When a training starts: enough history, drift, age, and the cooldown between two."""

from __future__ import annotations

from datetime import timedelta

from central.drift import DriftSeen
from central.triggers import Coverage, Triggers
from shared.clock import DAY_US
from shared.params import TrainingParams

PARAMS = TrainingParams(min_history=timedelta(days=21), every=timedelta(days=28), cooldown=timedelta(days=3))


def drifting(day: float) -> dict[str, DriftSeen]:
    """A site that was seen to drift on a day."""
    return {"site": DriftSeen("site", ("m0",), 0, int(day * DAY_US))}


DRIFTING = drifting(5)


def coverage(*days: int) -> Coverage:
    made = Coverage()
    for number, count in enumerate(days):
        made.add("s", f"m{number}", 0, count * DAY_US)
    return made


def test_the_first_training_waits_for_history_of_half_of_the_meters() -> None:
    triggers = Triggers(PARAMS)
    assert triggers.due(0, coverage(21, 20, 3, 2), {}) is None
    assert triggers.due(0, coverage(21, 21, 3, 2), {}) == "first"
    assert triggers.due(0, coverage(), {}) is None


def test_spans_grow_in_any_order() -> None:
    grown = Coverage()
    for first, last in ((5, 6), (1, 2), (3, 22)):
        grown.add("s", "m", first * DAY_US, last * DAY_US)
    assert grown.share_with(21 * DAY_US) == 1.0
    assert grown.newest_us == 22 * DAY_US


def test_drift_asks_again_after_each_cooldown_while_it_stands() -> None:
    triggers = Triggers(PARAMS)
    triggers.champion_until_us = 0
    assert triggers.due(10 * DAY_US, coverage(40), DRIFTING) == "drift"
    triggers.started(10 * DAY_US)
    assert triggers.due(11 * DAY_US, coverage(40), DRIFTING) is None
    triggers.ended()
    assert triggers.due(12 * DAY_US, coverage(40), DRIFTING) is None
    assert triggers.cools_until(12 * DAY_US) == 13 * DAY_US
    assert triggers.due(13 * DAY_US, coverage(40), DRIFTING) == "drift"
    assert triggers.due(13 * DAY_US, coverage(40), {}) is None


def test_two_trainings_never_run_at_once() -> None:
    triggers = Triggers(PARAMS)
    triggers.champion_until_us = 0
    triggers.started(0)
    assert triggers.due(100 * DAY_US, coverage(40), DRIFTING) is None


def test_a_model_is_trained_anew_when_its_record_is_old() -> None:
    triggers = Triggers(PARAMS)
    triggers.champion_until_us = 0
    assert triggers.due(27 * DAY_US, coverage(40), {}) is None
    assert triggers.due(28 * DAY_US, coverage(40), {}) == "schedule"


def test_without_a_champion_drift_does_not_stand_in_for_history() -> None:
    assert Triggers(PARAMS).due(0, coverage(3), DRIFTING) is None


def test_while_a_version_waits_or_is_on_its_way_no_first_training_fires_anew() -> None:
    triggers = Triggers(PARAMS, last_start_us=21 * DAY_US, coming_until_us=21 * DAY_US)
    assert [triggers.due(day * DAY_US, coverage(40), {}) for day in (24, 27, 48)] == [None, None, None]
    triggers.coming_until_us = None  # it was rejected
    assert triggers.due(48 * DAY_US, coverage(40), {}) == "first"


def test_a_drift_that_the_version_on_its_way_has_learned_from_asks_for_no_other_and_a_later_one_does() -> None:
    triggers = Triggers(PARAMS, champion_until_us=0, coming_until_us=10 * DAY_US)
    assert triggers.due(14 * DAY_US, coverage(40), drifting(10)) is None
    assert triggers.due(14 * DAY_US, coverage(40), drifting(11)) == "drift"
    triggers.coming_until_us = None  # it was stepped back, and the drift stands
    assert triggers.due(14 * DAY_US, coverage(40), drifting(10)) == "drift"


def test_a_version_that_waits_for_a_person_for_long_gets_a_successor_by_its_own_age() -> None:
    triggers = Triggers(PARAMS, champion_until_us=0, coming_until_us=20 * DAY_US)
    assert triggers.due(47 * DAY_US, coverage(40), {}) is None
    assert triggers.due(48 * DAY_US, coverage(40), {}) == "schedule"
