"""The features: one definition for training and for the edge (skeleton, being filled in).

Invariants: no feature uses a value at or after the origin; a row's features do not depend on the other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.calendars import Calendar

WINDOW_DAYS = 30
WINDOW_STEPS = 720
FEATURES: tuple[str, ...] = ()
SCHEMA_HASH = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Features of N meters × L leads and what turns model output into load.

    `x` float32 [N·L, F], meter-major, leads inner; `base` float64 [N, L] kW; `scale` float64 [N] kW, > 0.
    """

    x: NDArray[np.float32]
    base: NDArray[np.float64]
    scale: NDArray[np.float64]


def window_steps(step_s: int) -> int:
    """Return the width of a window at this step (720 at one hour). Raises ValueError for steps not supported."""
    raise NotImplementedError


def feature_matrix(
    windows: NDArray[np.float32],
    origins_us: NDArray[np.int64],
    leads: NDArray[np.int64],
    *,
    step_s: int = 3600,
    calendar: Calendar,
) -> Matrix:
    """Return features of windows [N, window_steps] for leads [L] or [N, L]; rows are meter-major, leads inner.

    `base` is NaN for a meter without any finite value. Raises ValueError for wrong shapes, leads or steps.
    """
    raise NotImplementedError


def to_load(output: NDArray[np.floating], matrix: Matrix) -> NDArray[np.float64]:
    """Return kW [N, L, Q], ascending along Q, of model output [N·L, Q]."""
    raise NotImplementedError


def to_target(load_kw: NDArray[np.floating], matrix: Matrix) -> NDArray[np.float64]:
    """Return the training target [N·L] of load [N, L] kW: the inverse of `to_load`."""
    raise NotImplementedError
