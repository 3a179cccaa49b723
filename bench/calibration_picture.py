"""The picture of the calibration bench, one row a set: coverage by lead, over weeks, around a planted change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bench.calibration import Outcome

Floats = NDArray[np.float64]

DAY: Final = 24
RAW: Final = "#a05a2c"
CALIBRATED: Final = "#128a72"
WANTED: Final = "#eef4f1"
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c9ccd4",
}


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the outcomes to `path`, a PNG: raw and calibrated coverage of the 80 % interval in each panel."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.9 + 2.0 * len(outcomes)), layout="constrained")
        grid = figure.subplots(len(outcomes), 3, squeeze=False, sharey=True)
        for row, outcome in zip(grid, outcomes, strict=True):
            for axes, panel in zip(row, (_by_lead, _over_weeks, _around_change), strict=True):
                panel(axes, outcome)
                axes.axhspan(75, 85, color=WANTED, zorder=0)
                axes.axhline(80, color="#7d8290", linewidth=0.8, zorder=1)
                axes.set_ylim(40, 100)
            row[0].set_ylabel(f"{outcome.name}\n% covered")
        for axes, title in zip(grid[0], ("By lead", "Over the weeks", "Around a planted change"), strict=True):
            axes.set_title(title, weight="bold")
        for axes, label in zip(grid[-1], ("lead, h", "week", "days since the change"), strict=True):
            axes.set_xlabel(label)
        grid[0][0].legend(loc="lower right", frameon=False, ncols=2)
        figure.savefig(path, dpi=66)


def _by_lead(axes: Axes, outcome: Outcome) -> None:
    trial = outcome.judged
    hours = np.arange(1, trial.actual.shape[2] + 1)
    _both(axes, hours, *(_percent(trial.covered(f), (0, 1)) for f in (trial.raw, trial.calibrated)))
    axes.set_xticks((1, 6, 12, 24, 36, 48))


def _over_weeks(axes: Axes, outcome: Outcome) -> None:
    trial = outcome.judged
    raw, moved = (_by_block(trial.covered(f), 7 * DAY) for f in (trial.raw, trial.calibrated))
    _both(axes, np.arange(1, len(raw) + 1), raw, moved)


def _around_change(axes: Axes, outcome: Outcome) -> None:
    trial = outcome.planted
    raw, moved = (_by_block(trial.covered(f), 2 * DAY) for f in (trial.raw, trial.calibrated))
    days = 2.0 * np.arange(len(raw)) + 1 - outcome.changed / DAY
    shown = days > -15
    _both(axes, days[shown], raw[shown], moved[shown])
    axes.axvline(0, color="#c2452d", linewidth=1, linestyle=":")
    axes.axvspan(14, 42, ymax=0.03, color="#7d8290")  # what is judged


def _by_block(covered: Floats, width: int) -> Floats:
    """Return percent covered of each whole block of origins."""
    return np.array(
        [
            float(_percent(covered[:, first : first + width], (0, 1, 2)))
            for first in range(0, covered.shape[1] - width + 1, width)
        ]
    )


def _percent(covered: Floats, axis: tuple[int, ...]) -> Floats:
    return np.asarray(100 * np.nanmean(covered, axis=axis))


def _both(axes: Axes, x: NDArray[Any], raw: Floats, moved: Floats) -> None:
    axes.plot(x, raw, color=RAW, linewidth=1.3, label="raw")
    axes.plot(x, moved, color=CALIBRATED, linewidth=1.8, label="calibrated")
