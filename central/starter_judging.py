"""How a starter is judged: on a data set it has not seen, at several lengths of history, beside the simple rungs.

The table decides twice. The gate: from a week of history on a starter must beat seasonal naive on every set. The least
history it serves: from there on it is on no set worse than the best simple rung by more than `TOLERANCE`, and over all
sets together it is better, in MASE and in quantile loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates
from central.dataset import Panel
from central.evaluation import Forecaster, Windows, forecast_windows, judged_windows, measure, naive_forecaster
from shared.baselines import fallback_forecast, profile_mean_forecast
from shared.calendars import Calendar

HISTORIES_D: Final = (1, 2, 3, 5, 7, 14, 28)
GATE_FROM_D: Final = 7
TOLERANCE: Final = 1.02  # what a set of few meters cannot tell from chance
MEASURES: Final = ("mase", "wql")
STARTER: Final = "starter"
SIMPLE: Final = ("simple_ladder", "profile_mean", "seasonal_naive_168", "seasonal_naive_24")
SEASONAL_NAIVE: Final = ("seasonal_naive_168", "seasonal_naive_24")

_WINDOWS: Final = 600  # about so many are judged of a set
_ORIGINS: Final = (12, 40)  # at least and at most of one meter
_FULL_H: Final = 24 * max(HISTORIES_D)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scores = dict[str, dict[str, float | None]]  # contestant → measure → value; None where it forecast nothing


@dataclass(frozen=True, slots=True)
class Line:
    """How all contestants did on one set that the starter had not seen, with so much history."""

    left_out: str
    history_d: int
    meters: int
    windows: int
    scores: Scores


def judge(
    name: str, panel: Panel, model: Forecaster, *, quantiles: tuple[float, ...], calendar: Calendar
) -> list[Line]:
    """Return a line per history for a model that has not seen `panel`."""
    windows = spread_windows(panel)
    contestants = {STARTER: model} | _simple(quantiles, calendar, panel.step_s)
    return [
        Line(
            name,
            days,
            len(np.unique(windows.meters)),
            len(windows),
            {
                who: _measured(
                    windows, forecast_windows(panel, windows, shortened(made, days, panel.step_s)), quantiles
                )
                for who, made in contestants.items()
            },
        )
        for days in HISTORIES_D
    ]


def spread_windows(panel: Panel) -> Windows:
    """Return windows evenly spread over each meter's own span, all hours of the day among them.

    None of the panel was trained on, so all of it may be judged, but for the first 28 days, which are history.
    """
    least, most = _ORIGINS
    each = min(most, max(least, -(-_WINDOWS // len(panel.meters))))
    spans = [np.flatnonzero(np.isfinite(load)) for load in panel.load_kw]
    per_hour = 3600 // panel.step_s
    first = np.array([span[0] if len(span) else 0 for span in spans]) + _FULL_H * per_hour
    last = np.array([span[-1] + 1 if len(span) else 0 for span in spans]) - 48 * per_hour
    chosen = np.flatnonzero(last >= first)
    columns = np.linspace(first[chosen], last[chosen], each, axis=1).round().astype(np.int64)
    origins_us = panel.start_us + columns.ravel() * panel.step_us
    return judged_windows(panel, np.repeat(chosen, each).astype(np.int64), origins_us, horizon_steps=48 * per_hour)


def shortened(forecaster: Forecaster, days: int, step_s: int) -> Forecaster:
    """Return the forecaster as if meters had begun `days` before each origin."""
    kept = days * 86_400 // step_s

    def forecast(
        windows: NDArray[np.float32], origins_us: Ints, leads: Ints, _covariates: Covariates | None = None, /
    ) -> Floats:
        known = windows.copy()
        known[:, : windows.shape[1] - kept] = np.nan
        return forecaster(known, origins_us, leads)

    return forecast


def objections(lines: Iterable[Line]) -> tuple[str, ...]:
    """Return where a starter does not beat seasonal naive though a meter has a week of history; empty when nowhere."""
    return tuple(
        f"on {line.left_out} with {line.history_d} d of history its {measure} is {_text(own)}, {rival}'s {_text(bar)}"
        for line in lines
        if line.history_d >= GATE_FROM_D
        for measure in MEASURES
        for rival in SEASONAL_NAIVE
        if not _number(own := line.scores[STARTER][measure]) < _number(bar := line.scores[rival][measure])
    )


def min_history_d(lines: Iterable[Line]) -> int | None:
    """Return the least of HISTORIES_D from which on the starter may stand above the simple rungs; None if none."""
    ratios: dict[int, list[float]] = {days: [] for days in HISTORIES_D}
    for line in lines:
        ratios[line.history_d] += [_against_best(line, measure) for measure in MEASURES]
    least = None
    for days in reversed(HISTORIES_D):
        if not (max(ratios[days]) <= TOLERANCE and np.mean(np.log(ratios[days])) <= 0.0):
            break
        least = days
    return least


def table(lines: Iterable[Line]) -> str:
    """Return the lines as Markdown, of each contestant MASE / quantile loss / coverage of the 80 % interval."""
    names = (STARTER, *SIMPLE)
    rows = [f"| unseen set | history | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for line in lines:
        cells = [" / ".join(_text(line.scores[who][m]) for m in (*MEASURES, "coverage_80")) for who in names]
        rows.append(f"| {line.left_out} | {line.history_d} d | {' | '.join(cells)} |")
    return "\n".join(rows)


def _simple(quantiles: tuple[float, ...], calendar: Calendar, step_s: int) -> dict[str, Forecaster]:
    def ladder(
        windows: NDArray[np.float32], origins_us: Ints, leads: Ints, _covariates: Covariates | None = None, /
    ) -> Floats:
        return fallback_forecast(windows, origins_us, leads, quantiles, calendar=calendar, step_s=step_s)[0]

    def profile(
        windows: NDArray[np.float32], origins_us: Ints, leads: Ints, _covariates: Covariates | None = None, /
    ) -> Floats:
        return profile_mean_forecast(windows, origins_us, leads, quantiles, calendar=calendar, step_s=step_s)

    naive = [naive_forecaster(quantiles, season_h=season_h, step_s=step_s) for season_h in (168, 24)]
    return dict(zip(SIMPLE, (ladder, profile, *naive), strict=True))


def _measured(windows: Windows, forecast: Floats, quantiles: tuple[float, ...]) -> dict[str, float | None]:
    found = measure(windows, forecast, quantiles, slice(None))
    return {name: round(found[name], 4) if math.isfinite(found[name]) else None for name in (*MEASURES, "coverage_80")}


def _against_best(line: Line, measure: str) -> float:
    """Return the starter's measure over the best simple rung's."""
    best = min(_number(line.scores[who][measure]) for who in SIMPLE)
    return _number(line.scores[STARTER][measure]) / best


def _number(value: float | None) -> float:
    """Return a measure, or the worst there is where nothing was forecast."""
    return math.inf if value is None else value


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
