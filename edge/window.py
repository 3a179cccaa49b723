"""The ring matrix: the closed intervals of all meters, `[meters, steps]`, one row a meter.

Interval number n (start / step) of a meter stands in column n modulo the width. `closed` is the number of the first
interval not yet closed, so every column from `closed − width` to `closed − 1` is valid; a gap is NaN.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Loads = NDArray[np.float32]

NEVER: Final = -(2**62)
FIRST_ROWS: Final = 64


class Window:
    """Closed intervals in kW; grows by rows, never by columns.

    Invariants: a window at origin o holds intervals before o only; intervals are closed in order, without holes.
    """

    def __init__(self, window_steps: int, slack_steps: int) -> None:
        self.window_steps = window_steps
        self.slack_steps = slack_steps
        self.width = window_steps + slack_steps
        self.load_kw: Loads = np.full((FIRST_ROWS, self.width), np.nan, dtype=np.float32)
        self.closed: Ints = np.full(FIRST_ROWS, NEVER, dtype=np.int64)
        self.rows = 0

    def add_row(self) -> int:
        """Room for one more meter; returns its row."""
        if self.rows == len(self.closed):
            self.load_kw = np.concatenate([self.load_kw, np.full_like(self.load_kw, np.nan)])
            self.closed = np.concatenate([self.closed, np.full_like(self.closed, NEVER)])
        self.rows += 1
        return self.rows - 1

    def close(self, row: int, loads_kw: NDArray[np.floating]) -> None:
        """Close the next `len(loads_kw)` intervals of a meter."""
        first = int(self.closed[row])
        kept = loads_kw[-self.width :]
        numbers = np.arange(first + len(loads_kw) - len(kept), first + len(loads_kw))
        self.load_kw[row, numbers % self.width] = kept
        self.closed[row] = first + len(loads_kw)

    def revise(self, row: int, first: int, loads_kw: NDArray[np.floating]) -> Ints:
        """Put new loads in closed intervals; returns the numbers of those that changed."""
        numbers = np.arange(first, first + len(loads_kw))
        valid = (numbers < self.closed[row]) & (numbers >= self.closed[row] - self.width)
        numbers, new = numbers[valid], loads_kw[valid].astype(np.float32)
        old = self.load_kw[row, numbers % self.width]
        changed = ~((old == new) | (np.isnan(old) & np.isnan(new)))
        self.load_kw[row, numbers[changed] % self.width] = new[changed]
        revised: Ints = numbers[changed]
        return revised

    def before(self, rows: Ints, origin: int) -> Loads:
        """Windows [len(rows), window_steps]; column −1 is the interval just before `origin`."""
        columns = np.arange(origin - self.window_steps, origin) % self.width
        windows: Loads = self.load_kw[rows[:, None], columns]
        return windows

    def at(self, rows: Ints, number: int) -> Loads:
        """The load of interval `number` [len(rows)]."""
        loads: Loads = self.load_kw[rows, number % self.width]
        return loads
