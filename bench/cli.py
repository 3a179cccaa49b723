"""The command line of the benches: which to run, how large, where the JSON goes; the table comes last."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import closing, forecasting, ingest, memory, record, restart, rollout_to_sites, swapping
from bench.figures import Figure, table, write
from bench.stage import BenchFailed, say
from demo.processes import DemoFailed
from shared.clock import parse_duration
from shared.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: what it measures, and which of the command line's sizes it takes."""

    run: Callable[..., list[Figure]]
    measures: tuple[str, ...]
    takes: tuple[str, ...]


BENCHES: Final = {
    "ingest": Bench(ingest.run, ("ingest_committed",), ("readings", "meters", "step", "runs", "peers")),
    "memory": Bench(memory.run, ("bytes_per_meter",), ("meters",)),
    "restart": Bench(restart.run, ("restart_to_first_forecast_s",), ("meters", "weeks", "runs", "trees")),
    "close": Bench(
        closing.run, ("close_to_last_forecast_p99_s", "edge_rss_mb"), ("meters", "weeks", "closings", "trees")
    ),
    "forecasting": Bench(
        forecasting.run, ("forecasts_per_core", "onnx_share"), ("meters", "weeks", "rounds", "trees", "peers")
    ),
    "swap": Bench(
        swapping.run, ("swap_pause_p99_ms", "swaps_missed_forecasts"), ("meters", "weeks", "swaps", "trees", "rate")
    ),
    "rollout": Bench(rollout_to_sites.run, ("model_to_50_sites_s",), ("sites", "meters", "weeks", "trees")),
    "record": Bench(record.run, ("record_readings_per_s",), ("readings", "runs")),
}


def main(argv: Sequence[str]) -> int:
    """Run the benches asked for; a bench that cannot go on is told in a sentence, and the others run all the same."""
    options = _parser().parse_args(argv)
    try:
        figures, failed = _run(options)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    print(table(figures))
    print(f"\nThe same as JSON, with the conditions, is in {options.out}/.")
    return ExitCode.FAILED if failed else ExitCode.OK


def _run(options: argparse.Namespace) -> tuple[list[Figure], int]:
    """All figures that could be measured, and how many benches could not go on."""
    figures: list[Figure] = []
    failed = 0
    for name in _chosen(options.name):
        bench = BENCHES[name]
        sizes = {size: value for size in bench.takes if (value := getattr(options, size)) is not None}
        began_s = time.monotonic()
        try:
            made = bench.run(**sizes)
        except (BenchFailed, DemoFailed) as error:
            failed += 1
            say(f"bench {name}: {error}\n{getattr(error, 'log_tail', '')}".rstrip())
            continue
        say(f"{name}: done in {time.monotonic() - began_s:.0f} s")
        write(made, options.out)
        figures += made
    return figures, failed


def _chosen(names: Sequence[str]) -> list[str]:
    """Benches by their own name or that of a figure; all of them when none is named."""
    return [name for name, bench in BENCHES.items() if not names or name in names or set(names) & set(bench.measures)]


def _parser() -> argparse.ArgumentParser:
    known = [*BENCHES, *(figure for bench in BENCHES.values() for figure in bench.measures)]
    parser = argparse.ArgumentParser(prog="bench", description="Measure metercast beside its limits and its peers.")
    parser.add_argument("name", nargs="*", type=_one_of(known), metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of the JSON (default %(default)s)")
    sizes: dict[str, Any] = {
        "readings": "readings of the flood, or into the record",
        "meters": "how many meters",
        "weeks": "weeks of state to begin with",
        "runs": "repetitions, of which the median is told",
        "closings": "hours that close",
        "rounds": "forecast rounds",
        "swaps": "models swapped in one after the other",
        "rate": "readings a second, each of which closes an hour",
        "sites": "sites that get a model",
        "trees": "trees per quantile of the model",
    }
    for size, text in sizes.items():
        parser.add_argument(f"--{size}", type=_positive, metavar="N", help=f"{text} (each bench has its own default)")
    parser.add_argument("--step", type=parse_duration, metavar="1min", help="event time between a meter's readings")
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), metavar="LIST", help="of: paho,mosquitto_sub,pathway,mlforecast"
    )
    return parser


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(known)}")
        return text

    return name


def _positive(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    number = int(digits) if digits.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number
