"""The ladder: who forecasts a meter at an origin. Champion, else the starter, else a simple rule (shared/baselines.py).

Invariants: a meter with any finite value in its window gets a finite forecast; the rung and the reason it was needed
are in the result; a forecast uses intervals before the origin only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.inference import Predictor
from edge.starter import Starter
from shared.baselines import NO_HISTORY, fallback_forecast
from shared.baselines import RUNGS as SIMPLE_RUNGS
from shared.calendars import Calendar
from shared.errors import ModelRefused
from shared.features import Matrix, feature_matrix, to_load

CHAMPION: Final = "champion"
STARTER: Final = "starter"
# Kept on disk and in scores as indices into this, which is no order: only ever append, one place for the starter.
RUNGS: Final = (CHAMPION, *SIMPLE_RUNGS, STARTER)
STARTER_CODE: Final = RUNGS.index(STARTER)

_NO_NUMBER: Final = "gave no number"
_THE_STARTER: Final = ": the starter"

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
    """Forecasts of N meters at one origin: kW [N, L, Q], each meter's rung (index into RUNGS, −1 none) and reason."""

    load_kw: Floats
    rung: NDArray[np.int8]
    reasons: tuple[str, ...]
    history_steps: Ints
    shadow_kw: Floats | None


def forecast(
    windows: NDArray[np.float32],
    origin_us: int,
    plan: Plan,
    champion: Predictor | None,
    challenger: Predictor | None,
    starter: Starter | None = None,
) -> Round:
    """Forecast every row of `windows` [N, W] at one origin; the challenger runs on the same features."""
    history = np.isfinite(windows).sum(axis=1)
    enough = history >= plan.min_history_steps
    failure, modelled = "", np.zeros(len(windows), dtype=bool)
    load_kw = np.full((len(windows), plan.horizon_steps, len(plan.quantiles)), np.nan)
    shadow_kw = None
    if enough.any() and (champion or challenger):
        matrix = _features(windows[enough], origin_us, plan)
        if champion is not None:
            made, failure = _run(champion, matrix)
            load_kw[enough] = made
            modelled[enough] = np.isfinite(made).all(axis=(1, 2))
        if challenger is not None:
            shadow_kw = np.full_like(load_kw, np.nan)
            shadow_kw[enough], _ = _run(challenger, matrix)
    rung = np.zeros(len(windows), dtype=np.int8)
    reasons = np.full(len(windows), "", dtype=object)
    if not modelled.all():
        below = ~modelled
        because = _without_champion(enough[below], champion, failure, plan)
        lower = _below_champion(windows[below], history[below], origin_us, plan, starter)
        load_kw[below], rung[below] = lower[:2]
        reasons[below] = [f"{first}{then}" for first, then in zip(because, lower[2], strict=True)]
    return Round(load_kw, rung, tuple(reasons), history, shadow_kw)


def _below_champion(
    windows: NDArray[np.float32], history: Ints, origin_us: int, plan: Plan, starter: Starter | None
) -> tuple[Floats, NDArray[np.int8], list[str]]:
    """Return kW [N, L, Q], rung [N] and what the reason goes on with, of meters that no champion served."""
    origins_us = np.full(len(windows), origin_us, dtype=np.int64)
    load_kw, codes = fallback_forecast(
        windows, origins_us, plan.leads, plan.quantiles, calendar=plan.calendar, step_s=plan.step_s
    )
    rung = np.where(codes == NO_HISTORY, -1, codes + 1).astype(np.int8)
    if starter is None:
        return load_kw, rung, [""] * len(windows)
    known = history >= starter.min_history_steps
    served, failure = np.zeros(len(windows), dtype=bool), ""
    if known.any():
        made, failure = _start(starter, _features(windows[known], origin_us, plan), plan)
        served[known] = np.isfinite(made).all(axis=(1, 2))
        load_kw[served] = made[served[known]]
        rung[served] = STARTER_CODE
    hours = starter.min_history_steps * plan.step_s / 3600
    short, dumb = f", and less than the {hours:g} h the starter needs", f", and the starter {failure or _NO_NUMBER}"
    return (
        load_kw,
        rung,
        [_THE_STARTER if ok else dumb if long else short for ok, long in zip(served, known, strict=True)],
    )


def _features(windows: NDArray[np.float32], origin_us: int, plan: Plan) -> Matrix:
    origins_us = np.full(len(windows), origin_us, dtype=np.int64)
    return feature_matrix(windows, origins_us, plan.leads, step_s=plan.step_s, calendar=plan.calendar)


def _run(model: Predictor, matrix: Matrix) -> tuple[Floats, str]:
    """KW [N, L, Q] and why there is none, if so: a model that fails costs its rung, never the forecast."""
    try:
        return to_load(model.run(matrix.x), matrix), ""
    except ModelRefused as error:
        shape = (*matrix.base.shape, len(model.manifest.quantiles))
        return np.full(shape, np.nan), str(error)


def _start(starter: Starter, matrix: Matrix, plan: Plan) -> tuple[Floats, str]:
    """KW [N, L, Q] of the starter and why there is none, if so."""
    try:
        return starter.forecast(matrix, plan.quantiles), ""
    except ModelRefused as error:
        return np.full((*matrix.base.shape, len(plan.quantiles)), np.nan), f"failed: {error}"


def _without_champion(enough: NDArray[np.bool_], champion: Predictor | None, failure: str, plan: Plan) -> list[str]:
    """Say of each meter why no champion served it."""
    if champion is None:
        return ["no model of this site yet"] * len(enough)
    hours = plan.min_history_steps * plan.step_s / 3600
    failed, short = f"model {champion.manifest.version}: {failure or _NO_NUMBER}", f"less than {hours:g} h of history"
    return [failed if long else short for long in enough]
