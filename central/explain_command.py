"""`central explain SITE METER`: the champion's forecast of one meter from the record, taken apart.

As JSON (`schema` 1): `site, meter, origin, step_s, unit, scale_kw, model {name, version, run_id, record_version}` and
`leads`, each with `lead, valid_at, base_kw` and `quantiles`: for each level `forecast_kw, mean_kw, floor_kw` and
`contributions_kw` by feature, the largest first. forecast_kw = base_kw + mean_kw + Σ contributions_kw + floor_kw.

The forecast is the model's own on what the record says was known at the origin: the edge calibrates it afterwards, and
may have stood the model down.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.bootstrap import open_record, open_registry, work_folder
from central.dataset import Panel
from central.delivery import load_rollout
from central.explain import BOOSTERS, Explanation, booster_texts_of, explain
from central.panels import meter_panel
from central.record import Record
from central.training import TrainedModel, model_from_texts
from shared.calendars import site_calendar
from shared.clock import DAY_US, iso, parse_instant_us
from shared.errors import ExitCode, MetercastError
from shared.features import SCHEMA_HASH, WINDOW_DAYS
from shared.manifest import Manifest
from shared.params import Params

BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 48))
SHOWN: Final = 4  # contributions a line
BLOCKS: Final = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Told:
    """What was explained: of which meter, at which origin, by which model, from which window [W]."""

    site: str
    meter: str
    origin_us: int
    champion: Manifest
    window: NDArray[np.float32]
    explanation: Explanation


def main(params: Params, args: argparse.Namespace) -> int:
    """Explain one forecast on standard output. Raises MetercastError in a sentence."""
    told = tell(params, args.site, args.meter, args.origin)
    text = json.dumps(as_json(told), indent=1) if args.json else as_text(told)
    sys.stdout.write(text + "\n")
    return ExitCode.OK


def tell(params: Params, site: str, meter: str, origin: str | None) -> Told:
    """Explain the champion's forecast of a meter at an origin (None: its latest). Raises MetercastError."""
    champion = _champion(params)
    record = open_record(params)
    _check_known(record, site, meter)
    origin_us = _asked_us(origin, params.step_s)
    panel, origin_us = _panel_at(params, record, site, meter, origin_us)
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
    return Told(site, meter, origin_us, champion, window, explanation)


def as_json(told: Told) -> dict[str, Any]:
    """Return the JSON object of this module's docstring."""
    step_us = told.champion.step_s * 1_000_000
    shown, champion = told.explanation, told.champion
    return {
        "schema": 1,
        "site": told.site,
        "meter": told.meter,
        "origin": iso(told.origin_us),
        "step_s": champion.step_s,
        "unit": "kW",
        "scale_kw": shown.scale_kw,
        "model": {name: getattr(champion, name) for name in ("name", "version", "run_id", "record_version")},
        "leads": [
            {
                "lead": int(lead),
                "valid_at": iso(told.origin_us + (int(lead) - 1) * step_us),
                "base_kw": float(shown.base_kw[row]),
                "quantiles": {str(q): _quantile(shown, row, at) for at, q in enumerate(shown.quantiles)},
            }
            for row, lead in enumerate(shown.leads)
        ],
    }


def _quantile(shown: Explanation, row: int, at: int) -> dict[str, Any]:
    parts = shown.parts_kw[row, at]
    order = np.argsort(-np.abs(parts), kind="stable")
    return {
        "forecast_kw": float(shown.forecast_kw[row, at]),
        "mean_kw": float(shown.mean_kw[row, at]),
        "floor_kw": float(shown.floor_kw[row, at]),
        "contributions_kw": {shown.features[i]: float(parts[i]) for i in order},
    }


def as_text(told: Told) -> str:
    """Return the explanation as lines for a person: a picture, and the mean of each part by lead bucket."""
    shown, champion = told.explanation, told.champion
    low, median, high = shown.quantiles[0], 0.5, shown.quantiles[-1]
    lines = [
        f"{told.site}/{told.meter} at {iso(told.origin_us)}, version {champion.version} (run {champion.run_id}), in kW",
        "",
        _picture(told),
        "",
        f"{'lead':>8}{'base':>9}{f'q{low:g}':>9}{'median':>9}{f'q{high:g}':>9}  what moves the median most",
    ]
    for first_h, last_h in BUCKETS_H:
        hours = (shown.leads - 1) * champion.step_s // 3600 + 1
        chosen = (hours >= first_h) & (hours <= last_h)
        if chosen.any():
            levels = [shown.forecast_kw[chosen, shown.quantiles.index(q)].mean() for q in (low, median, high)]
            numbers = "".join(f"{value:9.3f}" for value in (shown.base_kw[chosen].mean(), *levels))
            moves = ", ".join(f"{name} {kw:+.3f}" for name, kw in shown.largest(median, chosen, SHOWN).items())
            lines.append(f"{f'{first_h}–{last_h} h':>8}{numbers}  {moves}")
    return "\n".join([*lines, "", *_bars(shown.largest(median, np.ones(len(shown.leads), dtype=np.bool_), 8))])


def _picture(told: Told) -> str:
    """Return the last two days and the forecast median as blocks, an interval each (the mean of several below 1 h)."""
    per_hour = max(1, 3600 // told.champion.step_s)
    past = told.window[-48 * per_hour :].astype(np.float64)
    ahead = told.explanation.forecast_kw[:, told.explanation.quantiles.index(0.5)]
    both = [values[: len(values) // per_hour * per_hour].reshape(-1, per_hour).mean(axis=1) for values in (past, ahead)]
    low, high = np.nanmin(np.concatenate(both)), np.nanmax(np.concatenate(both))
    drawn = ["".join(_block(value, low, high) for value in values) for values in both]
    return f"{drawn[0]}│{drawn[1]}  {low:.3f} … {high:.3f} kW; known │ median"


def _block(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "·"
    return BLOCKS[1 + int(7 * (value - low) / max(high - low, 1e-12))]


def _bars(moves: dict[str, float]) -> list[str]:
    most = max(map(abs, moves.values()), default=0.0) or 1.0
    width = max(map(len, moves), default=0)
    return [f"{name:<{width}}  {kw:+9.3f} {'█' * max(1, round(30 * abs(kw) / most))}" for name, kw in moves.items()]


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


def _panel_at(params: Params, record: Record, site: str, meter: str, origin_us: int | None) -> tuple[Panel, int]:
    """Return the meter's panel around an origin, and the origin; the latest when none is asked for."""
    spans = {row["meter_id"]: row for row in record.spans().to_pylist() if row["site"] == site}
    first_us, last_us = (parse_instant_us(spans[meter][end].isoformat()) for end in ("first", "last"))
    step_us = params.step_s * 1_000_000
    latest_us = (last_us // step_us + 1) * step_us
    chosen_us = latest_us if origin_us is None else origin_us
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
