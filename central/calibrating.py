"""Online calibration over a panel, origin by origin, as the edge does it.

A hindcast holds what a model says at every origin of a stretch, at the scored leads only; `states_by_origin` goes
through it as rounds do: the interval that has just ended settles what was issued for it, then the next is issued.

Invariant: the states of an origin know no load at or after it, and none that was received later. What came late or was
corrected has taught nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Forecaster, Windows
from shared.calibration import States, calibrated, fresh, learned
from shared.features import load_floor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK: Final = 512  # windows forecast at once


@dataclass(frozen=True, slots=True)
class Hindcast:
    """What was forecast at O consecutive origins, at the scored leads `knots` [K] (in steps) of M meters.

    `spread_kw` float32 [M, O, K, 3]: the lowest, the middle and the highest of `quantiles`, NaN where nothing was
    forecast; `floor_kw` [M, O]: see `load_floor`. Origin j is the start of the panel's column `first` + j.
    """

    first: int
    knots: tuple[int, ...]
    quantiles: tuple[float, float, float]
    spread_kw: NDArray[np.float32]
    floor_kw: Floats


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a forecaster serves: at the origins of each meter's columns `begins` up to, not including, `ends` [M]."""

    forecaster: Forecaster
    begins: Ints
    ends: Ints


def hindcast(
    panel: Panel, stretches: Sequence[Stretch], knots: tuple[int, ...], quantiles: tuple[float, ...]
) -> Hindcast:
    """Forecast stretch by stretch, in blocks of one meter's successive origins."""
    first = min(int(stretch.begins.min()) for stretch in stretches)
    count = max(int(stretch.ends.max()) for stretch in stretches) - first
    outer = [0, quantiles.index(0.5), len(quantiles) - 1]
    spread_kw = np.full((len(panel.meters), count, len(knots), 3), np.nan, dtype=np.float32)
    floor_kw = np.zeros((len(panel.meters), count))
    leads = np.array(knots, dtype=np.int64)
    for stretch in stretches:
        for meter, columns in _blocks(stretch):
            origins_us = panel.start_us + columns * panel.step_us
            meters = np.full(len(columns), meter)
            windows, ahead = panel.windows(meters, origins_us), panel.covariates_of(meters)
            spread_kw[meter, columns - first] = stretch.forecaster(windows, origins_us, leads, ahead)[:, :, outer]
            floor_kw[meter, columns - first] = load_floor(windows)
    return Hindcast(first, knots, (quantiles[0], 0.5, quantiles[-1]), spread_kw, floor_kw)


def _blocks(stretch: Stretch) -> Iterator[tuple[int, Ints]]:
    for meter, (begin, end) in enumerate(zip(stretch.begins.tolist(), stretch.ends.tolist(), strict=True)):
        for column in range(begin, end, _BLOCK):
            yield meter, np.arange(column, min(column + _BLOCK, end), dtype=np.int64)


def states_by_origin(panel: Panel, raw: Hindcast) -> States:
    """Return the states [M, O, K, STATE] that each origin's forecast is calibrated with; the first are fresh."""
    meters, origins, knots = raw.spread_kw.shape[:3]
    leads = np.array(raw.knots, dtype=np.int64)
    states = fresh(meters, knots)
    by_origin = np.empty((meters, origins, *states.shape[1:]), dtype=np.float32)
    issued_kw = np.full(raw.spread_kw.shape, np.nan, dtype=np.float32)
    for origin in range(origins):
        truth_kw = panel.as_it_ended(raw.first + origin - 1) if origin else np.full(meters, np.nan)
        for knot, lead in enumerate(raw.knots):
            if origin >= lead:
                met = issued_kw[:, origin - lead, knot]
                states[:, knot] = learned(
                    states[:, knot], truth_kw, met, outer=(raw.quantiles[0], raw.quantiles[2]), step_s=panel.step_s
                )
        by_origin[:, origin] = states
        issued_kw[:, origin] = calibrated(
            raw.spread_kw[:, origin].astype(np.float64),
            states,
            leads=leads,
            knots=raw.knots,
            quantiles=raw.quantiles,
            floor_kw=raw.floor_kw[:, origin],
        )
    return by_origin


def calibrated_windows(
    panel: Panel, windows: Windows, forecast_kw: Floats, raw: Hindcast, quantiles: tuple[float, ...]
) -> Floats:
    """Return the forecasts [N, L, Q] of judged windows, calibrated on what was known at each one's origin.

    `raw` must reach from before the first to the last of their origins.
    """
    states = states_by_origin(panel, raw)[windows.meters, panel.column(windows.origins_us) - raw.first]
    moved = np.empty_like(forecast_kw)
    for first in range(0, len(windows), _BLOCK):
        block = slice(first, first + _BLOCK)
        floor_kw = load_floor(panel.windows(windows.meters[block], windows.origins_us[block]))
        moved[block] = calibrated(
            forecast_kw[block],
            states[block],
            leads=windows.leads,
            knots=raw.knots,
            quantiles=quantiles,
            floor_kw=floor_kw,
        )
    return moved
