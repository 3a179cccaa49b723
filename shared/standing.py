"""Stand-down: whether the champion does better than seasonal naive for a meter, and what is done when it does not.

The champion's and weekly seasonal naive's absolute errors at the same intervals and leads are summed, older ones with
less weight; a lead counts for the part of the horizon it stands for, since readers use all of it. A champion that is
clearly worse on enough evidence is stood down for that meter: the next rung forecasts it. Its own forecasts go on being
made and scored, unpublished, and it returns when it is no longer worse.

Invariants: a verdict is a function of the scores alone, in the order of their intervals; a successor inherits the
verdict with a part of the evidence, so that its own scores soon outweigh it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

HALF_LIFE_S: Final = 7 * 86_400
ENOUGH: Final = 0.75  # of the evidence there can be: two half-lives of scores
DOWN_ABOVE: Final = 1.1  # times the error of seasonal naive
BACK_BELOW: Final = 1.0
INHERITED: Final = 0.5  # of a predecessor's evidence

# Of one meter: the champion's version, its verdict, how many intervals count, and both sums of errors in kW.
RECORD: Final = np.dtype(
    [("version", "i4"), ("down", "?"), ("evidence", "f4"), ("champion_kw", "f4"), ("naive_kw", "f4")]
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Records = NDArray[np.void]


def lead_weights(leads: Sequence[int], horizon_steps: int) -> Floats:
    """Return the share [K] of leads 1 … horizon that each scored lead stands for, linear between them; sums to 1."""
    basis = np.eye(len(leads))
    all_leads = np.arange(1, horizon_steps + 1)
    return np.array([np.interp(all_leads, leads, one).mean() for one in basis])


def decay_of(step_s: int) -> float:
    """Return what is left of an error's weight one interval later."""
    return float(0.5 ** (step_s / HALF_LIFE_S))


def of_version(records: Records, version: int | Ints) -> Records:
    """Return the records [N] as this champion's; `version` may be [N].

    From another one's the verdict is inherited, and INHERITED of the evidence: models of one fleet err alike.
    """
    own = records.copy()
    inherited = own["version"] != version
    for name in ("evidence", "champion_kw", "naive_kw"):
        own[name][inherited] *= INHERITED
    own["version"] = version
    return own


def weighed(records: Records, champion_kw: Floats, naive_kw: Floats, *, weights: Floats, decay: float) -> Records:
    """Return the records [N] after an interval's absolute errors [N, K] at the scored leads; NaN where there is none.

    Where nothing was scored, nothing changes. `weights` [K]: see `lead_weights`; `decay`: see `decay_of`.
    """
    share = np.where(np.isfinite(champion_kw) & np.isfinite(naive_kw), weights, 0.0)
    left = np.where(share.any(axis=1), decay, 1.0)
    after = records.copy()
    after["evidence"] = left * records["evidence"] + share.sum(axis=1)
    after["champion_kw"] = left * records["champion_kw"] + (share * np.nan_to_num(champion_kw)).sum(axis=1)
    after["naive_kw"] = left * records["naive_kw"] + (share * np.nan_to_num(naive_kw)).sum(axis=1)
    enough = records["down"] | (after["evidence"] * (1 - decay) >= ENOUGH)
    limit = np.where(records["down"], BACK_BELOW, DOWN_ABOVE)
    after["down"] = enough & (after["champion_kw"] > limit * after["naive_kw"])
    return after


def comparison(record: np.void) -> str:
    """Say how the champion compares, for an operator."""
    if not record["evidence"] > 0:
        return "nothing scored of late"
    champion_kw, naive_kw = (float(record[name]) / float(record["evidence"]) for name in ("champion_kw", "naive_kw"))
    return f"mean absolute error {champion_kw:.4g} kW against {naive_kw:.4g} kW of late"


def reason_of(record: np.void) -> str:
    """Say why the champion is stood down."""
    return f"the champion was worse than seasonal naive here: {comparison(record)}"
