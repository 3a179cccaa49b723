"""The ladder: who forecasts a meter at an origin. Champion, else seasonal naive by week, by day, else flat.

Invariants: a meter with any finite value in its window gets a finite forecast; the rung and the reason it was needed
are in the result; a forecast uses intervals before the origin only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.covariates import SiteCovariates
from edge.inference import Predictor
from shared.baselines import NO_HISTORY, fallback_forecast
from shared.baselines import RUNGS as FALLBACK_RUNGS
from shared.calendars import Calendar
from shared.covariates import Columns, with_columns
from shared.errors import ModelRefused
from shared.features import Matrix, feature_matrix, to_load

CHAMPION: Final = "champion"
RUNGS: Final = (CHAMPION, *FALLBACK_RUNGS)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every forecast of this site has in common."""

    step_s: int
    horizon_steps: int
    quantiles: tuple[float, ...]
    calendar: Calendar
    min_history_steps: int

    @property
    def leads(self) -> Ints:
        """Leads 1 … horizon."""
        return np.arange(1, self.horizon_steps + 1)


@dataclass(frozen=True, slots=True)
class Round:
    """Forecasts of N meters at one origin: kW [N, L, Q], each meter's rung (index into RUNGS, −1 none) and reason.

    `shadow_kw` is the challenger's, `stood_down_kw` the champion's of the meters it is stood down for; NaN elsewhere.
    """

    load_kw: Floats
    rung: NDArray[np.int8]
    reasons: tuple[str, ...]
    history_steps: Ints
    shadow_kw: Floats | None
    stood_down_kw: Floats | None = None


def forecast(
    windows: NDArray[np.float32],
    origin_us: int,
    plan: Plan,
    champion: Predictor | None,
    challenger: Predictor | None,
    covariates: SiteCovariates | None = None,
    stood_down: Mapping[int, str] | None = None,
) -> Round:
    """Forecast every row of `windows` [N, W] at one origin; the challenger runs on the same features.

    Of the site's covariates each model is given those it was trained with. `stood_down`: the rows for which the
    champion is, and why; it forecasts them too, beside the next rung.
    """
    known = covariates or SiteCovariates(plan.step_s * 1_000_000)
    history = np.isfinite(windows).sum(axis=1)
    enough = history >= plan.min_history_steps
    failure, modelled = "", np.zeros(len(windows), dtype=bool)
    load_kw = np.full((len(windows), plan.horizon_steps, len(plan.quantiles)), np.nan)
    shadow_kw = stood_down_kw = None
    if enough.any() and (champion or challenger):
        matrix = _features(windows[enough], origin_us, plan)
        if champion is not None:
            made, failure = _run(champion, matrix, known.columns(champion.covariates, origin_us, plan.leads))
            load_kw[enough] = made
            modelled[enough] = np.isfinite(made).all(axis=(1, 2))
        if challenger is not None:
            shadow_kw = np.full_like(load_kw, np.nan)
            extra = known.columns(challenger.covariates, origin_us, plan.leads)
            shadow_kw[enough], _ = _run(challenger, matrix, extra)
    if stood_down:
        down = np.isin(np.arange(len(windows)), list(stood_down))
        stood_down_kw = np.where(down[:, None, None], load_kw, np.nan)
        modelled &= ~down
    rung = np.zeros(len(windows), dtype=np.int8)
    if not modelled.all():
        below = ~modelled
        load_kw[below], codes = fallback_forecast(windows[below], plan.leads, plan.quantiles, step_s=plan.step_s)
        rung[below] = np.where(codes == NO_HISTORY, -1, codes + 1)
    reasons = _reasons(modelled, enough, champion, failure, plan)
    if stood_down:
        reasons = tuple(stood_down.get(index, reason) for index, reason in enumerate(reasons))
    return Round(load_kw, rung, reasons, history, shadow_kw, stood_down_kw)


def _features(windows: NDArray[np.float32], origin_us: int, plan: Plan) -> Matrix:
    origins_us = np.full(len(windows), origin_us, dtype=np.int64)
    return feature_matrix(windows, origins_us, plan.leads, step_s=plan.step_s, calendar=plan.calendar)


def _run(model: Predictor, matrix: Matrix, columns: Columns) -> tuple[Floats, str]:
    """KW [N, L, Q] and why there is none, if so: a model that fails costs its rung, never the forecast."""
    try:
        return to_load(model.run(with_columns(matrix.x, columns)), matrix), ""
    except ModelRefused as error:
        shape = (*matrix.base.shape, len(model.manifest.quantiles))
        return np.full(shape, np.nan), str(error)


def _reasons(
    modelled: NDArray[np.bool_], enough: NDArray[np.bool_], champion: Predictor | None, failure: str, plan: Plan
) -> tuple[str, ...]:
    hours = plan.min_history_steps * plan.step_s / 3600
    because: Sequence[str] = (
        "no model yet" if champion is None else f"model {champion.manifest.version}: {failure or 'gave no number'}",
        f"less than {hours:g} h of history",
    )
    return tuple(
        "" if ok else because[0 if long or champion is None else 1] for ok, long in zip(modelled, enough, strict=True)
    )
