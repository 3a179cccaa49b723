"""The command line of the central side: `run`, `train`, `backtest`, `export`, `models`, `doctor`.

Heavy libraries are imported by the command that needs them, so that `--help` and errors are instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import params as parameters
from shared.errors import ExitCode, MetercastError, exit_code_of
from shared.params import Params
from shared.telemetry import configure_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors of ours are one line on standard error."""
    args = _parser().parse_args(argv)
    configure_logging(args.log_level)
    try:
        code: int = args.command(args)
        return code
    except MetercastError as error:
        print(f"central: {error}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to say
        return ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="central",
        description="Record the uplink, notice drift, train and judge models, and roll them out.",
        epilog="Exit codes: " + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode),
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = _common()
    run = commands.add_parser("run", parents=[common], help="serve all sites under the root until stopped")
    run.set_defaults(command=_run)
    _add_export(commands, common)
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--params", type=Path, metavar="FILE", help="parameters (default ./params.yaml if there is one)"
    )
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one parameter; repeatable",
    )
    levels = ["debug", "info", "warning", "error"]
    common.add_argument("--log-level", default="info", choices=levels, help="what is logged (default info)")
    return common


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export", parents=[common], help="read the record back as Parquet or CSV, also while `run` runs"
    )
    export.add_argument("--readings", type=Path, metavar="OUT", help="readings, one row for each identity")
    export.add_argument("--dead-letters", type=Path, metavar="OUT", help="dead letters, one row for each id")
    export.add_argument("--site", help="only this site")
    export.add_argument("--version", type=int, metavar="N", help="the readings as they stood at this record version")
    export.set_defaults(command=_export)


def load_params(args: argparse.Namespace) -> Params:
    """The parameters a command was given."""
    return parameters.load(args.params, overrides=args.overrides, environment=os.environ)


def _run(args: argparse.Namespace) -> int:
    from central.bootstrap import run

    return run(load_params(args))


def _export(args: argparse.Namespace) -> int:
    from central.bootstrap import open_record
    from central.tabular import write_table

    if args.readings is None and args.dead_letters is None:
        raise MetercastError("export: nothing asked for; give --readings OUT or --dead-letters OUT")
    record = open_record(load_params(args))
    if args.readings is not None:
        write_table(record.readings(site=args.site, version=args.version), args.readings)
    if args.dead_letters is not None:
        write_table(record.dead_letters(site=args.site), args.dead_letters)
    return ExitCode.OK
