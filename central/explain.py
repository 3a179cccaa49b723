"""Why a forecast is what it is: what each feature adds to it, in kW, and what a model goes by at all.

    forecast = base + scale · (mean of the model + Σ contributions) + floor

Contributions are SHAP values of LightGBM's trees in the normalised space of shared/features.py, times the window's
scale. `floor` is what lifts the forecast of a meter that never exported to 0 kW.

Invariant: the parts of a forecast sum up to it, within 1e-6 of its size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.charts import bar_chart
from central.covariates import Covariates, covariate_columns_of
from central.training import TrainedModel, booster_texts, contributions, predict
from shared.calendars import Calendar
from shared.covariates import with_columns
from shared.features import feature_matrix, to_load

Floats = NDArray[np.float64]

BOOSTERS: Final = "lightgbm"  # folder of a run's artifacts
TOP: Final = 20  # features shown in pictures
SAMPLE_ROWS: Final = 256  # explained for the summary of a run: some seconds' work


@dataclass(frozen=True, slots=True)
class Explanation:
    """Forecasts of one meter at L leads and Q quantiles, taken apart; everything in kW.

    `base_kw` [L]; `forecast_kw`, `mean_kw` (the model's mean, scaled) and `floor_kw` [L, Q]; `parts_kw` [L, Q, F] of
    `features`.
    """

    features: tuple[str, ...]
    quantiles: tuple[float, ...]
    leads: NDArray[np.int64]
    scale_kw: float
    base_kw: Floats
    forecast_kw: Floats
    mean_kw: Floats
    floor_kw: Floats
    parts_kw: Floats

    def largest(self, quantile: float, leads: NDArray[np.bool_], count: int) -> dict[str, float]:
        """Return the `count` largest mean contributions over chosen leads [L], the largest first."""
        mean = self.parts_kw[leads, self.quantiles.index(quantile)].mean(axis=0)
        order = np.argsort(-np.abs(mean), kind="stable")[:count]
        return {self.features[i]: float(mean[i]) for i in order}


def explain(
    model: TrainedModel,
    window: NDArray[np.float32],
    origin_us: int,
    calendar: Calendar,
    horizon_steps: int,
    covariates: Covariates | None = None,
) -> Explanation:
    """Take apart the forecast of one window [W] at its origin; `covariates` are what its meter knows ahead.

    Raises ValueError for a window without a reading.
    """
    if not np.isfinite(window).any():
        raise ValueError("the window holds no reading")
    leads = np.arange(1, horizon_steps + 1, dtype=np.int64)
    origins_us = np.array([origin_us], dtype=np.int64)
    matrix = feature_matrix(window[None], origins_us, leads, step_s=model.step_s, calendar=calendar)
    x = with_columns(matrix.x, covariate_columns_of(covariates, model.covariates, origins_us, leads))
    forecast_kw = to_load(predict(model, x), matrix)[0]
    base_kw, scale_kw = matrix.base[0], float(matrix.scale[0])
    parts_kw = scale_kw * contributions(model, x)
    floor_kw = forecast_kw - (base_kw[:, None] + parts_kw.sum(axis=2))
    floor_kw[floor_kw <= 1e-9 * (scale_kw + np.abs(forecast_kw))] = 0.0  # what summing in another order leaves
    return Explanation(
        model.features,
        model.quantiles,
        leads,
        scale_kw,
        base_kw,
        forecast_kw,
        parts_kw[:, :, -1],
        floor_kw,
        parts_kw[:, :, :-1],
    )


def run_files(model: TrainedModel, x: NDArray[np.float32]) -> dict[str, bytes]:
    """Return the artifacts that explain a run: boosters, importances by gain, and a SHAP summary of rows x [N, F]."""
    shap = mean_contributions(model, _sampled(x))
    files = {f"{BOOSTERS}/{booster_file(q)}": text.encode() for q, text in booster_texts(model).items()}
    for name, title, unit, values in (
        ("importances", "Importance of features", "share of gain over all quantiles", dict(model.importances)),
        ("shap", "Mean |contribution| of features", "scales of the window, over all quantiles", shap),
    ):
        files[f"explain/{name}.json"] = json.dumps(values, indent=1).encode()
        files[f"explain/{name}.png"] = bar_chart(title, dict(list(values.items())[:TOP]), unit)
    return files


def mean_contributions(model: TrainedModel, x: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean |SHAP value| of each feature over rows x [N, F] and quantiles, the largest first."""
    mean = np.abs(contributions(model, x)[:, :, :-1]).mean(axis=(0, 1))
    return {model.features[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}


def booster_file(quantile: float) -> str:
    """Return the name of a quantile's booster among the artifacts."""
    return f"quantile_{quantile!r}.txt"


def booster_texts_of(files: Mapping[str, bytes]) -> dict[float, str]:
    """Return the texts of booster files by quantile. Raises ValueError for a file that has another name."""
    return {
        float(name.removeprefix("quantile_").removesuffix(".txt")): content.decode() for name, content in files.items()
    }


def _sampled(x: NDArray[np.float32]) -> NDArray[np.float32]:
    chosen = np.random.default_rng(0).choice(len(x), size=min(SAMPLE_ROWS, len(x)), replace=False)
    return x[np.sort(chosen)]
