"""The judgement and its sentences."""

import math
from dataclasses import replace

import pytest

from central.criteria import Duel, Limits, Score, judge

GOOD = Score(mase=0.9, wql=0.3, coverage_80=0.8, windows=100, meters=20)
NAIVE = Score(mase=1.2, wql=0.45, coverage_80=0.78, windows=100, meters=20)


def test_a_candidate_better_than_naive_and_champion_is_accepted() -> None:
    verdict = judge(GOOD, Duel(GOOD, replace(GOOD, mase=0.95)), NAIVE, Limits())
    assert verdict.accepted
    assert "its MASE of 0.900 is within 1 times the 0.950 of the champion" in verdict.reasons


def test_a_first_candidate_is_judged_without_a_champion() -> None:
    assert judge(GOOD, None, NAIVE, Limits()).accepted


@pytest.mark.parametrize(
    ("worse", "word"),
    [
        (replace(GOOD, mase=1.3), "seasonal naive"),
        (replace(GOOD, wql=0.5), "weighted quantile loss"),
        (replace(GOOD, coverage_80=0.3), "outside 60% to 95%"),
        (replace(GOOD, windows=3), "fewer than the 20"),
        (replace(GOOD, mase=math.nan), "MASE of nan"),
    ],
)
def test_each_failed_criterion_refuses_and_its_sentence_comes_first(worse: Score, word: str) -> None:
    verdict = judge(worse, None, NAIVE, Limits())
    assert not verdict.accepted
    assert word in verdict.reasons[0]


def test_without_an_80_percent_interval_that_is_said_and_decides_nothing() -> None:
    verdict = judge(replace(GOOD, coverage_80=None), None, NAIVE, Limits())
    assert verdict.accepted
    assert "its 80 % interval was not judged: its quantiles do not reach from .1 to .9" in verdict.reasons


def test_a_margin_asks_for_more_than_a_tie_with_the_champion() -> None:
    assert judge(GOOD, Duel(GOOD, GOOD), NAIVE, Limits()).accepted
    assert not judge(GOOD, Duel(GOOD, GOOD), NAIVE, Limits(max_vs_champion=0.98)).accepted
