"""`central backtest`: its options, its arguments and what it prints.

The work is in central/evaluation.py, imported when it is done: LightGBM takes seconds to load, `--help` must not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.calendars import Calendar
from shared.errors import DataFileError, ExitCode


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

    def __post_init__(self) -> None:
        """Refuse what cannot be forecast, in a sentence."""
        if self.origins < 1 or self.spacing_h < 1:
            raise DataFileError("--origins and --spacing: expected at least 1")
        if not 1 <= self.horizon_h <= 48:
            raise DataFileError(f"--horizon {self.horizon_h}h: expected 1h to 48h")
        if 0.5 not in self.quantiles or list(self.quantiles) != sorted(set(self.quantiles)):
            raise DataFileError("--quantiles: expected them ascending, with 0.5 among them")
        if not 0 < self.quantiles[0] <= self.quantiles[-1] < 1:
            raise DataFileError("--quantiles: expected fractions between 0 and 1")
        try:
            Calendar(self.zone, self.country)
        except ValueError as e:
            raise DataFileError(f"--zone, --country: {e}") from e

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


def run_backtest(options: BacktestOptions) -> dict[str, Any]:
    """Return the keys of the backtest contract; NaN where a measure has nothing to go by. Raises DataFileError."""
    from central.evaluation import backtest

    return backtest(options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `central backtest` to a parser."""
    parser.add_argument("--readings", type=Path, required=True, help="Parquet or CSV of meter_id, ts, value")
    parser.add_argument("--json", action="store_true", help="print one JSON object (else a table)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file as well")
    parser.add_argument("--origins", type=int, default=8, help="number of origins (8)")
    parser.add_argument("--spacing", type=_hours, default=48, help="distance between origins (48h)")
    parser.add_argument("--horizon", type=_hours, default=48, help="how far each forecast reaches (48h)")
    parser.add_argument(
        "--quantiles", type=_quantiles, default=(0.1, 0.5, 0.9), help="modelled quantiles (0.1,0.5,0.9)"
    )
    parser.add_argument("--zone", default="UTC", help="IANA zone of the calendar features (UTC)")
    parser.add_argument("--country", default=None, help="country code for public holidays (none)")
    parser.add_argument("--aggregate", choices=("mean", "sum"), default="mean", help="of an interval's readings (mean)")
    parser.add_argument("--step", choices=("1h", "30min", "15min"), default="1h", help="length of an interval (1h)")
    parser.add_argument("--own-ends", action="store_true", help="the last window ends at each meter's own end")


def main(args: argparse.Namespace) -> int:
    """Run `central backtest` from parsed arguments; return the exit code. Raises DataFileError in a sentence."""
    options = BacktestOptions(
        readings=args.readings,
        origins=args.origins,
        spacing_h=args.spacing,
        horizon_h=args.horizon,
        quantiles=args.quantiles,
        step_s={"1h": 3600, "30min": 1800, "15min": 900}[args.step],
        aggregate=args.aggregate,
        zone=args.zone,
        country=args.country,
        own_ends=args.own_ends,
    )
    result = run_backtest(options)
    text = json.dumps(_without_nan(result), indent=2)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write((text if args.json else _table(result)) + "\n")
    return ExitCode.OK


def _hours(text: str) -> int:
    """Read `48h` or `48` as whole hours."""
    return int(text.removesuffix("h"))


def _quantiles(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _without_nan(value: Any) -> Any:
    """Return nested results with NaN as None, which JSON can say."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(result: dict[str, Any]) -> str:
    """Return the result as lines for a person."""
    rows = [("overall", result["overall"]), *((f"lead {b['from']}–{b['to']} h", b) for b in result["by_lead"])]
    rows += [(name, result[name]) for name in ("seasonal_naive_24", "seasonal_naive_168")]
    columns = ("mase", "rel_mae_168", "smape", "wql", "coverage_80", "peak_hour_error")
    lines = [" " * 20 + "".join(f"{name:>17}" for name in columns)]
    lines += [f"{name:<20}" + "".join(f"{measured[c]:>17.3f}" for c in columns) for name, measured in rows]
    lines.append(
        f"{result['meters']} meters, {result['origins']} origins, trained in {result['train_s']} s, "
        f"{result['forecast_ms']} ms per forecast"
    )
    return "\n".join(lines)
