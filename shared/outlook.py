"""What was known of a covariate at an origin, out of all its issues.

One rule, for past and future alike: an interval's value is that of the newest issue made by the origin that speaks of
it. Training, with years of issues, and the edge, with the last days of them, ask the same function.

Invariants: nothing issued after an origin is known at it; the order in which issues came does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.covariates import CHANGES_H, COLUMNS_OF_A_NAME, Columns, Floats, Issue

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outlook:
    """The issues of one covariate on one grid, ordered for look-ups.

    `issued_us` [R] are the times of making, ascending; `keys` [E] and `values` [E] are what is said, by interval and
    then by issue: a key is (interval − `first`)·(R + 1) + the issue's place among the R.
    """

    step_us: int
    first: int
    issued_us: Ints
    keys: Ints
    values: Floats

    @classmethod
    def of(cls, issues: Iterable[Issue], step_us: int) -> Outlook:
        """Put the issues, each of an identity of its own, on the grid of `step_us`."""
        ordered = sorted(issues, key=lambda issue: issue.key)
        placed = [issue.on_grid(step_us) for issue in ordered]
        lengths = np.array([len(values) for _first, values in placed], dtype=np.int64)
        first = min((first for first, _values in placed), default=0)
        numbers = np.concatenate([np.arange(at, at + len(values)) for at, values in placed] or [np.empty(0, np.int64)])
        values = np.concatenate([values for _first, values in placed] or [np.empty(0)])
        rank = np.repeat(np.arange(len(placed)), lengths)
        keys = (numbers - first) * (len(placed) + 1) + rank
        said = np.flatnonzero(np.isfinite(values))
        said = said[np.argsort(keys[said])]
        issued_us = np.array([issue.issued_us for issue in ordered], dtype=np.int64)
        return cls(step_us, first, issued_us, keys[said].astype(np.int64), values[said])

    def at(self, origins_us: Ints, numbers: Ints) -> Floats:
        """Return what was known at origins [N] of intervals [N, K], NaN where nothing was."""
        if not len(self.keys):
            return np.full(numbers.shape, np.nan)
        ranks = len(self.issued_us) + 1
        made = np.searchsorted(self.issued_us, origins_us, side="right")
        begin = (numbers - self.first) * ranks
        newest = np.searchsorted(self.keys, begin + made[:, None]) - 1
        # The newest entry below is of another interval, or there is none: nothing is known of this one.
        known = (newest >= 0) & (self.keys[newest] >= begin)
        return np.where(known, self.values[newest], np.nan)

    def columns(self, origins_us: Ints, leads: Ints) -> Columns:
        """Return float32 [N, L, 3]: the value at each target, and its change from a day and from a week before."""
        targets = (origins_us // self.step_us)[:, None] + leads - 1
        value = self.at(origins_us, targets)
        per_hour = 3_600_000_000 // self.step_us
        changes = [value - self.at(origins_us, targets - hours * per_hour) for hours in CHANGES_H]
        return np.stack([value, *changes], axis=2).astype(np.float32)


def covariate_columns(outlooks: Mapping[str, Outlook], names: Sequence[str], origins_us: Ints, leads: Ints) -> Columns:
    """Return float32 [N, L, 3·names] for origins [N] and leads [L] or [N, L]; NaN for names that are not there."""
    shape = (len(origins_us), leads.shape[-1], COLUMNS_OF_A_NAME)
    nothing = np.full(shape, np.nan, dtype=np.float32)
    parts = [outlooks[name].columns(origins_us, leads) if name in outlooks else nothing for name in names]
    return np.concatenate(parts, axis=2) if parts else np.empty((*shape[:2], 0), dtype=np.float32)
