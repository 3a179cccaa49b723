"""Online calibration at the edge: who learned what of each meter, and where it is used. See shared/calibration.py.

Each source of forecasts has states of its own, since what corrects the one would spoil the other: models (champion and
starter, which follow each other), the rules below them, and the challenger.

Invariants: a source learns only from what it issued itself, as it was issued, once a score; a swap of models changes no
state; memory is taken only for sources that have learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.forecaster import RUNGS
from edge.window import FIRST_ROWS, grown
from shared.calibration import STATE, States, calibrated, fresh, learned, sound

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MODELS: Final = tuple(code for code, rung in enumerate(RUNGS) if rung in ("champion", "starter"))


class Source(IntEnum):
    """Whose forecasts a state corrects; the numbers stand in the state database."""

    MODEL = 0
    RULE = 1
    CHALLENGER = 2


SOURCES: Final = frozenset(Source)


def is_state(source: object, leads: int, body: bytes) -> bool:
    """Whether a row of the state database can be what a source learned at so many scored leads."""
    if source not in SOURCES or leads <= 0 or len(body) != 4 * leads * STATE:
        return False
    return bool(sound(np.frombuffer(body, dtype=np.float32).reshape(1, leads, STATE)).all())


def sources_of(rung: NDArray[np.int8]) -> NDArray[np.int8]:
    """The source of each published forecast, by its rung [N]."""
    return np.where(np.isin(rung, _MODELS), Source.MODEL, Source.RULE).astype(np.int8)


class Calibration:
    """The states of all meters, [meters, knots, STATE] a source; knots are the scored leads."""

    def __init__(self, leads: tuple[int, ...], quantiles: tuple[float, ...], step_s: int) -> None:
        self._leads = leads
        self._quantiles = quantiles
        self._step_s = step_s
        self._states = {source: np.empty((FIRST_ROWS, len(leads), STATE), dtype=np.float32) for source in Source}
        self._rows = dict.fromkeys(Source, 0)  # how many rows are set; beyond them memory is untouched

    def of(self, source: int, rows: Ints) -> States:
        """The states [N, knots, STATE] of meters; fresh where nothing was learned."""
        kind = Source(source)
        states = fresh(len(rows), len(self._leads))
        known = rows < self._rows[kind]
        states[known] = self._states[kind][rows[known]]
        return states

    def put(self, source: int, rows: Ints, states: States) -> None:
        """Set the states [N, knots, STATE] of meters."""
        self._reach(Source(source), rows)
        self._states[Source(source)][rows] = states

    def _reach(self, source: Source, rows: Ints) -> None:
        held, needed = self._rows[source], int(rows.max(initial=-1)) + 1
        if needed <= held:
            return
        if len(self._states[source]) < needed:
            self._states[source] = grown(self._states[source], held, needed, 0)
        self._states[source][held:needed] = fresh(needed - held, len(self._leads))
        self._rows[source] = needed

    def learn(self, source: int, rows: Ints, lead: Ints, truth_kw: Floats, issued_kw: Floats) -> None:
        """Let truths [N] meet the low, median and high [N, 3] issued for them at leads of index `lead` [N].

        Each (meter, lead) stands at most once among them.
        """
        kind = Source(source)
        self._reach(kind, rows)
        place = (rows, lead)
        outer = (self._quantiles[0], self._quantiles[-1])
        self._states[kind][place] = learned(
            self._states[kind][place], truth_kw, issued_kw, outer=outer, step_s=self._step_s
        )

    def apply(self, load_kw: Floats, sources: NDArray[np.int8], rows: Ints, floor_kw: Floats) -> Floats:
        """Return kW [N, L, Q] of forecasts [N, L, Q] at leads 1 … L, each corrected by its source's state."""
        moved = load_kw
        for source in sorted(set(sources.tolist())):
            if not self._rows[Source(source)]:
                continue  # it has learned nothing yet, of any meter
            own = slice(None) if (sources == source).all() else sources == source
            states = self.of(source, rows[own])
            moved = load_kw.copy() if moved is load_kw else moved
            moved[own] = calibrated(
                load_kw[own],
                states,
                leads=np.arange(1, load_kw.shape[1] + 1),
                knots=self._leads,
                quantiles=self._quantiles,
                floor_kw=floor_kw[own],
            )
        return moved

    def packed(self, source: int, rows: Ints) -> Iterator[bytes]:
        """Each meter's state as it stands on disk."""
        for state in self.of(source, rows):
            yield state.tobytes()

    def unpack(self, source: int, lines: list[tuple[int, bytes]]) -> None:
        """Take (row, state) from disk; one that is not of this shape, or was never learned, begins anew."""
        shape = (len(self._leads), STATE)
        size = 4 * shape[0] * shape[1]
        fitting = [(row, body) for row, body in lines if isinstance(body, bytes) and len(body) == size]
        if source not in SOURCES or not fitting:
            return
        rows, bodies = zip(*fitting, strict=True)
        states = np.frombuffer(b"".join(bodies), dtype=np.float32).reshape(-1, *shape)
        good = sound(states)
        self.put(source, np.array(rows, dtype=np.int64)[good], states[good])
