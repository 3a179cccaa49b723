"""What online calibration does to the coverage of the 80 % interval: raw and calibrated, one table and one picture.

    python -m bench.calibration DATA [--meters 24] [--out bench-out]

On each development set in the folder DATA a model is trained once; then every hour is an origin, for 30 weeks or three
fifths of what the set has. Four weeks warm calibration up, the rest is judged. A second run of the same model meets a
planted change in every meter (×1.6, ×0.5, or its mean load on top) and is judged 15 to 42 days after it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.calibration_picture import draw
from bench.stage import say
from central.dataset import Panel
from central.edge_replay import replay
from central.evaluation import Forecaster, model_forecaster
from central.file_panel import panel_from_file
from central.hindcast import Hindcast
from central.training import train
from shared import metrics
from shared.calendars import Calendar
from shared.calibration import calibrated
from shared.errors import DataFileError, ExitCode
from shared.features import load_floor
from shared.params import scored_leads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY: Final = 24  # steps: the bench is hourly
WEEK: Final = 7 * DAY
LEAD_BUCKETS: Final = ((1, 6), (7, 12), (13, 24), (25, 36), (37, 48))
QUANTILES: Final = (0.1, 0.5, 0.9)

_HISTORY: Final = 104 * WEEK
_ORIGINS: Final = 30 * WEEK
_ORIGINS_SHARE: Final = 0.6  # of what a set has, at most
_WARM_UP: Final = 4 * WEEK
_JUDGED_AFTER_CHANGE: Final = slice(14 * DAY, 42 * DAY)  # days 15 to 42
_LEADS: Final = np.arange(1, 49, dtype=np.int64)
_KNOTS: Final = scored_leads(3600, len(_LEADS))
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Source:
    """A development set: its file, which of its meters, and what a site there would have in its parameters."""

    name: str
    file: str
    zone: str = "UTC"
    country: str | None = None
    aggregate: str = "mean"
    meters: str = ""  # the end of their names

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


SOURCES: Final = (
    Source("households", "lcl_households.parquet", "Europe/London", "GB", "sum"),
    Source("regions", "pjm_zones.parquet", "America/New_York", "US"),
    Source("homes", "citylearn_2022.parquet", meters=":load"),
    Source("feeders", "openstef_feeders.parquet", "Europe/Amsterdam", "NL"),
    Source("PV sites", "aew_pv_sites.parquet", "Europe/Zurich", "CH"),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """Truth [M, O, L] of M meters at O hourly origins, and the forecasts [M, O, L, 3] before and after calibration."""

    actual: Floats
    raw: Floats
    calibrated: Floats

    def of(self, origins: slice) -> Trial:
        """Return the part of some origins."""
        return Trial(self.actual[:, origins], self.raw[:, origins], self.calibrated[:, origins])

    def covered(self, forecast: Floats) -> Floats:
        """Return 1 where the truth lies in the forecast's interval, else 0; NaN where it is missing."""
        inside = (self.actual >= forecast[..., 0]) & (self.actual <= forecast[..., 2])
        return np.where(np.isfinite(self.actual), inside, np.nan)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one set showed: the judged weeks, and the weeks around the planted change, at origin `changed`."""

    name: str
    meters: int
    judged: Trial
    planted: Trial
    changed: int


def main(argv: Sequence[str]) -> int:
    """Run every set that is there, say which are not, print the table and draw the picture."""
    options = _parser().parse_args(argv)
    present = [source for source in SOURCES if (options.data / source.file).is_file()]
    for source in SOURCES:
        if source not in present:
            say(f"calibration: {options.data / source.file} is missing; {source.name} are left out")
    if not present:
        return ExitCode.FAILED
    try:
        outcomes = [_outcome(source, options.data, options.meters) for source in present]
    except DataFileError as error:
        say(f"calibration: {error}")
        return ExitCode.FAILED
    options.out.mkdir(parents=True, exist_ok=True)
    draw(outcomes, options.out / "calibration.png")
    print(table(outcomes))
    print(f"\nDrawn in {options.out / 'calibration.png'}.")
    return ExitCode.OK


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table, in Markdown: coverage overall, by lead, after the change; then width and quantile loss."""
    buckets = [f"{low}–{high} h" for low, high in LEAD_BUCKETS]
    head = ["set", "meters", "weeks", "", "overall", *buckets, "width", "wQL", "days 15–42 after", "wQL there"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for outcome in outcomes:
        weeks = f"{outcome.judged.actual.shape[1] / WEEK:.0f}"
        for name in ("raw", "calibrated"):
            first = [outcome.name, str(outcome.meters), weeks] if name == "raw" else ["", "", ""]
            lines.append("| " + " | ".join([*first, name, *_cells(outcome, name)]) + " |")
    return "\n".join(lines)


def _cells(outcome: Outcome, name: str) -> list[str]:
    judged, after = outcome.judged, _after_change(outcome)
    forecast, changed = getattr(judged, name), getattr(after, name)
    covered = judged.covered(forecast)
    shares = [covered, *(covered[..., low - 1 : high] for low, high in LEAD_BUCKETS)]
    width = metrics.width(judged.actual, forecast[..., 0], forecast[..., 2])
    return [
        *(f"{100 * np.nanmean(share):.1f}" for share in shares),
        f"{width:.4f}",
        f"{metrics.wql(judged.actual, forecast, QUANTILES):.4f}",
        f"{100 * np.nanmean(after.covered(changed)):.1f}",
        f"{metrics.wql(after.actual, changed, QUANTILES):.4f}",
    ]


def _after_change(outcome: Outcome) -> Trial:
    days = _JUDGED_AFTER_CHANGE
    return outcome.planted.of(slice(outcome.changed + days.start, outcome.changed + days.stop))


def _outcome(source: Source, folder: Path, most: int) -> Outcome:
    panel = _panel(source, folder)
    length = panel.load_kw.shape[1]
    first = length - min(_ORIGINS, int(length * _ORIGINS_SHARE))
    say(f"calibration: {source.name}: training on {len(panel.meters)} meters")
    model = train(panel, until_us=panel.start_us + first * panel.step_us, calendar=source.calendar)
    forecaster = model_forecaster(model, source.calendar)
    few = _some(panel, most)
    judged = trial(few, forecaster, np.arange(first, length, dtype=np.int64)).of(slice(_WARM_UP, None))
    change = first + _WARM_UP + (length - first - _WARM_UP) // 4
    origins = np.arange(change - _WARM_UP, min(change + 42 * DAY, length), dtype=np.int64)
    planted = trial(changed_panel(few, change), forecaster, origins)
    return Outcome(source.name, len(few.meters), judged, planted, _WARM_UP)


def _panel(source: Source, folder: Path) -> Panel:
    """Return the hourly panel of the set's last two years, without meters that are mostly missing or mostly zero."""
    panel = panel_from_file(folder / source.file, aggregate=source.aggregate)
    named = np.array([meter.endswith(source.meters) for meter in panel.meters])
    start = max(0, panel.load_kw.shape[1] - _HISTORY)
    common = start + np.flatnonzero(np.isfinite(panel.load_kw[named, start:]).mean(axis=0) >= 0.5)
    load_kw = panel.load_kw[:, common[0] : common[-1] + 1]  # where most of the meters are there
    kept = named & (np.isfinite(load_kw).mean(axis=1) > 0.5) & ((load_kw == 0).mean(axis=1) < 0.5)
    meters = [meter for meter, keep in zip(panel.meters, kept, strict=True) if keep]
    return Panel(meters, panel.start_us + int(common[0]) * panel.step_us, panel.step_s, load_kw[kept])


def _some(panel: Panel, most: int) -> Panel:
    """Return at most so many of the meters, evenly from their list."""
    chosen = np.unique(np.linspace(0, len(panel.meters) - 1, most).astype(np.int64))
    return Panel([panel.meters[i] for i in chosen], panel.start_us, panel.step_s, panel.load_kw[chosen])


def changed_panel(panel: Panel, column: int) -> Panel:
    """Return the panel whose meters, in turn, grow to 1.6 times, halve, or gain their mean load, from a column on."""
    load_kw = panel.load_kw.copy()
    load_kw[0::3, column:] *= 1.6
    load_kw[1::3, column:] *= 0.5
    load_kw[2::3, column:] += np.nanmean(np.abs(panel.load_kw[2::3, :column]), axis=1, keepdims=True)
    return Panel(panel.meters, panel.start_us, panel.step_s, load_kw)


def trial(panel: Panel, forecaster: Forecaster, columns: Ints) -> Trial:
    """Forecast every meter at every one of consecutive origins, and calibrate as an edge would."""
    shape = (len(panel.meters), len(columns))
    raw = np.empty((*shape, len(_LEADS), 3), dtype=np.float32)
    floor_kw, actual = np.empty(shape), np.empty((*shape, len(_LEADS)))
    origins_us = panel.start_us + columns * panel.step_us
    for meter in range(len(panel.meters)):
        say(f"calibration: meter {meter + 1} of {len(panel.meters)}, {len(columns)} origins")
        same = np.full(len(columns), meter)
        actual[meter] = panel.truth(same, origins_us, _LEADS)
        for begin in range(0, len(columns), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            windows = panel.windows(same[block], origins_us[block])
            raw[meter, block] = forecaster(windows, origins_us[block], _LEADS)
            floor_kw[meter, block] = load_floor(windows)
    spread_kw = raw[:, :, np.array(_KNOTS) - 1]
    one = np.ones(shape, dtype=np.int64)
    states = replay(panel, Hindcast(int(columns[0]), _KNOTS, QUANTILES, spread_kw, floor_kw, one)).model
    moved = [
        calibrated(
            raw[meter].astype(np.float64),
            states[meter],
            leads=_LEADS,
            knots=_KNOTS,
            quantiles=QUANTILES,
            floor_kw=floor_kw[meter],
        )
        for meter in range(len(panel.meters))
    ]
    return Trial(actual, raw.astype(np.float64), np.stack(moved))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.calibration", description="Coverage before and after calibration.")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the development sets")
    parser.add_argument("--meters", type=int, default=24, help="of a set that are forecast, at most (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of the picture (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
