"""What the starter is worth at steps below an hour, beside the simple rungs, on sets that it was not trained on.

    python -m bench.starter_steps FOLDER

The table of docs/starter.md: protocol and measures are those of `central/starter_judging.py`, at the sets' own steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stage import say
from central.dataset import Panel
from central.evaluation import Forecaster, forecast_windows, measure, model_forecaster, simple_rungs
from central.file_panel import panel_from_file
from central.starter import QUANTILES, RECIPE, SETS, OpenSet, fitted, prepared, taken
from central.starter_judging import shortened, spread_windows
from central.training import Recipe
from edge.starter.finer import hour_of, hours_of, steps_of
from shared.calendars import Calendar
from shared.errors import DataFileError, ExitCode

UNSEEN: Final = OpenSet("aew_pv_sites", "ODbL", "AEW Energie AG", zone="Europe/Zurich", country="CH")  # by any starter
STEPS_S: Final = {"lcl_households": 1800, "openstef_feeders": 900, UNSEEN.stem: 900}
HISTORIES_D: Final = (5, 7, 14, 21)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """MASE, quantile loss and coverage of the 80 % interval: of the starter, and of the rungs that would serve."""

    unseen: str
    step_s: int
    history_d: int
    windows: int
    starter: tuple[float, float, float]
    simple: tuple[float, float, float]


def finer(hourly: Forecaster, calendar: Calendar, per_hour: int) -> Forecaster:
    """Return a forecaster of hours as the edge makes one of steps of it."""

    def forecast(windows: NDArray[np.float32], origins_us: Ints, leads: Ints, _: object = None, /) -> Floats:
        hours = np.arange(1, len(leads) // per_hour + 1, dtype=np.int64)
        hours_kw = hourly(hours_of(windows, per_hour), hour_of(origins_us), hours)
        return steps_of(hours_kw, windows, origins_us, calendar=calendar, per_hour=per_hour)

    return forecast


def judged(of: OpenSet, panel: Panel, hourly: Forecaster) -> Iterator[Row]:
    """Judge what is said of a panel at its own step, a row for each length of history."""
    windows, step_s = spread_windows(panel), panel.step_s
    made = finer(hourly, of.calendar, 3600 // step_s), simple_rungs(QUANTILES, of.calendar, step_s=step_s)
    for days in HISTORIES_D:
        forecasts = [forecast_windows(panel, windows, shortened(one, days, step_s)) for one in made]
        found = [measure(windows, forecast, QUANTILES, slice(None)) for forecast in forecasts]
        own, other = ((one["mase"], one["wql"], one["coverage_80"]) for one in found)
        yield Row(of.stem, step_s, days, len(windows), own, other)


def run(folder: Path, *, sets: Sequence[OpenSet] = SETS, recipe: Recipe = RECIPE) -> list[Row]:
    """Judge every set of STEPS_S in `folder` by a starter of the others. Raises DataFileError."""
    sources = prepared(folder, sets=sets, recipe=recipe)
    rows: list[Row] = []
    for of in (*sets, UNSEEN):
        path = folder / f"{of.stem}.parquet"
        if of.stem not in STEPS_S or not path.is_file():
            continue
        say(f"judging on {of.stem} what the other sets teach")
        model = fitted([source for source in sources if source.of is not of], recipe)
        panel = taken(panel_from_file(path, step_s=STEPS_S[of.stem]), of.endings)
        rows += judged(of, panel, model_forecaster(model, of.calendar))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| unseen set | step | history | starter | simple rungs |", "|---|---|---|---|---|"]
    for row in rows:
        own, other = (" / ".join(f"{value:.3f}" for value in found) for found in (row.starter, row.simple))
        lines.append(f"| {row.unseen} | {row.step_s // 60} min | {row.history_d} d | {own} | {other} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a folder."""
    parser = argparse.ArgumentParser(prog="bench.starter_steps", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="folder of the development sets' Parquet files")
    try:
        print(table(run(parser.parse_args(argv).folder)))
    except DataFileError as error:
        say(f"starter_steps: {error}")
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
