"""What the ablation tries: the recipe, the recipe without a group of features, and changes of its fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from central.training import DEFAULT_RECIPE, Recipe
from shared.features import FEATURES

# What features of a group begin with.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "lags": ("lag_", "latest_same", "latest_hour"),
    "last hours": ("recent_",),
    "hours around": ("latest_near", "week_near"),
    "rolling statistics": (*(f"mean_{h}h" for h in (6, 24, 72, 168, 672)), "std_", "min_", "max_"),
    "same-hour profile": ("same_",),
    "deviation from profile": ("deviation_",),
    "deviation carried to the lead": ("carried", "persistence_"),
    "change against week and day": ("week_change_", "day_change_"),
    "kind of load": ("near_zero", "roughness", "mean_over", "history_", "stale_", "base_level"),
    "calendar": ("hour", "weekday", "free_", "holiday"),
    "lead": ("lead_h",),
}

# Changes of recipe fields; what takes longest to train comes last, so that a run that is cut has the most rows.
CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "no early stopping": {"patience": 0},
    "no early stopping, 120 trees": {"patience": 0, "trees": 120},
    "learning rate .1": {"learning_rate": 0.1},
    "no dropout of history": {"dropout": 0.0},
    "half-life of 90 days": {"half_life_days": 90.0},
    "meters balanced": {"meter_balance": 1.0},
    "peaks weighted": {"peak_weight": 1.0},
    "15 leaves": {"leaves": 15, "outer_leaves": 15},
    "15 leaves for outer quantiles": {"outer_leaves": 15},
    "leaves of 200 rows": {"min_leaf_rows": 200},
    "30,000 rows": {"rows_cap": 30_000},
    "2 leads a sample": {"leads_per_sample": 2},
    "half of the features for a tree": {"feature_fraction": 0.5},
    "63 leaves": {"leaves": 63, "outer_leaves": 63},
    "all features for a tree": {"feature_fraction": 1.0},
    "200,000 rows": {"rows_cap": 200_000},
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A name, the recipe's changed fields, and the features no tree may use."""

    name: str
    change: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def recipe(self, seed: int) -> Recipe:
        """Return the shipped recipe with the change and this seed."""
        return replace(DEFAULT_RECIPE, **self.change, seed=seed)


SHIPPED: Final = Choice("the recipe")


def all_choices() -> list[Choice]:
    """Return every choice of this module; the recipe itself comes first."""
    groups = [without([group]) for group in GROUPS]
    return [SHIPPED, *groups, *(Choice(name, change) for name, change in CHANGES.items())]


def without(groups: Sequence[str]) -> Choice:
    """Return the recipe without some groups of features at once."""
    return Choice(f"without: {' + '.join(groups)}", ignored=tuple(name for group in groups for name in members(group)))


def members(group: str) -> tuple[str, ...]:
    """Return the features of a group."""
    return tuple(name for name in FEATURES if name.startswith(GROUPS[group]))


def choice_from_text(text: str) -> Choice:
    """Return the choice that `leaves=15,half_life_days=null` says. Raises ValueError for what is no field or value."""
    known = {one.name for one in fields(Recipe)} - {"seed"}
    pairs = [part.partition("=") for part in text.split(",")]
    for name, equals, _ in pairs:
        if name not in known or not equals:
            raise ValueError(f"{name!r}: expected field=value with a field of {', '.join(sorted(known))}")
    return Choice(text, {name: json.loads(value) for name, _, value in pairs})
