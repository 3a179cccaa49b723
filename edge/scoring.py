"""Forecasts meet the truth: what was issued at a few leads is kept until its interval closes, then scored.

Invariants: a score uses the forecast as it was issued, never one made later; each (meter, interval, lead, role) is
scored once, in the order of the origins, however the readings were batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.window import FIRST_ROWS, grown

Ints = NDArray[np.int64]
Loads = NDArray[np.float32]

ROLES: Final = ("champion", "challenger")  # as scores name them
STOOD_DOWN: Final = len(ROLES)  # in place of a role: what a champion would have issued where it is stood down
_NO_ORIGIN: Final = -1


@dataclass(frozen=True, slots=True)
class Issued:
    """What one role issued at one origin, at the scored leads: low, median and high [rows, leads, 3] in kW."""

    role: int
    origin: int
    rows: Ints
    spread_kw: Loads
    rung: NDArray[np.int8]
    version: Ints


class Scoreboard:
    """Per role, meter and scored lead the last forecasts issued, until their interval closes.

    A lead of h needs h origins kept; all leads share one axis of slots, lead k's start at `offsets[k]`. The few meters
    that a champion is stood down for are kept close together, each at a place of its own from then on.
    """

    def __init__(self, leads: tuple[int, ...]) -> None:
        self.leads = leads
        self._depth = np.array(leads, dtype=np.int64) + 1
        self._offsets = np.concatenate([[0], np.cumsum(self._depth)[:-1]])
        self.slots = int(self._depth.sum())
        self._origin: list[NDArray[np.int32]] = []
        self._spread_kw: list[Loads] = []
        self._rung: list[NDArray[np.int8]] = []
        self._version: list[NDArray[np.int32]] = []
        self._rows: list[int] = []  # how many of each role's rows are set; beyond them memory is untouched
        self._places: dict[int, int] = {}  # of meters, under STOOD_DOWN

    def _places_of(self, role: int, rows: Ints) -> Ints:
        """Where the meters' forecasts are kept; -1 where none ever were."""
        if role != STOOD_DOWN:
            return rows
        return np.array([self._places.get(row, -1) for row in rows.tolist()], dtype=np.int64)

    def _reach(self, role: int, rows: int) -> None:
        while len(self._origin) <= role:
            self._origin.append(np.empty((FIRST_ROWS, self.slots), dtype=np.int32))
            self._spread_kw.append(np.empty((FIRST_ROWS, self.slots, 3), dtype=np.float32))
            self._rung.append(np.empty((FIRST_ROWS, self.slots), dtype=np.int8))
            self._version.append(np.empty((FIRST_ROWS, self.slots), dtype=np.int32))
            self._rows.append(0)
        held = self._rows[role]
        if held >= rows:
            return
        if len(self._origin[role]) < rows:
            self._origin[role] = grown(self._origin[role], held, rows, _NO_ORIGIN)
            self._spread_kw[role] = grown(self._spread_kw[role], held, rows, np.nan)
            self._rung[role] = grown(self._rung[role], held, rows, 0)
            self._version[role] = grown(self._version[role], held, rows, 0)
        else:
            self._origin[role][held:rows] = _NO_ORIGIN
        self._rows[role] = rows

    def _slots_of(self, origins: Ints) -> Ints:
        slots: Ints = self._offsets + origins % self._depth
        return slots

    def put(self, issued: Issued) -> None:
        """Keep what was issued."""
        if not len(issued.rows):
            return
        if issued.role == STOOD_DOWN:
            for row in issued.rows.tolist():
                self._places.setdefault(row, len(self._places))
        places = self._places_of(issued.role, issued.rows)
        self._reach(issued.role, int(places.max()) + 1)
        slots = self._slots_of(np.full(len(self.leads), issued.origin))
        place = (places[:, None], slots[None, :])
        self._origin[issued.role][place] = issued.origin
        self._spread_kw[issued.role][place] = issued.spread_kw
        self._rung[issued.role][place] = issued.rung[:, None]
        self._version[issued.role][place] = issued.version[:, None]

    def due(self, role: int, rows: Ints, number: int) -> tuple[Ints, Ints, Loads, NDArray[np.int8], NDArray[np.int32]]:
        """What was issued for interval `number`: (index into rows, index into leads, spread [n, 3], rung, version)."""
        if role >= len(self._origin) or not self._rows[role] or not len(rows):
            none = np.zeros(0, dtype=np.int64)
            return none, none, np.zeros((0, 3), dtype=np.float32), none.astype(np.int8), none.astype(np.int32)
        places = self._places_of(role, rows)
        self._reach(role, int(places.max()) + 1)
        origins = number - np.array(self.leads, dtype=np.int64) + 1
        place = (places[:, None], self._slots_of(origins)[None, :])
        who, lead = np.nonzero((self._origin[role][place] == origins[None, :]) & (places >= 0)[:, None])
        found = (places[who], self._slots_of(origins)[lead])
        return who, lead, self._spread_kw[role][found], self._rung[role][found], self._version[role][found]
