"""How long a meter's deviation from its own profile lasts, and what is left of the latest one at a lead.

A deviation is z − profile, see shared/features.py. Taken as a first-order autoregression per window: the deviation of
the last hour times φ to the power of the lead, φ being the window's own autocorrelation one hour apart. A region's load
keeps a deviation for a day, a household's kettle for none.

Only +, ×, ÷ and √ are used, which are rounded the same everywhere: rows do not depend on the batch they are in.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_PERSISTENCE: Final = 0.99
_LEAST_POWER: Final = 1e-12  # mean square (of z) of deviations that are more than rounding


def persistence(deviations: Floats, steps: int) -> Floats:
    """Return the autocorrelation [N] of deviations [N, T] `steps` apart, within 0 … MAX_PERSISTENCE; NaN if unknown.

    Σ a·b / Σ ½(a² + b²) over the pairs that are both there, so that it never exceeds one.
    """
    later, earlier = deviations[:, steps:], deviations[:, :-steps]
    product = later * earlier
    there = np.isfinite(product)
    shared = np.where(there, product, 0.0).sum(axis=1)
    power = np.where(there, 0.5 * (later**2 + earlier**2), 0.0).sum(axis=1)
    known = power > _LEAST_POWER * there.sum(axis=1)
    ratio = np.divide(shared, power, out=np.full(len(deviations), np.nan), where=known)
    within: Floats = np.clip(ratio, 0.0, MAX_PERSISTENCE)
    return within


def decay(per_hour: Floats, leads: Ints, steps_per_hour: int) -> Floats:
    """Return per_hour [N or 1] to the power of each lead in hours, for shared leads [L] or leads [N, L]; 0 for NaN.

    `steps_per_hour` is 1, 2 or 4: a step's share is a repeated square root.
    """
    per_step = np.nan_to_num(per_hour, nan=0.0)
    while steps_per_hour > 1:
        per_step, steps_per_hour = np.sqrt(per_step), steps_per_hour // 2
    longest = int(leads.max(initial=1))
    powers: Floats = np.multiply.accumulate(np.repeat(per_step[:, None], longest, axis=1), axis=1)
    columns: Ints = np.atleast_2d(leads - 1)
    return _along_rows(powers, columns)


def _along_rows(values: Floats, columns: Ints) -> Floats:
    """Return values[n, columns[n]] [N, L], either of them perhaps of one row for all."""
    rows = max(len(values), len(columns))
    own = np.arange(len(values))[:, None]
    taken: Floats = values[own, columns]
    return np.broadcast_to(taken, (rows, columns.shape[1]))


def carried(latest: Floats, decayed: Floats) -> Floats:
    """Return what is left of the latest deviation [N] under a decay [N, L], [N, L]; nothing of an unknown one."""
    left: Floats = np.nan_to_num(latest, nan=0.0)[:, None] * decayed
    return left
