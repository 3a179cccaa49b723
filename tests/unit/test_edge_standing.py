"""The verdict on a champion, meter by meter: a pure function of its errors and seasonal naive's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.standing import Standing
from shared.standing import RECORD, Records, comparison, decay_of, lead_weights, of_version, reason_of, weighed

DECAY = decay_of(3600)
WEIGHTS = lead_weights((1, 6, 24, 48), 48)


def _after(records: Records, champion_kw: float, naive_kw: float, hours: int) -> Records:
    for _ in range(hours):
        errors = (np.full((len(records), 4), kw) for kw in (champion_kw, naive_kw))
        records = weighed(records, *errors, weights=WEIGHTS, decay=DECAY)
    return records


def _fresh(version: int = 1) -> Records:
    return of_version(np.zeros(1, dtype=RECORD), version)


def test_a_lead_counts_for_the_part_of_the_horizon_it_stands_for() -> None:
    assert WEIGHTS.sum() == pytest.approx(1)
    assert (np.argsort(WEIGHTS) == [0, 1, 3, 2]).all()
    assert lead_weights((48,), 48) == pytest.approx([1])


def test_a_champion_that_is_clearly_worse_is_stood_down_after_two_weeks_and_not_before() -> None:
    records = _after(_fresh(), 1.2, 1.0, 335)
    assert not records["down"].any()
    assert _after(records, 1.2, 1.0, 3)["down"].all()


def test_a_champion_that_is_a_little_worse_stays() -> None:
    assert not _after(_fresh(), 1.08, 1.0, 2000)["down"].any()


def test_one_that_is_stood_down_returns_only_when_it_is_no_longer_worse() -> None:
    down = _after(_fresh(), 1.2, 1.0, 400)
    assert _after(down, 1.05, 1.0, 2000)["down"].all()
    assert not _after(down, 0.9, 1.0, 400)["down"].any()


def test_where_nothing_was_scored_nothing_changes() -> None:
    records = _after(_fresh(), 1.2, 1.0, 400)
    assert (_after(records, np.nan, 1.0, 5) == records).all()
    assert (_after(records, 1.0, np.nan, 5) == records).all()


def test_a_successor_inherits_the_verdict_with_half_of_the_evidence() -> None:
    records = _after(_fresh(version=1), 1.2, 1.0, 400)
    assert (of_version(records, 1) == records).all()
    inherited = of_version(records, 2)
    assert (inherited["version"] == 2).all()
    assert inherited["down"].all()
    assert inherited["evidence"] == pytest.approx(records["evidence"] / 2)
    assert inherited["champion_kw"] / inherited["naive_kw"] == pytest.approx(1.2)
    assert (of_version(_fresh(version=1), 2) == _fresh(version=2)).all()


def test_a_successor_that_is_better_returns_sooner_than_its_predecessor_would() -> None:
    down = _after(_fresh(version=1), 1.4, 1.0, 400)
    returns = [
        next(h for h in range(1, 500) if not _after(of_version(down, v), 0.7, 1.0, h)["down"].any()) for v in (1, 2)
    ]
    assert 72 < returns[1] < 0.75 * returns[0]


def test_the_reason_gives_both_errors_in_kw() -> None:
    reason = reason_of(_after(_fresh(), 1.25, 1.0, 400)[0])
    assert reason == "the champion was worse than seasonal naive here: mean absolute error 1.25 kW against 1 kW of late"


def test_a_record_without_evidence_compares_nothing() -> None:
    assert "nothing scored" in comparison(_fresh()[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_meter_is_judged_alone(meters: int, chance: object) -> None:
    rng = np.random.default_rng(chance.randrange(2**32))  # type: ignore[attr-defined]
    together = of_version(np.zeros(meters, dtype=RECORD), 1)
    alone = [together[[row]] for row in range(meters)]
    for _ in range(20):
        champion_kw, naive_kw = rng.choice([np.nan, 0.0, 1.0, 5.0], size=(2, meters, 4))
        together = weighed(together, champion_kw, naive_kw, weights=WEIGHTS, decay=0.5)
        alone = [
            weighed(one, champion_kw[[row]], naive_kw[[row]], weights=WEIGHTS, decay=0.5)
            for row, one in enumerate(alone)
        ]
    assert (together == np.concatenate(alone)).all()


def test_records_of_meters_are_kept_as_they_are_however_many_there_are() -> None:
    standing = Standing()
    record = _after(_fresh(version=7), 1.2, 1.0, 400)
    for row in (3, 200, 100):
        standing.put(np.array([row]), record)
    assert standing.down.tolist() == [3, 100, 200]
    assert (standing.of(np.array([5000, 4]), 7) == _fresh(version=7)).all()
