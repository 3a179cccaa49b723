"""The quantiles of a forecast: which are published, which are modelled, and which one is the point forecast.

The point forecast is the median: scores, stand-down, drift, the judgement of a model and MASE hold it against the truth
and against seasonal naive. So the median is always modelled, and published only where it is asked for. The interval
is that between the lowest and the highest modelled quantile. docs/adr/0030 says why.

Invariants: what is modelled ascends, holds the median, and holds all that is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

MEDIAN: Final = 0.5
APART_AT_LEAST: Final = 1e-6  # nearer ones cannot be told apart in normal-score space, where others are interpolated

Quantiles = tuple[float, ...]


def modelled(published: Sequence[float]) -> Quantiles:
    """Return the quantiles to model where these are published: them and the median.

    Raises ValueError, with what was expected of them, where they are no set of quantiles.
    """
    levels = tuple(sorted({*published, MEDIAN}))
    apart = all(later - earlier >= APART_AT_LEAST for earlier, later in pairwise(levels))
    ascending = list(published) == sorted(set(published))
    if not (published and ascending and apart and all(0 < level < 1 for level in levels)):
        raise ValueError("quantiles must ascend inside (0, 1), one or more, each a millionth from the next and from .5")
    return levels


def places(published: Sequence[float], among: Sequence[float]) -> list[int]:
    """Return where each published quantile stands among the modelled ones."""
    return [list(among).index(level) for level in published]


def spread_places(among: Sequence[float]) -> list[int]:
    """Return where the low end of the interval, the median and the high end stand among modelled quantiles.

    Where all lie on one side of the median, it is an end itself.
    """
    return [0, list(among).index(MEDIAN), len(among) - 1]


def spans(among: Sequence[float], low: float, high: float) -> bool:
    """Whether the interval from `low` to `high` is modelled, or lies within what is."""
    return among[0] <= low and high <= among[-1]


def label(level: float) -> str:
    """Return the name of a quantile in messages: the shortest text that reads as this number."""
    return repr(float(level))
