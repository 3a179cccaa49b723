"""Rolling-origin backtests: `central backtest` and the judgement of candidates (skeleton, being filled in)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from central.criteria import Score
from central.dataset import Panel

# (windows float32 [N, W], origins_us int64 [N], leads int64 [L]) → kW float64 [N, L, Q], ascending along Q
Forecaster = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """What `central backtest` was asked for."""

    readings: Path
    origins: int = 8
    spacing_h: int = 48
    horizon_h: int = 48
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    step_s: int = 3600
    aggregate: str = "mean"
    zone: str = "UTC"
    country: str | None = None
    own_ends: bool = False


def judged_score(
    panel: Panel, forecaster: Forecaster, origins_us: NDArray[np.int64], *, quantiles: tuple[float, ...], horizon_steps: int = 48
) -> Score:
    """Return the Score of a forecaster over all meters at `origins_us`, for central/criteria.judge."""
    raise NotImplementedError


def run_backtest(options: BacktestOptions) -> dict[str, Any]:
    """Return the keys of the backtest contract: overall, by_lead, seasonal_naive_24/168, meters, origins, train_s, forecast_ms."""
    raise NotImplementedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `central backtest` to a parser."""
    raise NotImplementedError


def main(args: argparse.Namespace) -> int:
    """Run `central backtest` from parsed arguments; return the exit code."""
    raise NotImplementedError
