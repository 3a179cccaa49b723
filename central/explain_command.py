"""`central explain SITE METER`: the champion's forecast of one meter from the record, taken apart.

What it prints is described in central/explained.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from central.bootstrap import open_record, open_registry, work_folder
from central.dataset import Panel
from central.delivery import load_rollout
from central.explain import BOOSTERS, booster_texts_of, explain
from central.explained import Told, as_json, as_text
from central.issued import History, served
from central.panels import meter_panel
from central.record import Record
from central.training import TrainedModel, model_from_texts
from shared.calendars import site_calendar
from shared.clock import DAY_US, format_duration, iso, parse_instant_us, to_us, wall_now
from shared.dormancy import known_in_use
from shared.errors import ExitCode, MetercastError
from shared.features import SCHEMA_HASH, WINDOW_DAYS, load_floor
from shared.manifest import Manifest
from shared.params import Params, scored_leads


def main(params: Params, args: argparse.Namespace) -> int:
    """Explain one forecast on standard output. Raises MetercastError in a sentence."""
    told = tell(params, args.site, args.meter, args.origin)
    text = json.dumps(as_json(told), indent=1) if args.json else as_text(told)
    sys.stdout.write(text + "\n")
    return ExitCode.OK


def tell(params: Params, site: str, meter: str, origin: str | None, now_us: int | None = None) -> Told:
    """Explain the champion's forecast of a meter at an origin (None: its latest by now). Raises MetercastError."""
    champion = _champion(params)
    record = open_record(params)
    _check_known(record, site, meter)
    origin_us = _asked_us(origin, params.step_s)
    panel, origin_us = _panel_at(
        params, record, site, meter, origin_us, to_us(wall_now()) if now_us is None else now_us
    )
    model = _model(params, champion)
    own = np.zeros(1, dtype=np.int64)
    window = panel.windows(own, np.array([origin_us], dtype=np.int64))[0]
    try:
        calendar = site_calendar(params.calendar)
        explanation = explain(
            model, window, origin_us, calendar, champion.horizon_steps, covariates=panel.covariates_of(own)
        )
    except ValueError as error:
        raise MetercastError(f"explain: {site}/{meter} at {iso(origin_us)}: {error}") from error
    became = served(
        History.of(record.scores(site=site, meter=meter).to_pandas(), champion.step_s),
        explanation.forecast_kw,
        origin_us=origin_us,
        version=champion.version,
        quantiles=explanation.quantiles,
        knots=scored_leads(champion.step_s, champion.horizon_steps),
        floor_kw=load_floor(window[None]),
    )
    if not became.issued:
        became = replace(became, note=became.note + _too_short(params, window))
    return Told(site, meter, origin_us, champion, window, explanation, became)


def _too_short(params: Params, window: NDArray[np.float32]) -> str:
    """Say so where a window [W] is too short a history for an edge to let a model serve."""
    history = timedelta(seconds=int(known_in_use(window[None], 86_400 // params.step_s).sum()) * params.step_s)
    if history >= params.forecast.min_history:
        return ""
    least = f"forecast.min_history of {format_duration(params.forecast.min_history)}"
    return f"; with {format_duration(history)} of history, under {least}, another rung serves it"


def _champion(params: Params) -> Manifest:
    champion = load_rollout(work_folder(params)).champion
    if champion is None:
        raise MetercastError("explain: no champion serves yet; `central models` lists what was accepted")
    if champion.schema_hash != SCHEMA_HASH:
        raise MetercastError(
            f"explain: champion {champion.version} goes by other features than this version computes "
            f"({champion.schema_hash}, not {SCHEMA_HASH}); `central train` makes a new one"
        )
    if champion.step_s != params.step_s:
        raise MetercastError(
            f"explain: champion {champion.version} has steps of {champion.step_s} s, grid.step is {params.step_s} s"
        )
    return champion


def _model(params: Params, champion: Manifest) -> TrainedModel:
    files = open_registry(params).files(champion.run_id, BOOSTERS)
    if not files:
        raise MetercastError(
            f"explain: the run of version {champion.version} holds no boosters: an earlier version of us trained it"
        )
    try:
        texts = booster_texts_of(files)
        return model_from_texts(
            texts, features=tuple(champion.features), step_s=champion.step_s, horizon_steps=champion.horizon_steps
        )
    except ValueError as error:
        raise MetercastError(f"explain: run {champion.run_id}, {BOOSTERS}: {error}") from error


def _check_known(record: Record, site: str, meter: str) -> None:
    known = record.reading_counts(site, since_us=0)
    if not known:
        sites = sorted(set(record.spans()["site"].to_pylist()))
        raise MetercastError(f"explain: the record knows no site {site!r}; it knows {', '.join(sites) or 'none'}")
    if meter not in known:
        raise MetercastError(f"explain: the record knows no meter {meter!r} of site {site}; it knows {_some(known)}")


def _some(names: dict[str, int]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _asked_us(origin: str | None, step_s: int) -> int | None:
    if origin is None:
        return None
    try:
        asked_us = parse_instant_us(origin)
    except ValueError as error:
        raise MetercastError(f"--origin: {error}") from error
    if asked_us % (step_s * 1_000_000):
        raise MetercastError(f"--origin {origin}: not on the grid of {step_s} s steps")
    return asked_us


def _panel_at(
    params: Params, record: Record, site: str, meter: str, origin_us: int | None, now_us: int
) -> tuple[Panel, int]:
    """Return the meter's panel around an origin, and the origin; where none is asked for, the latest there can be."""
    spans = {row["meter_id"]: row for row in record.spans().to_pylist() if row["site"] == site}
    first_us, last_us = (parse_instant_us(spans[meter][end].isoformat()) for end in ("first", "last"))
    step_us = params.step_s * 1_000_000
    latest_us = (last_us // step_us + 1) * step_us
    ended_us = (max(now_us, last_us) if params.clock == "wall" else last_us) // step_us * step_us
    chosen_us = min(latest_us, ended_us) if origin_us is None else origin_us
    if not first_us < chosen_us <= latest_us:
        raise MetercastError(
            f"--origin {iso(chosen_us)}: outside the record of {site}/{meter}, {iso(first_us)} to {iso(latest_us)}"
        )
    since_us = chosen_us - (WINDOW_DAYS + 1) * DAY_US
    panel = meter_panel(params, record, site, [meter], since_us=since_us)
    if panel is None:
        raise MetercastError(
            f"explain: {site}/{meter} has no readings in the {WINDOW_DAYS} days before {iso(chosen_us)}"
        )
    return panel, chosen_us
