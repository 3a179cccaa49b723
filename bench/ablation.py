"""What each choice of the recipe buys: `python -m bench.ablation DATA`, DATA being a folder of Parquet files.

Every file (`meter_id, ts, value`) is a data set of its own. A variant is the recipe with one thing changed or one group
of features kept from the trees. Each is trained once before the first of many origins, at all hours of the day, and
measured against seasonal naive (168 h) on the same windows: relMAE (a ratio of MASE) and the ratio of weighted quantile
losses, below one is better. The table is Markdown; docs/recipe.md holds one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from central.dataset import Panel, panel_from_file
from central.evaluation import Windows, forecast_windows, judged_windows, measure, model_forecaster, naive_forecaster
from central.training import DEFAULT_RECIPE, train
from shared.calendars import Calendar
from shared.errors import DataFileError, ExitCode
from shared.features import FEATURES, window_steps

QUANTILES: Final = (0.1, 0.5, 0.9)
HORIZON_H: Final = 48

# What features of a group begin with.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "lags": ("lag_", "latest_same", "latest_hour"),
    "last hours": ("recent_",),
    "hours around": ("latest_near", "week_near"),
    "rolling statistics": (*(f"mean_{h}h" for h in (6, 24, 72, 168, 672)), "std_", "min_", "max_"),
    "same-hour profile": ("same_",),
    "deviation from profile": ("deviation_",),
    "deviation carried to the lead": ("carried", "persistence_"),
    "change against week and day": ("week_change_", "day_change_"),
    "kind of load": ("near_zero", "roughness", "mean_over", "history_", "stale_", "base_level"),
    "calendar": ("hour", "weekday", "free_", "holiday"),
    "lead": ("lead_h",),
}

# Changes of recipe fields.
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "no early stopping": {"patience": 0},
    "no early stopping, 120 trees": {"patience": 0, "trees": 120},
    "learning rate .1": {"learning_rate": 0.1},
    "half of the features for a tree": {"feature_fraction": 0.5},
    "all features for a tree": {"feature_fraction": 1.0},
    "15 leaves": {"leaves": 15, "outer_leaves": 15},
    "63 leaves": {"leaves": 63, "outer_leaves": 63},
    "15 leaves for outer quantiles": {"outer_leaves": 15},
    "leaves of 200 rows": {"min_leaf_rows": 200},
    "no dropout of history": {"dropout": 0.0},
    "2 leads a sample": {"leads_per_sample": 2},
    "200k rows": {"rows_cap": 200_000},
    "30k rows": {"rows_cap": 30_000},
    "half-life of 90 days": {"half_life_days": 90.0},
    "meters balanced": {"meter_balance": 1.0},
    "peaks weighted": {"peak_weight": 1.0},
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set with its judged windows, a panel in which these are hidden, and seasonal naive's measures."""

    name: str
    panel: Panel
    known: Panel
    windows: Windows
    calendar: Calendar
    naive: dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant on a data set: ratios to seasonal naive, coverage of the 80 % interval, seconds of training."""

    rel_mae: float
    rel_wql: float
    coverage_80: float
    train_s: float


def main(argv: Sequence[str]) -> int:
    """Measure the variants asked for and print the table; progress goes to stderr."""
    options = _parser().parse_args(argv)
    try:
        sets = data_sets(options.data, options.calendar, options.origins, options.spacing, options.before)
    except DataFileError as error:
        sys.stderr.write(f"ablation: {error}\n")
        return ExitCode.FAILED
    names = [name for name in variants() if not options.only or any(part in name for part in options.only)]
    found = {name: [_told(name, one) for one in sets] for name in names}
    print(table([one.name for one in sets], found))
    return ExitCode.OK


def variants() -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """Return each variant's changed recipe fields and ignored features; the recipe itself comes first."""
    groups: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        f"without: {group}": ({}, members(group)) for group in GROUPS
    }
    choices: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        name: (fields, ()) for name, fields in CHOICES.items()
    }
    return {"the recipe": ({}, ())} | groups | choices


def members(group: str) -> tuple[str, ...]:
    """Return the features of a group."""
    return tuple(name for name in FEATURES if name.startswith(GROUPS[group]))


def data_sets(
    folder: Path, calendars: dict[str, Calendar], origins: int, spacing_h: int, before_h: int
) -> list[DataSet]:
    """Return the folder's data sets. Raises DataFileError, in a sentence, when there is none that can be used."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataFileError(f"{folder}: holds no Parquet files")
    return [_data_set(file, calendars.get(file.stem, Calendar()), origins, spacing_h, before_h) for file in files]


def _data_set(file: Path, calendar: Calendar, origins: int, spacing_h: int, before_h: int) -> DataSet:
    panel = panel_from_file(file)
    windows = many_windows(panel, origins=origins, spacing_h=spacing_h, before_h=before_h)
    if not len(windows):
        raise DataFileError(f"{file}: too short for {origins} origins {spacing_h} h apart")
    forecast = forecast_windows(panel, windows, naive_forecaster(QUANTILES, season_h=168))
    return DataSet(
        file.stem,
        panel,
        before_judged(panel, windows),
        windows,
        calendar,
        measure(windows, forecast, QUANTILES, slice(None)),
    )


def many_windows(panel: Panel, *, origins: int, spacing_h: int, before_h: int) -> Windows:
    """Return windows counted back from each meter's own end less `before_h`, of origins with a full window behind."""
    seen = np.isfinite(panel.load_kw)
    ends = panel.load_kw.shape[1] - seen[:, ::-1].argmax(axis=1)
    columns = ends[:, None] - before_h - HORIZON_H - spacing_h * np.arange(origins - 1, -1, -1)
    first = seen.argmax(axis=1)[:, None]
    meters, which = np.nonzero((columns - first >= window_steps(panel.step_s)) & seen.any(axis=1, keepdims=True))
    origins_us = panel.start_us + columns[meters, which].astype(np.int64) * panel.step_us
    return judged_windows(panel, meters.astype(np.int64), origins_us, horizon_steps=HORIZON_H)


def before_judged(panel: Panel, windows: Windows) -> Panel:
    """Return the panel with each meter's readings from its first judged origin on hidden."""
    first = np.full(len(panel.meters), panel.end_us)
    np.minimum.at(first, windows.meters, windows.origins_us)
    known = np.arange(panel.load_kw.shape[1]) < panel.column(first)[:, None]
    return Panel(panel.meters, panel.start_us, panel.step_s, np.where(known, panel.load_kw, np.nan))


def measured(one: DataSet, fields: dict[str, Any], ignored: tuple[str, ...]) -> Measured:
    """Train a variant on a data set and measure it."""
    began_s = time.process_time()
    recipe = replace(DEFAULT_RECIPE, **fields)
    until_us = int(one.windows.origins_us.max())
    model = train(one.known, until_us=until_us, recipe=recipe, calendar=one.calendar, ignored=ignored)
    train_s = time.process_time() - began_s
    forecast = forecast_windows(one.panel, one.windows, model_forecaster(model, one.calendar))
    own = measure(one.windows, forecast, QUANTILES, slice(None))
    return Measured(own["mase"] / one.naive["mase"], own["wql"] / one.naive["wql"], own["coverage_80_raw"], train_s)


def table(names: list[str], found: dict[str, list[Measured]]) -> str:
    """Return relMAE / relative quantile loss of variants × data sets as Markdown, with means."""
    lines = [
        "| variant | " + " | ".join(names) + " | mean | coverage | training |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for variant, results in found.items():
        cells = [f"{one.rel_mae:.3f} / {one.rel_wql:.3f}" for one in results]
        mae, wql, coverage, seconds = (
            float(np.mean([getattr(one, name) for one in results]))
            for name in ("rel_mae", "rel_wql", "coverage_80", "train_s")
        )
        lines.append(f"| {variant} | {' | '.join(cells)} | {mae:.4f} / {wql:.4f} | {coverage:.3f} | {seconds:.0f} s |")
    return "\n".join(lines)


def _told(name: str, one: DataSet) -> Measured:
    result = measured(one, *variants()[name])
    sys.stderr.write(f"ablation: {name}, {one.name}: {result.rel_mae:.4f} / {result.rel_wql:.4f}\n")
    sys.stderr.flush()
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description="what each choice of the recipe buys")
    parser.add_argument("data", type=Path, help="folder of Parquet files of meter_id, ts, value")
    parser.add_argument("--only", action="append", help="variants whose names hold this text (all)")
    parser.add_argument("--origins", type=int, default=27, help="number of origins (27)")
    parser.add_argument("--spacing", type=int, default=47, help="hours between origins: no divisor of a day (47)")
    parser.add_argument("--before", type=int, default=384, help="hours kept at each meter's end for another test (384)")
    parser.add_argument(
        "--calendar", action=_Calendars, default={}, metavar="NAME=ZONE[,COUNTRY]", help="of a data set (UTC)"
    )
    return parser


class _Calendars(argparse.Action):
    """Collects `--calendar NAME=ZONE[,COUNTRY]` into calendars by data set."""

    def __call__(self, parser: argparse.ArgumentParser, space: argparse.Namespace, value: Any, *_: Any) -> None:
        """Add one; a wrong one ends the command in a sentence."""
        name, _equals, place = str(value).partition("=")
        zone, _comma, country = place.partition(",")
        try:
            space.calendar = {**space.calendar, name: Calendar(zone, country or None)}
        except ValueError as error:
            parser.error(f"--calendar {value}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
