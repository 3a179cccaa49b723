"""The edge's commands: run, replay, backfill, doctor, params.

Errors are one line, exit codes are shared.errors.ExitCode.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.doctor.asked import LISTEN, PARKED, PARKED_AT_MOST, Asked
from shared import __version__, params_file
from shared.clock import parse_duration, parse_instant_us
from shared.errors import ExitCode, MetercastError, exit_code_of
from shared.findings import as_json, as_text
from shared.garbage import collect_rarely
from shared.grid import KINDS, UNITS
from shared.heap import keep_little
from shared.params import Params
from shared.telemetry import configure_logging

if TYPE_CHECKING:
    from edge.files import Source

DOCTOR: Final = """\
Check broker, clocks, disk and state, and say what to mend.

Each finding is ok, MEND (with what to do), or ? (not to be known from here, or worth knowing).
The exit code is 1 when there is something to mend, else 0. It is safe beside a running edge:
the state is only read, and the broker's queue is measured with a session and a topic of its own."""


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    configure_logging(options.log_level)
    try:
        chosen = params_file.load(options.params, overrides=options.set, environment=os.environ)
        command: Callable[[argparse.Namespace, Params], int] = options.command
        return command(options, chosen)
    except MetercastError as error:
        print(f"edge: {error}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge", description="The edge node: readings in, a 48-hour forecast per meter out, every interval."
    )
    parser.add_argument("--version", action="version", version=f"metercast edge {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "serve the site until stopped (SIGTERM, Ctrl-C)")
    run.set_defaults(log_level="info")
    _add_replay(commands)
    _add_backfill(commands)
    _add_doctor(commands)
    _command(commands, "params", _params, "print every parameter, its default and what it is, as Markdown")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace, Params], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--params", type=Path, metavar="FILE", help="parameters (default: params.yaml here, if any)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one parameter; beats environment and file"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning", help="what to log"
    )
    parser.set_defaults(command=run)
    return parser


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = _command(commands, "replay", _replay, "publish a Parquet or CSV of readings as those meters would")
    _add_source(replay)
    replay.add_argument(
        "--speed",
        type=_above_zero,
        default=1.0,
        metavar="N|max",
        help="event time per wall time (default 1: as it happened)",
    )


def _add_backfill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    backfill = _command(commands, "backfill", _backfill, "load the history of new or returned meters from a file")
    _add_source(backfill)
    backfill.add_argument(
        "--rate",
        type=_above_zero,
        default=20_000.0,
        metavar="N|max",
        help="readings a second at most, so that the edge keeps up (default 20000)",
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="Parquet or CSV with columns meter_id, ts (UTC), value")
    parser.add_argument("--unit", choices=tuple(UNITS), default="kW", help="unit of value (default %(default)s)")
    parser.add_argument("--kind", choices=KINDS, help="what value is; needed for Wh, kWh and MWh")
    parser.add_argument("--period", type=_span, metavar="30min", help="period of an energy reading")
    parser.add_argument("--from", dest="start", type=_instant, metavar="T", help="first instant, ISO with offset")
    parser.add_argument("--to", dest="end", type=_instant, metavar="T", help="end, not included")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = _command(commands, "doctor", _doctor, "check broker, clocks, disk and state, and say what to mend")
    doctor.formatter_class, doctor.description = argparse.RawDescriptionHelpFormatter, DOCTOR
    doctor.set_defaults(log_level="error")  # what goes wrong is a finding
    doctor.add_argument(
        "--broker-conf", type=Path, metavar="FILE", help="the broker's mosquitto.conf, for what no client can see"
    )
    doctor.add_argument(
        "--listen",
        type=_span,
        default=LISTEN,
        metavar="5s",
        help="how long to listen to live readings for their clocks (default 5s; 0s: not at all)",
    )
    doctor.add_argument(
        "--park",
        type=_parked,
        default=PARKED,
        metavar="N",
        help=f"messages that measure the broker's queue (default %(default)s, at most {PARKED_AT_MOST})",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")


def _parked(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= PARKED_AT_MOST:
        raise argparse.ArgumentTypeError(f"{text!r:.40}: expected a number from 1 to {PARKED_AT_MOST}")
    return int(text)


def _span(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _above_zero(text: str) -> float:
    try:
        number = float("inf") if text == "max" else float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0, or max")
    return number


def _instant(text: str) -> int:
    try:
        return parse_instant_us(text if "T" in text or len(text) > 10 else f"{text}T00:00:00Z")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run(_options: argparse.Namespace, chosen: Params) -> int:
    keep_little()
    collect_rarely()
    from edge.bootstrap import build
    from edge.runtime import Runtime

    runtime = Runtime(build(chosen))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runtime.stop())
    runtime.run()
    return ExitCode.OK


def _replay(options: argparse.Namespace, chosen: Params) -> int:
    from edge.replay import Replay, replay

    published = replay(Replay(_source(options), options.speed), chosen, report=_report)
    print(f"{published} readings published")
    return ExitCode.OK


def _backfill(options: argparse.Namespace, chosen: Params) -> int:
    from edge.backfill import Backfill, backfill

    published = backfill(Backfill(_source(options), options.rate), chosen, report=_report)
    print(f"{published.readings} readings of {published.meters} meters published in {published.messages} messages")
    return ExitCode.OK


def _source(options: argparse.Namespace) -> Source:
    from edge.files import Source

    return Source(
        file=options.file,
        unit=options.unit,
        kind=options.kind,
        period=options.period,
        start_us=options.start,
        end_us=options.end,
    )


def _report(line: str) -> None:
    print(line, end="", file=sys.stderr, flush=True)


def _doctor(options: argparse.Namespace, chosen: Params) -> int:
    from edge.doctor.examination import examine

    asked = Asked(broker_conf=options.broker_conf, listen=options.listen, park=options.park)
    try:
        findings = examine(chosen, asked, tell=_tell)
    finally:
        _tell("")
    columns = min(shutil.get_terminal_size((120, 24)).columns, 120)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(as_json(findings) if options.json else as_text(findings, columns=columns, colours=colours))
    return ExitCode.OK if all(finding.good for finding in findings) else ExitCode.FAILED


def _tell(doing: str) -> None:
    """What is being done: in a terminal one line that is written over, elsewhere a line each; empty when done."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{doing}{' …' if doing else ''}", end="", file=sys.stderr, flush=True)
    elif doing:
        print(f"edge: {doing}", file=sys.stderr, flush=True)


def _params(_options: argparse.Namespace, _chosen: Params) -> int:
    print(params_file.as_markdown())
    return ExitCode.OK
