"""Forecasts without a model: weekly, then daily seasonal naive, then flat (skeleton, being filled in)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUNGS: tuple[str, ...] = ("seasonal_naive_168", "seasonal_naive_24", "flat")
NO_HISTORY = -1


def fallback_forecast(
    windows: NDArray[np.float32], leads: NDArray[np.int64], quantiles: Sequence[float], *, step_s: int = 3600
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return kW [N, L, Q] ascending along Q, and the rung of each meter [N]: an index into RUNGS, or NO_HISTORY.

    A meter with any finite value gets a finite forecast; one with none gets NaN and NO_HISTORY.
    """
    raise NotImplementedError


def seasonal_naive(
    windows: NDArray[np.float32], leads: NDArray[np.int64], *, step_s: int = 3600, season_h: int = 168
) -> NDArray[np.float64]:
    """Return kW [N, L]: the latest value a whole number of seasons before each lead; NaN where that one is missing."""
    raise NotImplementedError
