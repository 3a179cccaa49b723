"""Production criteria: a pure judgement with its reasons in sentences (skeleton, being filled in)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """What a forecaster reached on the judged windows: MASE, weighted quantile loss, coverage of 80 % as a fraction."""

    mase: float
    wql: float
    coverage_80: float
    windows: int
    meters: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate must reach; `champion_margin` is the highest allowed ratio of its MASE to the champion's."""

    champion_margin: float = 1.0
    coverage_min: float = 0.65
    coverage_max: float = 0.95
    min_windows: int = 20
    min_meters: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement: accepted or not, with one sentence per criterion, the failed ones first."""

    accepted: bool
    reasons: list[str]


def judge(candidate: Score, champion: Score | None, naive: Score, limits: Limits) -> Verdict:
    """Judge a candidate against the running champion (if any) and weekly seasonal naive on the same windows."""
    raise NotImplementedError
