"""The checker finds what it is there to find, and is content with nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shared.clock import HOUR_US, iso
from tests.faults.checker import Closed, Letter, Verdict, check, differing
from tests.faults.meters import START_US, Publication, Reading, message

TOPIC = "metercast/plant/readings/"
GOOD = [message("m0", (START_US + hour * HOUR_US, float(hour)), unit="kW") for hour in range(3)]
ROWS = [reading for one in GOOD for reading in one.readings]
BAD = [Publication("m0", b"{broken %d" % number) for number in range(3)]
LETTERS = [Letter(f"{TOPIC}m0", one.payload, "not JSON", 1) for one in BAD]


def judged(readings: list[Reading], letters: list[Letter], published: list[Publication] | None = None) -> Verdict:
    everything = [*GOOD, *BAD] if published is None else published
    return check(everything, everything, readings, letters, readings_topic=TOPIC, welcome={"m0"})


def refused(reading: Reading, *, value: float | None = None) -> Letter:
    content = {"ts": iso(reading.ts_us), "value": reading.value if value is None else value, "unit": "kW"}
    return Letter(f"{TOPIC}{reading.meter}", json.dumps(content).encode(), "too many meters", 1)


def test_all_readings_recorded_and_all_garbage_answered_is_sound() -> None:
    assert judged(ROWS, LETTERS).sound


def test_what_was_published_twice_is_owed_once() -> None:
    assert judged(ROWS, LETTERS, [*GOOD, *GOOD, *BAD, *BAD]).sound


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_reading_and_an_unanswered_message_are_missing(lost: int) -> None:
    verdict = judged([row for row in ROWS if row != ROWS[lost]], [one for one in LETTERS if one != LETTERS[lost]])
    assert len(verdict.missing) == 2


def test_a_reading_recorded_with_another_value_is_missing_and_unexplained() -> None:
    verdict = judged([*ROWS[:2], replace(ROWS[2], value=99.0)], LETTERS)
    assert (len(verdict.missing), len(verdict.unexplained)) == (1, 1)


def test_a_reading_in_two_rows_is_doubled_and_so_is_a_letter_in_two() -> None:
    assert len(judged([*ROWS, ROWS[0]], [*LETTERS, LETTERS[0]]).doubled) == 2


def test_a_good_reading_among_the_dead_letters_is_refused_not_missing() -> None:
    verdict = judged(ROWS[:2], [*LETTERS, refused(ROWS[2])])
    assert (len(verdict.refused), verdict.missing) == (1, [])
    assert not verdict.sound


def test_a_reading_of_a_meter_that_is_not_welcome_is_answered_by_its_letter() -> None:
    stranger = message("x0", (START_US, 1.0), unit="kW")
    assert judged([], [refused(stranger.readings[0])], [stranger]).sound


def test_the_letter_of_one_reading_does_not_answer_another() -> None:
    assert len(judged(ROWS[:2], [*LETTERS, refused(ROWS[2], value=7.0)]).missing) == 1


def test_a_letter_without_a_reason_explains_nothing() -> None:
    assert len(judged(ROWS, [*LETTERS[:2], replace(LETTERS[2], reason=" ")]).unexplained) == 1


@pytest.mark.parametrize(("count", "missing"), [(2, 1), (3, 0), (4, 0)])
def test_a_summary_row_stands_for_as_many_as_it_counts(count: int, missing: int) -> None:
    verdict = judged(ROWS, [replace(LETTERS[0], payload=b"", count=count)])
    assert len(verdict.missing) == missing


def test_a_summary_row_of_one_topic_stands_for_what_is_left_of_another() -> None:
    attack = [message(f"x{number}", (START_US, 1.0), unit="kW") for number in range(5)]
    letter = Letter(f"{TOPIC}x0", b"", "beyond the limit", 4)
    assert len(judged([], [letter], attack).missing) == 1


def test_intervals_differ_where_a_load_an_end_or_a_meter_does() -> None:
    clean = {"m0": Closed(3, {1: 1.0, 2: 2.0}), "m1": Closed(3, {})}
    assert differing(clean, clean) == []
    assert len(differing({"m0": Closed(3, {1: 1.0, 2: 2.5}), "m1": Closed(3, {})}, clean)) == 1
    assert len(differing({"m0": Closed(4, {1: 1.0}), "m1": Closed(3, {})}, clean)) == 2
    assert len(differing({"m0": clean["m0"]}, clean)) == 1
