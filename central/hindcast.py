"""What models say at every origin of a stretch, at the scored leads only: what a replay of the edge is fed with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Forecaster
from shared.features import load_floor
from shared.quantiles import MEDIAN, spread_places

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK: Final = 512  # windows forecast at once


@dataclass(frozen=True, slots=True)
class Hindcast:
    """What was forecast at O consecutive origins, at the scored leads `knots` [K] (in steps) of M meters.

    `spread_kw` float32 [M, O, K, 3]: the lowest, the middle and the highest of `quantiles`, NaN where nothing was
    forecast; `floor_kw` [M, O]: see `load_floor`; `version` [M, O]: which model it was. Origin j is the start of the
    panel's column `first` + j.
    """

    first: int
    knots: tuple[int, ...]
    quantiles: tuple[float, float, float]
    spread_kw: NDArray[np.float32]
    floor_kw: Floats
    version: Ints

    @property
    def leads(self) -> Ints:
        """The scored leads as an array."""
        return np.array(self.knots, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a forecaster serves: at the origins of each meter's columns `begins` up to, not including, `ends` [M]."""

    forecaster: Forecaster
    begins: Ints
    ends: Ints


def hindcast(
    panel: Panel, stretches: Sequence[Stretch], knots: tuple[int, ...], quantiles: tuple[float, ...]
) -> Hindcast:
    """Forecast stretch by stretch, in blocks of one meter's successive origins; the stretches are in order of time."""
    first = min(int(stretch.begins.min()) for stretch in stretches)
    count = max(int(stretch.ends.max()) for stretch in stretches) - first
    outer = spread_places(quantiles)
    spread_kw = np.full((len(panel.meters), count, len(knots), 3), np.nan, dtype=np.float32)
    floor_kw, version = np.zeros((len(panel.meters), count)), np.zeros((len(panel.meters), count), dtype=np.int64)
    leads = np.array(knots, dtype=np.int64)
    for number, stretch in enumerate(stretches, start=1):
        for meter, columns in _blocks(stretch):
            origins_us = panel.start_us + columns * panel.step_us
            meters = np.full(len(columns), meter)
            windows, ahead = panel.windows(meters, origins_us), panel.covariates_of(meters)
            spread_kw[meter, columns - first] = stretch.forecaster(windows, origins_us, leads, ahead)[:, :, outer]
            floor_kw[meter, columns - first] = load_floor(windows)
            version[meter, columns - first] = number
    return Hindcast(first, knots, (quantiles[0], MEDIAN, quantiles[-1]), spread_kw, floor_kw, version)


def _blocks(stretch: Stretch) -> Iterator[tuple[int, Ints]]:
    for meter, (begin, end) in enumerate(zip(stretch.begins.tolist(), stretch.ends.tolist(), strict=True)):
        for column in range(begin, end, _BLOCK):
            yield meter, np.arange(column, min(column + _BLOCK, end), dtype=np.int64)
