"""The record as a panel, the way the parameters ask for it: what trainings, tuning and explanations look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pandas as pd

from central.covariates import Covariates, issues_from_record
from central.dataset import Panel
from central.record import Record
from central.record_panel import panel_from_record
from shared.bindings import Bindings
from shared.clock import DAY_US, duration_us, format_duration, iso, to_us
from shared.covariates import MAX_REACH_US
from shared.errors import MetercastError
from shared.grid import GridRules
from shared.params import Params

LOOKED_BACK_US: Final = MAX_REACH_US + 8 * DAY_US  # no issue that starts earlier says anything of a week before


def newest_us(params: Params, record: Record) -> int:
    """Return the end of the newest reading's interval, at most. Raises MetercastError when the record is empty."""
    spans = record.spans()
    if not spans.num_rows:
        raise MetercastError("train: the record is empty")
    return max(to_us(last) for last in spans["last"].to_pylist()) + duration_us(params.grid.step)


def training_panel(params: Params, record: Record, *, version: int, until_us: int) -> Panel:
    """Return the `training.window` before `until_us`, of the record at `version`, as it stood then.

    Raises MetercastError when it holds no readings.
    """
    rows = record.readings(version=version, since_us=until_us - duration_us(params.training.window), corrected=True)
    if not rows.num_rows:
        window = format_duration(params.training.window)
        raise MetercastError(f"train: the record holds no readings in the {window} before {iso(until_us)}")
    panel = _with_covariates(_panel(params, rows.to_pandas()).until(until_us), record)
    known = panel.covariates
    if known is None:
        return panel
    worth = known.worth_learning(panel.start_us, panel.end_us, panel.step_us)
    return replace(panel, covariates=worth if worth.names else None)


def meter_panel(params: Params, record: Record, site: str, meters: Sequence[str], *, since_us: int) -> Panel | None:
    """Return the panel of some meters of a site from `since_us` on, None when there are no readings."""
    rows = record.readings(site=site, meters=meters, since_us=max(0, since_us), corrected=True)
    return _with_covariates(_panel(params, rows.to_pandas()), record) if rows.num_rows else None


def _with_covariates(panel: Panel, record: Record) -> Panel:
    """Return the panel with what its sites knew ahead."""
    issues = issues_from_record(record.covariates(since_us=max(0, panel.start_us - LOOKED_BACK_US)))
    sites = [meter.split("/", 1)[0] for meter in panel.meters]
    known = Covariates.by_site(issues, sites, panel.step_us)
    return replace(panel, covariates=known) if known.names else panel


def _panel(params: Params, rows: pd.DataFrame) -> Panel:
    grid = params.grid
    rules = GridRules.of(step=grid.step, hold=grid.hold, max_gap=grid.max_gap)
    return panel_from_record(rows, rules, bindings=Bindings(params.meters), grace=grid.grace)
