"""Panels of load and training rows (skeleton, being filled in)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.calendars import Calendar


@dataclass(frozen=True, slots=True)
class Panel:
    """Load of M meters on one grid: `load_kw` float64 [M, T], NaN = missing; column 0 starts at `start_us` UTC."""

    meters: list[str]
    start_us: int
    step_s: int
    load_kw: NDArray[np.float64]

    @property
    def end_us(self) -> int:
        """Return the end of the last interval."""
        return self.start_us + self.load_kw.shape[1] * self.step_s * 1_000_000

    def windows(self, meters: NDArray[np.int64], origins_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return [N, window_steps] of row indices `meters` at `origins_us`; NaN outside the panel."""
        raise NotImplementedError

    def truth(self, meters: NDArray[np.int64], origins_us: NDArray[np.int64], leads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the load [N, L] that came true at `leads` [L] or [N, L]; NaN outside the panel."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows: `x` float32 [R, F], `target` float64 [R] (normalised), `weight` float64 [R], `samples` windows used."""

    x: NDArray[np.float32]
    target: NDArray[np.float64]
    weight: NDArray[np.float64]


def panel_from_file(path: Path, *, step_s: int = 3600, aggregate: str = "mean") -> Panel:
    """Read `meter_id, ts, value` from Parquet or CSV onto the grid; under half the readings of an interval: missing."""
    raise NotImplementedError


def panel_from_record(rows: pd.DataFrame, *, step_s: int = 3600) -> Panel:
    """Turn rows of the record (`meter_id, ts, value, unit, kind, period_s`) into mean kW per interval by shared/grid.py."""
    raise NotImplementedError
