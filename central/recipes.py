"""From parameters to the recipe of a training: the one way, for trainings and tuning alike."""

from __future__ import annotations

from central.training import Recipe
from shared.params import TrainingParams


def recipe_of(training: TrainingParams) -> Recipe:
    """Return the recipe that `training:` of the parameters asks for."""
    return Recipe(
        leaves=training.leaves,
        outer_leaves=training.outer_leaves,
        trees=training.trees,
        patience=training.patience,
        learning_rate=training.learning_rate,
        min_leaf_rows=training.min_leaf_rows,
        feature_fraction=training.feature_fraction,
        rows_cap=training.rows,
        dropout=training.dropout,
        half_life_days=training.half_life_days,
        meter_balance=training.meter_balance,
        peak_weight=training.peak_weight,
        seed=training.seed,
        num_threads=training.threads,
    )
