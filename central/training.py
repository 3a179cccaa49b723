"""Training of the pooled quantile model; the only home of lightgbm.

One gradient-boosted model per quantile over the rows of all meters (a "global" model), on the normalised target of
shared/features.py. How many trees is found on the latest rows before the cutoff, with a gap of the horizon before them;
then all rows are fitted with as many. Deterministic: the same panel, cutoff and recipe give the same trees.

Invariant: nothing at or after the cutoff is looked at, for early stopping neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.samples import Rows, Sampling, split_by_time, training_rows
from shared.calendars import Calendar
from shared.covariates import covariates_of
from shared.features import FEATURES
from shared.quantiles import MEDIAN


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training is made of; logged as the run's parameters. What each choice buys: docs/recipe.md."""

    leaves: int = 31
    outer_leaves: int = 31  # of the trees of quantiles other than the median
    trees: int = 200  # at most, for each quantile; exactly, without early stopping
    patience: int = 20  # trees without gain on the validation rows before a quantile has enough; 0: all trees
    validation_share: float = 0.15  # of the rows, the latest: what early stopping looks at
    learning_rate: float = 0.05
    min_leaf_rows: int = 50
    feature_fraction: float = 0.3  # of features tried by a tree
    max_bin: int = 127
    rows_cap: int = 100_000
    leads_per_sample: int = 8
    dropout: float = 0.3
    half_life_days: float | None = None
    covariate_dropout: float = 0.25  # of samples that know no covariate: so that a site without any is served as well
    meter_balance: float = 0.0
    peak_weight: float = 0.0
    seed: int = 7
    num_threads: int = 1  # two threads were ten times slower than one on a loaded two-core machine

    def as_params(self) -> dict[str, int | float | None]:
        """Return the recipe as flat parameters for a run's record."""
        return asdict(self)


_MIN_TREES: Final = 100  # validation is one season of a few meters: what it asks for under these cost accuracy
_MIN_VALIDATION_ROWS: Final = 2000  # under these, and as many to learn from, no early stopping

Booster = lightgbm.Booster
Regressor = lightgbm.LGBMRegressor
DEFAULT_RECIPE: Final = Recipe()
UTC_CALENDAR: Final = Calendar()


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One booster per quantile over the same features, and how they were made; `importances` are shares of gain."""

    boosters: tuple[Booster, ...]
    features: tuple[str, ...]
    quantiles: tuple[float, ...]
    recipe: Recipe
    step_s: int
    horizon_steps: int
    trained_rows: int
    trained_until_us: int
    importances: Mapping[str, float]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Return the covariates it was trained with."""
        return covariates_of(self.features)


def train(
    panel: Panel,
    *,
    until_us: int,
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
    horizon_steps: int = 48,
    recipe: Recipe = DEFAULT_RECIPE,
    calendar: Calendar = UTC_CALENDAR,
    ignored: Collection[str] = (),
) -> TrainedModel:
    """Train on targets that had ended by `until_us`. Raises ValueError when the panel holds nothing to train on.

    No tree uses a feature that is `ignored` (for ablations).
    """
    sampling = Sampling(
        rows_cap=recipe.rows_cap,
        leads_per_sample=recipe.leads_per_sample,
        horizon_steps=horizon_steps,
        dropout=recipe.dropout,
        half_life_days=recipe.half_life_days,
        covariate_dropout=recipe.covariate_dropout,
        meter_balance=recipe.meter_balance,
        peak_weight=recipe.peak_weight,
    )
    rng = np.random.default_rng(recipe.seed)
    rows = training_rows(panel, until_us=until_us, rng=rng, sampling=sampling, calendar=calendar)
    rows.x[:, [name in ignored for name in panel.features]] = 0.0  # no tree splits a constant
    return fit(
        rows,
        features=panel.features,
        until_us=until_us,
        step_s=panel.step_s,
        quantiles=quantiles,
        horizon_steps=horizon_steps,
        recipe=recipe,
    )


def fit(
    rows: Rows,
    *,
    features: tuple[str, ...] = FEATURES,
    until_us: int,
    step_s: int,
    quantiles: tuple[float, ...],
    horizon_steps: int,
    recipe: Recipe,
) -> TrainedModel:
    """Train on rows made elsewhere, of any number of panels; all targets had ended by `until_us`."""
    trees = _enough_trees(rows, recipe, quantiles, features, gap_us=horizon_steps * step_s * 1_000_000)
    data = _dataset(rows, recipe, features)
    boosters = tuple(
        lightgbm.train(_parameters(recipe, q), data, num_boost_round=n) for q, n in zip(quantiles, trees, strict=True)
    )
    return TrainedModel(
        boosters,
        features,
        quantiles,
        recipe,
        step_s,
        horizon_steps,
        len(rows.x),
        until_us,
        _importances(boosters, features),
    )


def predict(model: TrainedModel, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return normalised quantiles [N, Q], ascending along Q, of features [N, F]."""
    columns = [np.asarray(booster.predict(x, num_threads=model.recipe.num_threads)) for booster in model.boosters]
    return np.sort(np.stack(columns, axis=1), axis=1)


def contributions(model: TrainedModel, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what each feature adds to each of `predict`'s quantiles [N, Q, F + 1], by TreeSHAP; the last is the mean.

    Along F + 1 they sum up to the quantile. Where boosters cross, a quantile is explained by the one that gave it.
    """
    threads = model.recipe.num_threads
    parts = [np.asarray(booster.predict(x, pred_contrib=True, num_threads=threads)) for booster in model.boosters]
    stacked = np.stack(parts, axis=1)
    order = np.argsort(stacked.sum(axis=2), axis=1, kind="stable")
    return np.take_along_axis(stacked, order[:, :, None], axis=1)


def booster_texts(model: TrainedModel) -> dict[float, str]:
    """Return LightGBM's own text of each quantile's booster."""
    return {q: booster.model_to_string() for q, booster in zip(model.quantiles, model.boosters, strict=True)}


def model_from_texts(
    texts: Mapping[float, str], *, features: tuple[str, ...], step_s: int, horizon_steps: int
) -> TrainedModel:
    """Return the model of `booster_texts`, to predict and explain with. Raises ValueError for what is no booster."""
    try:
        boosters = tuple(Booster(model_str=texts[q]) for q in sorted(texts))
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"no LightGBM booster: {error}") from error
    if any(booster.num_feature() != len(features) for booster in boosters):
        raise ValueError(f"a booster does not have {len(features)} features")
    quantiles = tuple(sorted(texts))
    return TrainedModel(boosters, features, quantiles, DEFAULT_RECIPE, step_s, horizon_steps, 0, 0, {})


def as_regressor(booster: Booster, features: int) -> Regressor:
    """Return the booster as the scikit-learn regressor that skl2onnx converts."""
    regressor = Regressor(objective="quantile")
    regressor._Booster = booster
    regressor._n_features = regressor._n_features_in = features
    regressor.fitted_ = True
    return regressor


def round_thresholds_down(booster: Booster) -> Booster:
    """Return the booster with every threshold at the float32 at or below it: the same trees for float32 input.

    ONNX holds thresholds in float32. Rounded to nearest, some would rise onto a data value and send it the other way.
    """

    def lower(line: re.Match[str]) -> str:
        return "threshold=" + " ".join(f"{value:.17g}" for value in _float32_below(line[1]))

    text = re.sub(r"^threshold=(.*)$", lower, booster.model_to_string(), flags=re.MULTILINE)
    return Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE))


def _float32_below(values: str) -> NDArray[np.float64]:
    exact = np.array(values.split(), dtype=np.float64)
    nearest = exact.astype(np.float32)
    below = np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return below.astype(np.float64)


def _enough_trees(
    rows: Rows, recipe: Recipe, quantiles: tuple[float, ...], features: tuple[str, ...], *, gap_us: int
) -> list[int]:
    """Return how many trees each quantile gets, by early stopping on the latest rows; all of them with too few rows."""
    everything = [recipe.trees] * len(quantiles)
    if not recipe.patience:
        return everything
    earlier, latest = split_by_time(rows, share=recipe.validation_share, gap_us=gap_us)
    if min(len(earlier), len(latest)) < _MIN_VALIDATION_ROWS:
        return everything
    data = _dataset(earlier, recipe, features)
    judge = data.create_valid(latest.x, latest.target, weight=latest.weight)
    return [_stopped_at(data, judge, recipe, quantile) for quantile in quantiles]


def _stopped_at(data: lightgbm.Dataset, judge: lightgbm.Dataset, recipe: Recipe, quantile: float) -> int:
    """Return the number of trees with the least pinball loss on `judge`, not under _MIN_TREES (or the most allowed)."""
    stop = lightgbm.early_stopping(recipe.patience, verbose=False)
    booster = lightgbm.train(
        _parameters(recipe, quantile), data, num_boost_round=recipe.trees, valid_sets=[judge], callbacks=[stop]
    )
    return max(booster.best_iteration, min(_MIN_TREES, recipe.trees))


def _dataset(rows: Rows, recipe: Recipe, features: tuple[str, ...]) -> lightgbm.Dataset:
    return lightgbm.Dataset(
        rows.x, rows.target, weight=rows.weight, feature_name=_plain(features), params=_binning(recipe)
    )


def _binning(recipe: Recipe) -> dict[str, object]:
    return {"verbosity": -1, "seed": recipe.seed, "num_threads": recipe.num_threads, "max_bin": recipe.max_bin}


def _parameters(recipe: Recipe, quantile: float) -> dict[str, object]:
    return _binning(recipe) | {
        "objective": "quantile",
        "alpha": quantile,
        "num_leaves": recipe.leaves if quantile == MEDIAN else recipe.outer_leaves,
        "learning_rate": recipe.learning_rate,
        "min_data_in_leaf": recipe.min_leaf_rows,
        "feature_fraction": recipe.feature_fraction,
        "deterministic": True,
        "force_col_wise": True,
    }


def _plain(features: Sequence[str]) -> list[str]:
    """Return names that LightGBM takes: it has no colons."""
    return [name.replace(":", "%3A") for name in features]


def _importances(boosters: tuple[Booster, ...], features: tuple[str, ...]) -> dict[str, float]:
    """Return each feature's share of the gain over all quantiles, largest first."""
    gains = np.sum([booster.feature_importance("gain") for booster in boosters], axis=0)
    shares = gains / max(float(gains.sum()), 1e-12)
    return {features[i]: float(shares[i]) for i in np.argsort(-shares)}
