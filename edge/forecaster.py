"""The ladder: who forecasts a meter at an origin. Champion, else the starter, else a simple rule (shared/baselines.py).

Invariants: a meter with any finite value in its window gets a finite forecast; the rung and the reason it was needed
are in the result; a forecast uses intervals before the origin only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.covariates import SiteCovariates
from edge.inference import Predictor
from edge.starter import Starter
from shared.baselines import NO_HISTORY, fallback_forecast
from shared.baselines import RUNGS as SIMPLE_RUNGS
from shared.calendars import Calendar
from shared.covariates import with_columns
from shared.dormancy import known_in_use
from shared.errors import ModelRefused
from shared.features import Matrix, feature_matrix, to_load

CHAMPION: Final = "champion"
STARTER: Final = "starter"
# Kept on disk and in scores as indices into this, which is no order: only ever append, one place for the starter.
RUNGS: Final = (CHAMPION, *SIMPLE_RUNGS, STARTER)
STARTER_CODE: Final = RUNGS.index(STARTER)

NO_MODEL_YET: Final = "no model of this site yet"
_NO_NUMBER: Final = "gave no number"

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every forecast of this site has in common; `quantiles` are those modelled (shared/quantiles.py)."""

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
class Lineup:
    """The models at hand: the site's own two, and the one that ships with the edge."""

    champion: Predictor | None = None
    challenger: Predictor | None = None
    starter: Starter | None = None
    absent: str = NO_MODEL_YET  # why there is no champion, where there is none


@dataclass(frozen=True, slots=True)
class Round:
    """Forecasts of N meters at one origin: kW [N, L, Q], each meter's rung (index into RUNGS, −1 none) and reason.

    `shadow_kw` is the challenger's; `stood_down_kw` the champion's where it is stood down, NaN elsewhere. `failed`: why
    a model, by its role, could not be run.
    """

    load_kw: Floats
    rung: NDArray[np.int8]
    reasons: tuple[str, ...]
    history_steps: Ints
    shadow_kw: Floats | None
    stood_down_kw: Floats | None = None
    failed: Mapping[str, ModelRefused] = field(default_factory=dict)


def forecast(
    windows: NDArray[np.float32],
    origin_us: int,
    plan: Plan,
    lineup: Lineup,
    covariates: SiteCovariates | None = None,
    stood_down: Mapping[int, str] | None = None,
) -> Round:
    """Forecast every row of `windows` [N, W] at one origin; the challenger runs on the same features.

    Of the site's covariates each model is given those it was trained with. `stood_down`: the rows for which the
    champion is, and why; it forecasts them too, and the rungs without a model serve them.
    """
    history = known_in_use(windows, 86_400 // plan.step_s).sum(axis=1)
    enough = history >= plan.min_history_steps
    own_kw, shadow_kw, failed = _own_models(windows, enough, origin_us, plan, lineup, covariates)
    modelled = np.asarray(np.isfinite(own_kw).all(axis=(1, 2)))
    because = _without_champion(modelled, enough, lineup, str(failed.get("champion", "")), plan)
    load_kw, stood_down_kw = own_kw.copy(), None
    down = np.isin(np.arange(len(windows)), list(stood_down or {}))
    if stood_down and down.any():
        stood_down_kw = np.where(down[:, None, None], own_kw, np.nan)
        because = [stood_down.get(index, reason) for index, reason in enumerate(because)]
    rung = np.zeros(len(windows), dtype=np.int8)
    below = ~modelled | down
    if lineup.starter is not None and below.any():
        started, then = _start(lineup.starter, windows, history, below & ~down, origin_us, plan, load_kw)
        rung[started] = STARTER_CODE
        below &= ~started
        because = [f"{first}{more}" for first, more in zip(because, then, strict=True)]
    if below.any():
        load_kw[below], codes = _simple(windows[below], origin_us, plan)
        rung[below] = np.where(codes == NO_HISTORY, -1, codes + 1)
    return Round(load_kw, rung, tuple(because), history, shadow_kw, stood_down_kw, failed)


def _own_models(
    windows: NDArray[np.float32],
    enough: NDArray[np.bool_],
    origin_us: int,
    plan: Plan,
    lineup: Lineup,
    covariates: SiteCovariates | None,
) -> tuple[Floats, Floats | None, dict[str, ModelRefused]]:
    """Return kW [N, L, Q] of champion and challenger, NaN where there is none, and why one could not be run."""
    nothing = np.full((len(windows), plan.horizon_steps, len(plan.quantiles)), np.nan)
    models = {"champion": lineup.champion, "challenger": lineup.challenger}
    made = {role: nothing.copy() for role, model in models.items() if model is not None}
    failed: dict[str, ModelRefused] = {}
    if enough.any() and made:
        known = covariates or SiteCovariates(plan.step_s * 1_000_000)
        rows = np.flatnonzero(enough)
        rows = rows[_alike_together(windows[rows], plan)]
        matrix = _features(windows[rows], origin_us, plan)
        for role, model in models.items():
            if model is not None:
                columns = known.columns(model.covariates, origin_us, plan.leads)
                try:
                    made[role][rows] = to_load(model.run(with_columns(matrix.x, columns)), matrix)
                except ModelRefused as refused:  # costs its rung, never the forecast
                    failed[role] = refused
    return made.get("champion", nothing), (made.get("challenger") if enough.any() else None), failed


def _alike_together(windows: NDArray[np.float32], plan: Plan) -> Ints:
    """Return an order [N] in which meters of like variation over the last week follow each other.

    They take like ways through the trees, which the processor then foresees; the forecasts are the same in any order.
    """
    week = windows[:, -7 * 86_400 // plan.step_s :].astype(np.float64)
    known = np.isfinite(week)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, week, 0).sum(axis=1) / count
    spread = np.sqrt(np.where(known, (week - mean[:, None]) ** 2, 0).sum(axis=1) / count)
    order: Ints = np.argsort(spread / np.maximum(np.abs(mean), 1e-9), kind="stable")
    return order


def _start(
    starter: Starter,
    windows: NDArray[np.float32],
    history: Ints,
    wanted: NDArray[np.bool_],
    origin_us: int,
    plan: Plan,
    load_kw: Floats,
) -> tuple[NDArray[np.bool_], list[str]]:
    """Write the starter's forecasts into `load_kw`; return whom it served [N] and what it adds to each reason."""
    known = wanted & (history >= starter.min_history_steps)
    served, failure = np.zeros(len(windows), dtype=bool), _NO_NUMBER
    if known.any():
        try:
            load_kw[known] = starter.forecast(
                windows[known],
                origin_us,
                horizon_steps=plan.horizon_steps,
                quantiles=plan.quantiles,
                calendar=plan.calendar,
            )
        except ModelRefused as error:
            failure = str(error)
        served = known & np.isfinite(load_kw).all(axis=(1, 2))
    hours = starter.min_history_steps * plan.step_s / 3600
    short, failed = f", and less than the {hours:g} h that the starter needs", f", and of the starter: {failure}"
    said = np.select([~wanted, served, known], ["", ": the starter", failed], short)
    return served, said.tolist()


def _simple(windows: NDArray[np.float32], origin_us: int, plan: Plan) -> tuple[Floats, Ints]:
    """Return kW [N, L, Q] of the rungs without a model, and each meter's index among them."""
    origins_us = np.full(len(windows), origin_us, dtype=np.int64)
    return fallback_forecast(
        windows, origins_us, plan.leads, plan.quantiles, calendar=plan.calendar, step_s=plan.step_s
    )


def _features(windows: NDArray[np.float32], origin_us: int, plan: Plan) -> Matrix:
    origins_us = np.full(len(windows), origin_us, dtype=np.int64)
    return feature_matrix(windows, origins_us, plan.leads, step_s=plan.step_s, calendar=plan.calendar)


def _without_champion(
    modelled: NDArray[np.bool_], enough: NDArray[np.bool_], lineup: Lineup, failure: str, plan: Plan
) -> list[str]:
    """Say of each meter why no champion served it; nothing where one did."""
    champion = lineup.champion
    if champion is None:
        return [lineup.absent] * len(modelled)
    hours = plan.min_history_steps * plan.step_s / 3600
    failed, short = f"model {champion.manifest.version}: {failure or _NO_NUMBER}", f"less than {hours:g} h of history"
    because: list[str] = np.select([modelled, enough], ["", failed], short).tolist()
    return because
