"""What is kept of each meter's stand-down (shared/standing.py), by row."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.window import FIRST_ROWS, grown
from shared.standing import RECORD, Records, of_version

_VERSIONS: Final = np.iinfo(RECORD["version"])
_SUM_AT_MOST: Final = float(np.finfo(np.float32).max)

Ints = NDArray[np.int64]


def is_record(version: object, down: object, *sums: object) -> bool:
    """Whether a row of the state database can be a record; `sums`: evidence, champion_kw, naive_kw.

    There is no verdict without evidence.
    """
    if not isinstance(version, int) or not _VERSIONS.min <= version <= _VERSIONS.max or down not in (0, 1):
        return False
    if not all(isinstance(one, (int, float)) and 0 <= one <= _SUM_AT_MOST for one in sums):
        return False
    return not down or bool(np.float32(sums[0]) > 0)  # type: ignore[arg-type]


class Standing:
    """The records of all meters, by row; of those that have not been scored there is none."""

    def __init__(self) -> None:
        self._records: Records = np.empty(FIRST_ROWS, dtype=RECORD)
        self._rows = 0

    def held(self, rows: Ints) -> Records:
        """The records [N] of meters, of whichever champion; empty where there is none."""
        records = np.zeros(len(rows), dtype=RECORD)
        known = rows < self._rows
        records[known] = self._records[rows[known]]
        return records

    def of(self, rows: Ints, version: int) -> Records:
        """The records [N] of meters under the champion `version`."""
        return of_version(self.held(rows), version)

    def put(self, rows: Ints, records: Records) -> None:
        """Set the records [N] of meters."""
        needed = int(rows.max(initial=-1)) + 1
        if needed > len(self._records):
            self._records = grown(self._records, self._rows, needed, 0)
        elif needed > self._rows:
            self._records[self._rows : needed] = 0
        self._rows = max(self._rows, needed)
        self._records[rows] = records

    @property
    def down(self) -> Ints:
        """Rows of the meters for which the champion is stood down, be the verdict its predecessor's."""
        rows: Ints = np.flatnonzero(self._records[: self._rows]["down"])
        return rows
