"""Training of the pooled quantile model; the only home of lightgbm (skeleton, being filled in)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from shared.calendars import Calendar


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training is made of; logged as the run's parameters."""

    leaves: int = 31
    trees: int = 120
    learning_rate: float = 0.1
    rows_cap: int = 100_000
    leads_per_sample: int = 8
    seed: int = 7
    num_threads: int = 1
    half_life_days: float | None = None


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One booster per quantile over the same features, and how they were made."""

    boosters: tuple[Any, ...]
    features: tuple[str, ...]
    quantiles: tuple[float, ...]
    recipe: Recipe
    step_s: int
    horizon_steps: int
    trained_rows: int
    trained_until_us: int
    importances: Mapping[str, float]


def train(
    panel: Panel,
    *,
    until_us: int,
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
    horizon_steps: int = 48,
    recipe: Recipe = Recipe(),
    calendar: Calendar = Calendar(),
) -> TrainedModel:
    """Train on targets that ended by `until_us`. Raises ValueError when the panel holds too little to train on."""
    raise NotImplementedError


def predict(model: TrainedModel, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return normalised quantiles [N, Q], ascending along Q, of features [N, F]."""
    raise NotImplementedError
