"""Which windows a backtest judges, and where each meter's knowledge ends for training: CONTRACTS §6."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Windows, judged_windows
from shared.errors import DataFileError
from shared.features import window_steps

Ints = NDArray[np.int64]


def contract_windows(
    panel: Panel, *, origins: int, spacing_steps: int, horizon_steps: int, own_ends: bool
) -> tuple[Windows, Ints, int]:
    """Return the windows of the last origins, the column where each meter's knowledge ends [M], and how many were left.

    The last window ends at the latest end of all, or at each meter's own. An origin counts for a meter that was first
    seen a day before it and has anything in its window: nobody could forecast the others. Raises DataFileError when
    there is no window.
    """
    columns = _origin_columns(panel, origins, spacing_steps, horizon_steps, own_ends=own_ends)
    usable = _usable(panel, columns)
    meters, which = np.nonzero(usable)
    origins_us = panel.start_us + columns[meters, which].astype(np.int64) * panel.step_us
    windows = judged_windows(panel, meters.astype(np.int64), origins_us, horizon_steps=horizon_steps)
    if not len(windows):
        hours = spacing_steps * panel.step_s // 3600
        raise DataFileError(f"too short for {origins} origins {hours} h apart")
    return windows, _cuts(columns, usable, own=own_ends), columns.size - len(windows)


def _origin_columns(panel: Panel, origins: int, spacing_steps: int, horizon_steps: int, *, own_ends: bool) -> Ints:
    """Return the columns of all planned origins [M, K], ascending; early ones may lie before a meter's data."""
    length = panel.load_kw.shape[1]
    seen: NDArray[np.bool_] = np.isfinite(panel.load_kw)
    ends = length - seen[:, ::-1].argmax(axis=1) if own_ends else np.full(len(panel.meters), length)
    columns: Ints = ends[:, None] - horizon_steps - spacing_steps * np.arange(origins - 1, -1, -1)
    return columns


def _usable(panel: Panel, columns: Ints) -> NDArray[np.bool_]:
    """Whether a meter [M, K] was first seen a day before an origin, and at all within its window."""
    seen = np.isfinite(panel.load_kw)
    first = np.where(seen.any(axis=1), seen.argmax(axis=1), seen.shape[1])
    usable: NDArray[np.bool_] = columns >= first[:, None] + 86_400 // panel.step_s
    width = window_steps(panel.step_s)
    for meter, which in zip(*np.nonzero(usable), strict=True):
        end = columns[meter, which]
        usable[meter, which] = seen[meter, max(0, end - width) : end].any()
    return usable


def _cuts(columns: Ints, usable: NDArray[np.bool_], *, own: bool) -> Ints:
    """Return the column of the first origin [M]: each meter's with `own` ends, else the first that any meter has."""
    firsts = np.where(usable, columns, np.iinfo(np.int64).max).min(axis=1)
    firsts = np.where(usable.any(axis=1), firsts, np.maximum(columns[:, 0], 0))
    cuts: Ints = firsts if own else np.full(len(firsts), firsts[usable.any(axis=1)].min())
    return cuts
