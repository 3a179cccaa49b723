"""`central backtest`: its arguments and what it prints.

The work is in central/backtest.py, imported when it is done: LightGBM takes seconds to load, `--help` must not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from shared.clock import parse_duration
from shared.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `central backtest` to a parser."""
    parser.add_argument("--readings", type=Path, required=True, help="Parquet or CSV of meter_id, ts, value")
    parser.add_argument("--json", action="store_true", help="print one JSON object (else a table)")
    parser.add_argument("--out", type=Path, help="write the forecasts to this Parquet file")
    parser.add_argument("--origins", type=int, default=8, help="number of origins (8)")
    parser.add_argument("--spacing", type=_hours, default=48, help="distance between origins (48h)")
    parser.add_argument("--horizon", type=_hours, default=48, help="how far each forecast reaches (48h)")
    parser.add_argument(
        "--quantiles",
        type=_quantiles,
        nargs="+",
        default=[(0.1, 0.5, 0.9)],
        help="quantiles to forecast, any set (0.1 0.5 0.9; commas do too)",
    )
    parser.add_argument("--zone", default="UTC", help="IANA zone of the calendar features (UTC)")
    parser.add_argument("--country", default=None, help="country code for public holidays (none)")
    parser.add_argument("--aggregate", choices=("mean", "sum"), default="mean", help="of an interval's readings (mean)")
    parser.add_argument(
        "--step", type=_step, default=3600, metavar="{1h,30min,15min}", help="length of an interval (1h)"
    )
    parser.add_argument("--own-ends", action="store_true", help="the last window ends at each meter's own end")
    parser.add_argument(
        "--covariates",
        type=Path,
        help="Parquet or CSV of name, issued_at, ts, value: series known ahead, the same for all meters; at an origin "
        "the newest value issued by then counts; without issued_at every value counts as known from ever, as if "
        "forecasts were perfect: better than any real one",
    )


def main(args: argparse.Namespace) -> int:
    """Run `central backtest` from parsed arguments; return the exit code. Raises DataFileError in a sentence."""
    from central.backtest import backtest
    from central.backtest_options import BacktestOptions

    options = BacktestOptions(
        readings=args.readings,
        origins=args.origins,
        spacing_h=args.spacing,
        horizon_h=args.horizon,
        quantiles=tuple(sorted({level for group in args.quantiles for level in group})),
        step_s=args.step,
        aggregate=args.aggregate,
        zone=args.zone,
        country=args.country,
        own_ends=args.own_ends,
        covariates=args.covariates,
        out=args.out,
    )
    result = backtest(options)
    text = json.dumps(_without_nan(result), indent=2)
    sys.stdout.write((text if args.json else _table(result)) + "\n")
    return ExitCode.OK


def _hours(text: str) -> int:
    """Read `48h`, `2d` or `48` as whole hours."""
    try:
        hours = parse_duration(text if not text.isdecimal() else f"{text}h").total_seconds() / 3600
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if hours < 1 or hours % 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole hours")
    return int(hours)


def _quantiles(text: str) -> tuple[float, ...]:
    """Read one level or several with commas between them."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected fractions such as 0.1,0.5,0.9") from error


def _step(text: str) -> int:
    """Read `1h`, `30min` or `15min` as seconds."""
    try:
        step_s = parse_duration(text).total_seconds()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if step_s not in (3600, 1800, 900):
        raise argparse.ArgumentTypeError(f"{text!r}: expected 15min, 30min or 1h")
    return int(step_s)


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
