"""Panels: the load of many meters on one grid, and what of it was known when.

Invariant: a window at an origin holds what the readings received by then (plus the grace) make of it, where it is known
when they were received.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates
from central.revisions import Revisions
from shared.covariates import column_names
from shared.features import FEATURES, window_steps

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Panel:
    """Load of M meters on one grid: `load_kw` float64 [M, T], NaN = missing; column 0 starts at `start_us` UTC.

    `load_kw` is the last word on each interval; `revisions` are the earlier ones, None where there were none.
    """

    meters: list[str]
    start_us: int
    step_s: int
    load_kw: Floats
    revisions: Revisions | None = None
    covariates: Covariates | None = None  # a row for each meter

    @property
    def step_us(self) -> int:
        """Return the step in microseconds."""
        return self.step_s * 1_000_000

    @property
    def end_us(self) -> int:
        """Return the end of the last interval."""
        return self.start_us + int(self.load_kw.shape[1]) * self.step_us

    def column(self, instants_us: Ints) -> Ints:
        """Return the columns whose intervals start at `instants_us`; may lie outside the panel."""
        columns: Ints = (instants_us - self.start_us) // self.step_us
        return columns

    def windows(self, meters: Ints, origins_us: Ints) -> NDArray[np.float32]:
        """Return float32 [N, window_steps] of row indices `meters` just before `origins_us`; NaN outside the panel.

        They hold what was known at `origins_us`.
        """
        origins = self.column(origins_us)[:, None]
        columns = origins + np.arange(-window_steps(self.step_s), 0)
        values = self._at(meters, columns)
        if self.revisions is not None:
            values = self.revisions.known(values, meters[:, None], columns, origins)
        return values.astype(np.float32)

    def truth(self, meters: Ints, origins_us: Ints, leads: Ints) -> Floats:
        """Return the load [N, L] at `leads` ([L], or [N, L]) of `origins_us`; NaN outside the panel."""
        return self._at(meters, self.column(origins_us)[:, None] + leads - 1)

    def until(self, end_us: int) -> Panel:
        """Return the panel as it stood at `end_us`: only intervals that had ended, as they were known."""
        count = max(0, int(self.column(np.array([end_us], dtype=np.int64))[0]))
        known = self.known_at(np.full(len(self.meters), count, dtype=np.int64))
        revisions = None if known.revisions is None else known.revisions.until(count)
        return replace(known, load_kw=known.load_kw[:, :count], revisions=revisions)

    def known_at(self, ends: Ints) -> Panel:
        """Return the panel as it stood at each meter's own column of `ends` [M]; from there on it is missing."""
        ended = np.arange(self.load_kw.shape[1]) < ends[:, None]
        if self.revisions is None:
            return replace(self, load_kw=np.where(ended, self.load_kw, np.nan))
        meters, columns = np.arange(len(ends))[:, None], np.arange(self.load_kw.shape[1])
        known_kw = self.revisions.known(self.load_kw, meters, columns, ends[:, None])
        return replace(self, load_kw=np.where(ended, known_kw, np.nan), revisions=self.revisions.forgotten_from(ends))

    def as_it_ended(self, column: int) -> Floats:
        """Return the load [M] of an interval as it was known at its end."""
        return self.as_known(column, column + 1)

    def as_known(self, column: int, origin: int) -> Floats:
        """Return the load [M] of an interval as it was known at the start of column `origin`."""
        load_kw = self.load_kw[:, column]
        if self.revisions is None:
            return load_kw
        return self.revisions.known(load_kw, np.arange(len(load_kw)), np.array(column), np.array(origin))

    def covariates_of(self, meters: Ints) -> Covariates | None:
        """Return what is known ahead to row indices `meters`, None where there is nothing of the kind."""
        return None if self.covariates is None else self.covariates.of(meters)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the columns of training rows drawn from here: the features, then the covariates' columns."""
        return FEATURES if self.covariates is None else (*FEATURES, *column_names(self.covariates.names))

    def _at(self, meters: Ints, columns: Ints) -> Floats:
        inside = (columns >= 0) & (columns < self.load_kw.shape[1])
        values: Floats = (
            self.load_kw[meters[:, None], np.where(inside, columns, 0)] if inside.any() else np.zeros(columns.shape)
        )
        return np.where(inside, values, np.nan)
