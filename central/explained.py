"""An explanation as JSON and as lines for a person.

As JSON (`schema` 1): `site, meter, origin, step_s, unit, scale_kw, model {name, version, run_id, record_version}`,
`note` and `leads`, each with `lead, valid_at, base_kw`, `published` and `quantiles`: for each modelled level
`forecast_kw, mean_kw, floor_kw, calibrated_kw` and `contributions_kw` by feature, the largest first. forecast_kw =
base_kw + mean_kw + Σ contributions_kw + floor_kw.

The forecast is the model's own on what the record says was known at the origin. The edge calibrates it afterwards:
`calibrated_kw` is that replayed from the scores in the record, `published` (`rung, version, low_kw, median_kw,
high_kw`) what came out in the end, of the leads that are scored once the truth has come; both null where the record
does not tell, and `note` says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from central.explain import Explanation
from central.issued import Served
from shared.clock import iso
from shared.manifest import Manifest
from shared.quantiles import MEDIAN, label, spread_places

BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 48))
SHOWN: Final = 4  # contributions a line
BLOCKS: Final = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Told:
    """What was explained: of which meter, at which origin, by which model, from which window [W]; what became of it."""

    site: str
    meter: str
    origin_us: int
    champion: Manifest
    window: NDArray[np.float32]
    explanation: Explanation
    served: Served


def as_json(told: Told) -> dict[str, Any]:
    """Return the JSON object of this module's docstring."""
    shown, champion = told.explanation, told.champion
    published = {one.lead: asdict(one) for one in told.served.issued}
    return {
        "schema": 1,
        "site": told.site,
        "meter": told.meter,
        "origin": iso(told.origin_us),
        "step_s": champion.step_s,
        "unit": "kW",
        "scale_kw": shown.scale_kw,
        "model": {name: getattr(champion, name) for name in ("name", "version", "run_id", "record_version")},
        "note": told.served.note,
        "leads": [
            {
                "lead": int(lead),
                "valid_at": iso(told.origin_us + (int(lead) - 1) * champion.step_s * 1_000_000),
                "base_kw": float(shown.base_kw[row]),
                "published": published.get(int(lead)),
                "quantiles": {label(q): _quantile(told, row, at) for at, q in enumerate(shown.quantiles)},
            }
            for row, lead in enumerate(shown.leads)
        ],
    }


def _quantile(told: Told, row: int, at: int) -> dict[str, Any]:
    shown, calibrated_kw = told.explanation, told.served.calibrated_kw
    parts = shown.parts_kw[row, at]
    order = np.argsort(-np.abs(parts), kind="stable")
    return {
        "forecast_kw": float(shown.forecast_kw[row, at]),
        "mean_kw": float(shown.mean_kw[row, at]),
        "floor_kw": float(shown.floor_kw[row, at]),
        "calibrated_kw": None if calibrated_kw is None else float(calibrated_kw[row, at]),
        "contributions_kw": {shown.features[i]: float(parts[i]) for i in order},
    }


def as_text(told: Told) -> str:
    """Return the explanation as lines for a person: a picture, and the mean of each part by lead bucket."""
    champion, columns = told.champion, _columns(told)
    lines = [
        f"{told.site}/{told.meter} at {iso(told.origin_us)}, version {champion.version} (run {champion.run_id}), in kW",
        "",
        _picture(told),
        "",
        f"{'lead':>8}{''.join(f'{name:>11}' for name in columns)}  what moves the median most",
    ]
    shown = told.explanation
    hours = (shown.leads - 1) * champion.step_s // 3600 + 1
    for first_h, last_h in BUCKETS_H:
        chosen = (hours >= first_h) & (hours <= last_h)
        if chosen.any():
            numbers = "".join(f"{values_kw[chosen].mean():11.3f}" for values_kw in columns.values())
            moves = ", ".join(f"{name} {kw:+.3f}" for name, kw in shown.largest(MEDIAN, chosen, SHOWN).items())
            lines.append(f"{f'{first_h}–{last_h} h':>8}{numbers}  {moves}")
    bars = _bars(shown.largest(MEDIAN, np.ones(len(shown.leads), dtype=np.bool_), 8))
    return "\n".join([*lines, "", f"sent: {told.served.note}", "", *bars])


def _columns(told: Told) -> dict[str, NDArray[np.float64]]:
    """Return the columns [L] of the table, in kW: as modelled, then the ends of the interval as the edge sends them."""
    shown, calibrated_kw = told.explanation, told.served.calibrated_kw
    names = {place: f"q{shown.quantiles[place]:g}" for place in spread_places(shown.quantiles)}
    names[shown.quantiles.index(MEDIAN)] = "median"
    columns = {"base": shown.base_kw} | {name: shown.forecast_kw[:, place] for place, name in sorted(names.items())}
    if calibrated_kw is None:
        return columns
    ends = {f"sent {name}": calibrated_kw[:, place] for place, name in sorted(names.items()) if name != "median"}
    return columns | ends


def _picture(told: Told) -> str:
    """Return the last two days and the forecast median as blocks, an interval each (the mean of several below 1 h)."""
    per_hour = max(1, 3600 // told.champion.step_s)
    past = told.window[-48 * per_hour :].astype(np.float64)
    ahead = told.explanation.forecast_kw[:, told.explanation.quantiles.index(MEDIAN)]
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
