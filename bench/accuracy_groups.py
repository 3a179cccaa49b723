"""Meter groups: data set × kind × size tercile, ours against weekly seasonal naive, the worst marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.accuracy_judge import RULES, Judge
from bench.accuracy_sets import DevelopmentSet, kinds_of

WORSE_AT_MOST: Final = 1.02  # of seasonal naive's MASE, in every group
_TERCILES: Final = ("small", "middle", "large")
_LEAST_METERS: Final = 6  # of a kind, so that a tercile is more than one meter


@dataclass(frozen=True, slots=True)
class Group:
    """MASE of ours and of seasonal naive (168 h) over the meters of a group."""

    set: str
    kind: str
    size: str
    meters: int
    mase: float
    naive_mase: float

    @property
    def ratio(self) -> float:
        """Ours over naive's."""
        return self.mase / self.naive_mase if self.naive_mase > 0 else math.nan

    def as_json(self) -> dict[str, object]:
        """Return it with its ratio, None where there is no number."""
        found = asdict(self) | {"ratio": self.ratio}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def groups_of(name: str, chosen: DevelopmentSet, judge: Judge, ours: pd.DataFrame) -> list[Group]:
    """Return the groups of a set's meters."""
    judged = np.unique(judge.windows.meters)
    kinds = kinds_of(chosen, pd.Series(judge.panel.meters)).to_numpy(dtype=object)
    size = np.nanmean(np.abs(judge.panel.load_kw), axis=1)
    own, quantiles = judge.as_array(ours)
    naive, deciles = judge.as_array(judge.rule(RULES[1]))
    found = []
    for kind in sorted(set(kinds[judged])):
        for label, members in terciles(judged[kinds[judged] == kind], size):
            chosen_windows = np.isin(judge.windows.meters, members)
            ratio = [judge.measure_array(*f, chosen_windows).mase for f in ((own, quantiles), (naive, deciles))]
            found.append(Group(name, kind, label, len(members), *ratio))
    return found


def terciles(members: NDArray[np.int64], size: NDArray[np.float64]) -> list[tuple[str, NDArray[np.int64]]]:
    """Return the members by size in three equal parts, or all together where they are few."""
    if len(members) < _LEAST_METERS:
        return [("all", members)]
    ordered = members[np.argsort(size[members], kind="stable")]
    return list(zip(_TERCILES, np.array_split(ordered, 3), strict=True))


def group_table(groups: Sequence[Group]) -> str:
    """Return the groups as a Markdown table, the worst first; a ratio beyond the limit is marked."""
    lines = ["| set | kind | size | meters | MASE | seasonal naive 168 | ratio |", "|---|---|---|---:|---:|---:|---:|"]
    for group in sorted(groups, key=lambda one: -one.ratio if math.isfinite(one.ratio) else 0.0):
        ratio = f"{group.ratio:.3f}" + (" **worse by over 2 %**" if group.ratio > WORSE_AT_MOST else "")
        cells = [group.set, group.kind, group.size, str(group.meters), f"{group.mase:.3f}", f"{group.naive_mase:.3f}"]
        lines.append("| " + " | ".join([*cells, ratio]) + " |")
    return "\n".join(lines)
