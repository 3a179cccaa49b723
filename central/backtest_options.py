"""What a backtest is asked for, and the panel that it is asked of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from central.covariates import Covariates, issues_from_file
from central.dataset import Panel
from central.file_panel import panel_from_file
from central.progress import Say
from shared.calendars import Calendar
from shared.errors import DataFileError
from shared.params import ForecastParams, scored_leads
from shared.quantiles import Quantiles, modelled


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
    covariates: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be forecast, in a sentence."""
        if self.origins < 1 or self.spacing_h < 1:
            raise DataFileError("--origins and --spacing: expected at least 1")
        if not 1 <= self.horizon_h <= 48:
            raise DataFileError(f"--horizon {self.horizon_h}h: expected 1h to 48h")
        try:
            modelled(self.quantiles)
        except ValueError as e:
            raise DataFileError(f"--quantiles: {e}") from e
        try:
            Calendar(self.zone, self.country)
        except ValueError as e:
            raise DataFileError(f"--zone, --country: {e}") from e

    @property
    def horizon_steps(self) -> int:
        """Return the horizon in steps."""
        return self.horizon_h * 3600 // self.step_s

    @property
    def spacing_steps(self) -> int:
        """Return the distance between origins in steps."""
        return self.spacing_h * 3600 // self.step_s

    @property
    def min_history_steps(self) -> int:
        """Return the history a meter needs before a model forecasts it: the default of the parameters."""
        return int(ForecastParams().min_history.total_seconds()) // self.step_s

    @property
    def knots(self) -> tuple[int, ...]:
        """Return the leads, in steps, at which forecasts are scored and calibrated."""
        return scored_leads(self.step_s, self.horizon_steps)

    @property
    def modelled(self) -> Quantiles:
        """Return the quantiles of the model: those asked for, and the median."""
        return modelled(self.quantiles)

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


def require_place(out: Path | None) -> None:
    """Find out before the work, not after it, whether there is a folder to write to. Raises DataFileError."""
    if out is None:
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataFileError(f"--out {out}: cannot be written: {e.strerror or e}") from e
    if out.is_dir():
        raise DataFileError(f"--out {out}: is a folder, expected the name of a file")


def panel_of(options: BacktestOptions, say: Say) -> Panel:
    """Read the panel asked for, with its covariates. Raises DataFileError."""
    say(f"reading {options.readings.name}")
    panel = panel_from_file(options.readings, step_s=options.step_s, aggregate=options.aggregate)
    if sparser := _never_in_a_row(panel):
        say(f"{sparser} meters never have two intervals in a row: their readings are farther apart than --step")
    return panel if options.covariates is None else _with_covariates(panel, options.covariates, say)


def _never_in_a_row(panel: Panel) -> int:
    """Return how many meters know several intervals, but none that follow each other."""
    known = np.isfinite(panel.load_kw)
    lonely = (known.sum(axis=1) > 1) & ~(known[:, 1:] & known[:, :-1]).any(axis=1)
    return int(lonely.sum())


def _with_covariates(panel: Panel, path: Path, say: Say) -> Panel:
    """Return the panel with a file's covariates, the same for all meters; DataFileError where they say too little."""
    say(f"reading {path.name}")
    known = Covariates.by_site({"": issues_from_file(path)}, [""] * len(panel.meters), panel.step_us)
    worth = known.worth_learning(panel.start_us, panel.end_us, panel.step_us)
    left_out = sorted(set(known.names) - set(worth.names))
    if not worth.names:
        raise DataFileError(f"{path}: says next to nothing of the readings' time: {', '.join(left_out)}")
    say(f"covariates: {', '.join(worth.names)}" + (f"; too little of {', '.join(left_out)}" if left_out else ""))
    return replace(panel, covariates=worth)
