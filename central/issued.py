"""What an edge issued of a meter, as far as its scores in the record tell, and what its calibration had learned then.

An edge scores each forecast as it was issued, at the scored leads, when the truth comes; its calibration learns from
these very numbers, and so can be replayed from them. What the record cannot know is said in a sentence.

Invariant: what was learned by an origin rests on intervals that had ended by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.calibration import States, calibrated, fresh, learned
from shared.quantiles import Quantiles, spread_places

CHAMPION: Final = "champion"
MODEL_RUNGS: Final = (CHAMPION, "starter")  # which share what calibration learned: edge/calibration.py
ALIKE: Final = 1e-3  # kW, and as a share: the edge runs the model in float32 and publishes four decimals

_SPREAD: Final = ["low_kw", "forecast_kw", "high_kw"]
_UNKNOWN: Final = (
    "what the edge's calibration had learned of this meter is not in the record: these are the model's own numbers, "
    "before calibration"
)
_REPLAYED: Final = "the edge's calibration is replayed from the scores in the record"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Issued:
    """What was published at one origin at one scored lead: by which rung and version, and the interval in kW."""

    lead: int
    rung: str
    version: int
    low_kw: float
    median_kw: float
    high_kw: float


@dataclass(frozen=True, slots=True)
class History:
    """The scores of one meter's published forecasts: `lead` (in steps), `origin_us`, `ended_us`, rung and numbers."""

    scores: pd.DataFrame
    step_s: int

    @classmethod
    def of(cls, scores: pd.DataFrame, step_s: int) -> History:
        """Take rows of the record's scores of one meter, in order of time."""
        own = scores[scores["role"] == CHAMPION].reset_index(drop=True)
        valid_us = own["valid_at"].dt.as_unit("us").astype("int64")
        step_us = step_s * 1_000_000
        return cls(
            own.assign(origin_us=valid_us - (own["lead"].astype(np.int64) - 1) * step_us, ended_us=valid_us + step_us),
            step_s,
        )

    def issued(self, origin_us: int) -> list[Issued]:
        """Return what was published at an origin, at those of the scored leads whose truth has come."""
        found = self.scores[self.scores["origin_us"] == origin_us].sort_values("lead")
        columns = (found[name].tolist() for name in ("lead", "rung", "model_version", *_SPREAD))
        return [Issued(*row) for row in zip(*columns, strict=True)]

    def states(self, origin_us: int, knots: Sequence[int], outer: tuple[float, float]) -> States | None:
        """Return what a model's calibration [1, K, STATE] had learned by an origin; None where no score tells."""
        known = self.scores[self._taught(origin_us)]
        if not len(known):
            return None
        states = fresh(1, len(knots))
        for knot, lead in enumerate(knots):
            met = known[known["lead"] == lead]
            for y_kw, spread_kw in zip(met["y_kw"].to_numpy(), met[_SPREAD].to_numpy(), strict=True):
                states[:, knot] = learned(states[:, knot], y_kw[None], spread_kw[None], outer=outer, step_s=self.step_s)
        return states

    def is_broken(self, origin_us: int) -> bool:
        """Whether other rungs served after a model had, by an origin: what a model learned meanwhile is not told."""
        known = self.scores[self.scores["ended_us"] <= origin_us]
        modelled = known["rung"].isin(MODEL_RUNGS)
        return bool((known["origin_us"][~modelled] > known["origin_us"][modelled].min()).any())

    def _taught(self, origin_us: int) -> pd.Series:
        return (self.scores["ended_us"] <= origin_us) & self.scores["rung"].isin(MODEL_RUNGS)


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a model's forecast at the edge, as far as the record tells; `note` says how far that is.

    `calibrated_kw` [L, Q] is the forecast moved by the replayed calibration, None where no score tells of one; `issued`
    is what was published at this origin, whoever made it.
    """

    calibrated_kw: Floats | None
    issued: list[Issued]
    note: str


def served(
    history: History,
    model_kw: Floats,
    *,
    origin_us: int,
    version: int,
    quantiles: Quantiles,
    knots: Sequence[int],
    floor_kw: Floats,
) -> Served:
    """Return what the record tells of a forecast [L, Q] of leads 1 … L, which `version` made at an origin."""
    issued = history.issued(origin_us)
    states = history.states(origin_us, knots, (quantiles[0], quantiles[-1]))
    if states is None:
        return Served(None, issued, f"{_UNKNOWN}{_by_another(issued, version)}")
    leads = np.arange(1, len(model_kw) + 1)
    moved = calibrated(model_kw[None], states, leads=leads, knots=knots, quantiles=quantiles, floor_kw=floor_kw)[0]
    told = _by_another(issued, version) or _apart(issued, moved[:, spread_places(quantiles)])
    return Served(moved, issued, f"{_REPLAYED}{told or _confirmed(issued) or _unscored(history, origin_us)}")


def _by_another(issued: Sequence[Issued], version: int) -> str:
    """Say who else served the origin, where it is known that another did."""
    others = {(one.rung, one.version) for one in issued} - {(CHAMPION, version)}
    if not others:
        return ""
    rung, other = min(others)
    return f"; published at this origin was the forecast of {f'version {other}' if rung == CHAMPION else rung}"


def _apart(issued: Sequence[Issued], spread_kw: Floats) -> str:
    """Say how far what was published is from the replayed interval [L, 3], beyond what rounding makes."""
    said = np.array([[one.low_kw, one.median_kw, one.high_kw] for one in issued]).reshape(-1, 3)
    apart_kw = np.abs(said - spread_kw[[one.lead - 1 for one in issued]])
    if not (apart_kw > ALIKE + ALIKE * np.abs(said)).any():
        return ""
    return f"; what was published at this origin is up to {apart_kw.max():.3g} kW from that"


def _confirmed(issued: Sequence[Issued]) -> str:
    leads = ", ".join(str(one.lead) for one in issued)
    return f"; it is what was published at leads {leads}" if issued else ""


def _unscored(history: History, origin_us: int) -> str:
    missed = ", in which what the model said while other rungs served here is missing"
    return f"{missed if history.is_broken(origin_us) else ''}; this origin has not been scored yet"
