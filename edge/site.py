"""All of a site's state in memory: meters, their window, how far each was forecast, and the scoreboard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.calibration import Calibration
from edge.covariates import SiteCovariates
from edge.forms import Forms
from edge.meters import NO_INSTANT, Meter, Meters
from edge.scoring import Scoreboard
from edge.standing import Standing
from edge.window import NEVER, Window, grown
from shared.bindings import Bindings
from shared.clock import DAY_US
from shared.features import window_steps
from shared.grid import GridRules
from shared.params import Params

SLACK_DAYS = 2  # how far intervals may close ahead of the forecasts in a fast replay


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of event time in microseconds, relative to now."""

    lateness_us: int
    grace_us: int
    max_ahead_us: int
    max_age_us: int
    retire_after_us: int

    @classmethod
    def of(cls, params: Params) -> Limits:
        """From the parameters."""
        grid = params.grid
        spans = (grid.lateness, grid.grace, params.max_ahead, grid.max_age, params.forecast.retire_after)
        return cls(*(round(span.total_seconds() * 1e6) for span in spans))


def grid_rules(params: Params) -> GridRules:
    """The rules of these parameters' grid."""
    return GridRules.of(step=params.grid.step, hold=params.grid.hold, max_gap=params.grid.max_gap)


class SiteState:
    """Meters by row; `issued` and `delivered` hold origins: see edge/rounds.py. `settled_us` follows the meters'."""

    def __init__(self, params: Params, scoreboard: Scoreboard, forms: Forms) -> None:
        step_s = params.step_s
        self.name = params.site
        self.limits = Limits.of(params)
        self.step_us = step_s * 1_000_000
        self.steps_per_day = DAY_US // self.step_us
        self.window = Window(window_steps(step_s), SLACK_DAYS * self.steps_per_day)
        self.forms = forms
        self.meters = Meters(self.window, grid_rules(params), forms, lateness_us=self.limits.lateness_us)
        self.bindings = Bindings(params.meters)
        self.scoreboard = scoreboard
        self.calibration = Calibration(scoreboard.leads, params.forecast.modelled, step_s)
        self.standing = Standing()
        self.covariates = SiteCovariates(self.step_us)
        rows = len(self.window.closed)
        self.issued: NDArray[np.int64] = np.full(rows, NEVER, dtype=np.int64)
        self.delivered: NDArray[np.int64] = self.issued.copy()
        self.settled_us: NDArray[np.int64] = np.full(rows, NO_INSTANT, dtype=np.int64)
        self.retired: NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)

    def add_meter(self, name: str) -> Meter:
        """A new meter; every per-meter array grows with the window."""
        meter = self.meters.add(name, self.bindings.of(self.name, name))
        if len(self.issued) < len(self.window.closed):
            held, rows = len(self.issued), len(self.window.closed)
            self.issued = grown(self.issued, held, rows, NEVER)
            self.delivered = grown(self.delivered, held, rows, NEVER)
            self.settled_us = grown(self.settled_us, held, rows, NO_INSTANT)
            self.retired = grown(self.retired, held, rows, False)
        return meter

    @property
    def rows(self) -> int:
        """How many meters there are."""
        return self.window.rows

    @property
    def active_rows(self) -> NDArray[np.int64]:
        """Rows of meters that are not retired."""
        rows: NDArray[np.int64] = np.flatnonzero(~self.retired[: self.rows])
        return rows

    @property
    def empty(self) -> bool:
        """Whether no meter has a closed interval."""
        return not np.any(self.window.closed[: self.rows] != NEVER)
