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
    because = _without_champion(modelled, enough, champion, failure, plan)
    rung = np.zeros(len(windows), dtype=np.int8)
    if starter is not None and not modelled.all():
        started, then = _start(starter, windows, history, ~modelled, origin_us, plan, load_kw)
        rung[started] = STARTER_CODE
        modelled |= started
        because = [f"{first}{more}" for first, more in zip(because, then, strict=True)]
    if not modelled.all():
        below = ~modelled
        origins_us = np.full(int(below.sum()), origin_us, dtype=np.int64)
        load_kw[below], codes = fallback_forecast(
            windows[below], origins_us, plan.leads, plan.quantiles, calendar=plan.calendar, step_s=plan.step_s
        )
        rung[below] = np.where(codes == NO_HISTORY, -1, codes + 1)
    return Round(load_kw, rung, tuple(because), history, shadow_kw)


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
            load_kw[known] = starter.forecast(_features(windows[known], origin_us, plan), plan.quantiles)
        except ModelRefused as error:
            failure = str(error)
        served = known & np.isfinite(load_kw).all(axis=(1, 2))
    hours = starter.min_history_steps * plan.step_s / 3600
    short, failed = f", and less than the {hours:g} h that the starter needs", f", and of the starter: {failure}"
    said = np.select([~wanted, served, known], ["", ": the starter", failed], short)
    return served, said.tolist()


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


def _without_champion(
    modelled: NDArray[np.bool_], enough: NDArray[np.bool_], champion: Predictor | None, failure: str, plan: Plan
) -> list[str]:
    """Say of each meter why no champion served it; nothing where one did."""
    if champion is None:
        return ["no model of this site yet"] * len(modelled)
    hours = plan.min_history_steps * plan.step_s / 3600
    failed, short = f"model {champion.manifest.version}: {failure or _NO_NUMBER}", f"less than {hours:g} h of history"
    because: list[str] = np.select([modelled, enough], ["", failed], short).tolist()
    return because
