"""How good a recipe is before the holdout: rolling origins in the order of time, and what is more than noise.

Invariant: nothing at or after the holdout's beginning is seen, and of each fold nothing at or after its cutoff is
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Windows, all_pairs, forecast_windows, judged_windows, model_forecaster
from central.training import Recipe, train
from shared.calendars import Calendar
from shared.clock import HOUR_US
from shared.metrics import wql

Floats = NDArray[np.float64]

FOLDS: Final = 3
SPACING_H: Final = 19  # no divisor of a day, so that origins fall on many hours
SURE: Final = NormalDist().inv_cdf(0.975)  # standard errors by which a gain must exceed none


@dataclass(frozen=True, slots=True)
class Fold:
    """Judged origins after a cutoff, and how they are forecast."""

    cutoff_us: int
    windows: Windows


@dataclass(frozen=True, slots=True)
class Judge:
    """What stays the same for all recipes: the panel before the holdout, its folds, and what is forecast."""

    panel: Panel
    folds: list[Fold]
    quantiles: tuple[float, ...]
    horizon_steps: int
    calendar: Calendar

    def losses(self, fold: Fold, recipe: Recipe) -> Floats:
        """Return the weighted quantile loss at each origin of a fold. Raises ValueError without rows to train on."""
        model = train(
            self.panel,
            until_us=fold.cutoff_us,
            quantiles=self.quantiles,
            horizon_steps=self.horizon_steps,
            recipe=recipe,
            calendar=self.calendar,
        )
        forecast = forecast_windows(self.panel, fold.windows, model_forecaster(model, self.calendar))
        at = fold.windows.origins_us
        losses = [wql(fold.windows.actual[at == o], forecast[at == o], self.quantiles) for o in np.unique(at)]
        return np.array(losses)


def folds_before(panel: Panel, *, length_us: int, horizon_steps: int) -> list[Fold]:
    """Return FOLDS stretches of `length_us` that end with the panel, the earliest first.

    Raises ValueError when the panel is so short that nothing lies before or in one of them.
    """
    folds = []
    for back in range(FOLDS, 0, -1):
        cutoff_us = (panel.end_us - back * length_us) // panel.step_us * panel.step_us
        last_us = min(cutoff_us + length_us, panel.end_us - 24 * HOUR_US)
        origins = np.arange(cutoff_us, max(last_us, cutoff_us + 1), SPACING_H * HOUR_US, dtype=np.int64)
        if cutoff_us <= panel.start_us:
            raise ValueError(f"the record is too short for {FOLDS} stretches of validation before the holdout")
        windows = judged_windows(panel, *all_pairs(panel, origins), horizon_steps=horizon_steps)
        if not len(windows):
            raise ValueError("a stretch of validation holds no readings")
        folds.append(Fold(cutoff_us, windows))
    return folds


def is_better(losses: Floats, default: Floats, *, horizon_h: float) -> bool:
    """Return whether losses at the same origins [N] are lower than the default's by more than noise.

    Origins SPACING_H apart share a part of their horizon, so they count as fewer than they are.
    """
    gain = default - losses
    gain = gain[np.isfinite(gain)]
    if len(gain) < 2:
        return False
    independent = max(1.0, len(gain) * min(1.0, SPACING_H / horizon_h))
    return bool(gain.mean() > SURE * gain.std(ddof=1) / np.sqrt(independent))
