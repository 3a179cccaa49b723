"""The ring matrix: the closed intervals of all meters, `[meters, steps]`, one row a meter.

Interval number n (start / step) of a meter stands in column n modulo the width. `closed` is the number of the first
interval not yet closed, so every column from `closed − width` to `closed − 1` is valid; a gap is NaN. Beside each load
stand its flags, what is to be known of its making.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.grid import Flag, Intervals

Ints = NDArray[np.int64]
Loads = NDArray[np.float32]
Flags = NDArray[np.uint8]

NEVER: Final = -(2**62)
FROM_ELSEWHERE: Final = np.uint8(128)  # beside grid's flags: filled in, not made from readings that are held here
FIRST_ROWS: Final = 64


def grown(array: NDArray[Any], filled: int, rows: int, fill: float) -> NDArray[Any]:
    """The first `filled` rows of `array`, `fill` up to `rows`, and room for as many again.

    What no meter has reached yet is left untouched, so that the system need not find memory for it.
    """
    larger = np.empty((max(2 * len(array), rows), *array.shape[1:]), dtype=array.dtype)
    larger[:filled] = array[:filled]
    larger[filled:rows] = fill
    return larger


class Window:
    """Closed intervals in kW; grows by rows, never by columns.

    Invariants: a window at origin o holds intervals before o only; intervals are closed in order, without holes.
    """

    def __init__(self, window_steps: int, slack_steps: int) -> None:
        self.window_steps = window_steps
        self.slack_steps = slack_steps
        self.width = window_steps + slack_steps
        self.load_kw: Loads = np.empty((FIRST_ROWS, self.width), dtype=np.float32)
        self.flags: Flags = np.empty((FIRST_ROWS, self.width), dtype=np.uint8)
        self.closed: Ints = np.full(FIRST_ROWS, NEVER, dtype=np.int64)
        self.rows = 0

    def add_row(self) -> int:
        """Room for one more meter; returns its row."""
        row = self.rows
        if row == len(self.closed):
            self.load_kw = grown(self.load_kw, row, row, np.nan)
            self.flags = grown(self.flags, row, row, 0)
            self.closed = np.concatenate([self.closed, np.full_like(self.closed, NEVER)])
        self.load_kw[row] = np.nan
        self.flags[row] = Flag.GAP
        self.rows += 1
        return row

    def close(self, row: int, until: int, made: Intervals) -> None:
        """Close a meter's intervals up to number `until`, of which `made` holds the last."""
        columns = np.arange(until - len(made.load_kw), until) % self.width
        self.load_kw[row, columns] = made.load_kw
        self.flags[row, columns] = made.flags
        self.closed[row] = until

    def revise(self, row: int, first: int, made: Intervals) -> bool:
        """Put new loads and flags in closed intervals still in the ring; returns whether any changed.

        One that was filled in knew more than the readings held here, unless these cover it whole.
        """
        numbers = np.arange(first, first + len(made.load_kw))
        columns = numbers % self.width
        valid = (numbers < self.closed[row]) & (numbers >= self.closed[row] - self.width)
        valid &= (self.flags[row, columns] & FROM_ELSEWHERE == 0) | (made.completeness >= 1)
        columns, load_kw, flags = columns[valid], made.load_kw[valid].astype(np.float32), made.flags[valid]
        same = np.array_equal(self.load_kw[row, columns], load_kw, equal_nan=True)
        if same and np.array_equal(self.flags[row, columns], flags):
            return False
        self.load_kw[row, columns] = load_kw
        self.flags[row, columns] = flags
        return True

    def fill(self, row: int, first: int, made: Intervals) -> int:
        """Put loads where closed intervals are missing, and nowhere else; returns how many were filled."""
        numbers = np.arange(first, first + len(made.load_kw))
        held = (numbers < self.closed[row]) & (numbers >= self.closed[row] - self.width)
        empty = held & np.isfinite(made.load_kw) & np.isnan(self.load_kw[row, numbers % self.width])
        self.load_kw[row, numbers[empty] % self.width] = made.load_kw[empty]
        self.flags[row, numbers[empty] % self.width] = made.flags[empty] | FROM_ELSEWHERE
        return int(empty.sum())

    def reopen(self, row: int, number: int) -> None:
        """Take back that a meter's intervals from `number` on are closed: a clock that ran ahead had closed them.

        Their columns are those of intervals a whole width earlier, which are lost.
        """
        closed = int(self.closed[row])
        lost = np.arange(max(number, closed - self.width), closed) % self.width
        self.load_kw[row, lost] = np.nan
        self.flags[row, lost] = Flag.GAP
        self.closed[row] = number

    def before(self, rows: Ints, origin: int) -> Loads:
        """Windows [len(rows), window_steps]; column −1 is the interval just before `origin`."""
        columns = np.arange(origin - self.window_steps, origin) % self.width
        windows: Loads = self.load_kw[rows[:, None], columns]
        return windows

    def flags_before(self, rows: Ints, origin: int, steps: int) -> Flags:
        """What is to be known of any of the last `steps` intervals before `origin`, [len(rows)]."""
        columns = np.arange(origin - steps, origin) % self.width
        together: Flags = np.bitwise_or.reduce(self.flags[rows[:, None], columns], axis=1)
        return together

    def at(self, rows: Ints, number: int) -> Loads:
        """The load of interval `number` [len(rows)]."""
        loads: Loads = self.load_kw[rows, number % self.width]
        return loads
