"""Production criteria: may a candidate serve? A pure judgement with its reasons in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """What a forecaster reached on the judged windows: MASE, weighted quantile loss, coverage of the 80 % interval."""

    mase: float
    wql: float
    coverage_80: float | None  # None: its quantiles span no such interval
    windows: int
    meters: int


@dataclass(frozen=True, slots=True)
class Duel:
    """Candidate and champion on the same windows, which neither was trained on."""

    candidate: Score
    champion: Score


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate must reach, on the same windows as those it is compared with.

    `max_vs_naive` and `max_vs_champion` are the highest allowed ratios of its MASE and weighted quantile loss to those
    of weekly seasonal naive and of the champion: .98 asks for two percent better, 1.0 for no worse.
    """

    max_vs_naive: float = 1.0
    max_vs_champion: float = 1.0
    coverage_80: tuple[float, float] = (0.6, 0.95)
    min_windows: int = 20
    min_meters: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement: accepted or not, with one sentence per criterion, the failed ones first."""

    accepted: bool
    reasons: list[str]


def judge(candidate: Score, duel: Duel | None, naive: Score, limits: Limits) -> Verdict:
    """Judge a candidate against weekly seasonal naive and the champion (if any); a NaN fails its criterion."""
    checks = [*_enough(candidate, limits), *_against("seasonal naive", candidate, naive, limits.max_vs_naive)]
    if duel is not None:
        checks += _against("the champion", duel.candidate, duel.champion, limits.max_vs_champion)
    checks.append(_coverage(candidate, limits))
    checks.sort(key=lambda check: check[0])
    return Verdict(all(passed for passed, _ in checks), [sentence for _, sentence in checks])


def _enough(candidate: Score, limits: Limits) -> Iterator[tuple[bool, str]]:
    for what, had, needed in (
        ("windows", candidate.windows, limits.min_windows),
        ("meters", candidate.meters, limits.min_meters),
    ):
        passed = had >= needed
        yield (
            passed,
            f"it was judged on {had} {what}, {'enough for' if passed else 'fewer than'} the {needed} asked for",
        )


def _against(rival: str, candidate: Score, other: Score, ratio: float) -> Iterator[tuple[bool, str]]:
    for measure, own, theirs in (
        ("MASE", candidate.mase, other.mase),
        ("weighted quantile loss", candidate.wql, other.wql),
    ):
        passed = own <= ratio * theirs
        word = "within" if passed else "above"
        yield passed, f"its {measure} of {own:.3f} is {word} {ratio:g} times the {theirs:.3f} of {rival}"


def _coverage(candidate: Score, limits: Limits) -> tuple[bool, str]:
    low, high = limits.coverage_80
    if candidate.coverage_80 is None:
        return True, "its 80 % interval was not judged: its quantiles do not reach from .1 to .9"
    passed = low <= candidate.coverage_80 <= high
    where = "within" if passed else "outside"
    return (
        passed,
        f"its 80 % interval holds {candidate.coverage_80:.0%} of what came true, {where} {low:.0%} to {high:.0%}",
    )
