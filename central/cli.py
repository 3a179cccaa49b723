"""The command line of the central side: `run`, `train`, `backtest`, `export`, `models`, `keys`, `explain`, `doctor`.

Heavy libraries are imported by the command that needs them, so that `--help` and errors are instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias, get_args

from central import backtest_command, keys_command, models_command
from central.trainings import Reason
from shared import params_file
from shared.clock import parse_instant_us
from shared.errors import ExitCode, MetercastError, ParamsError, exit_code_of
from shared.garbage import collect_rarely
from shared.params import Params
from shared.telemetry import configure_logging

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXPORT: Final = (
    "Read the record back, also while `run` runs; OUT ends in .parquet or .csv. Dead letters tell also of what a "
    "full outbox gave up: `count` readings of the meter that its topic names."
)


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
    run = commands.add_parser(
        "run",
        parents=[common],
        help="serve all sites under the root until stopped",
        description="Record all sites under the root, watch for drift, train and roll out, until stopped.",
    )
    run.set_defaults(command=_run)
    _add_train(commands, common)
    backtest = commands.add_parser(
        "backtest", parents=[common], help="score the shipped recipe on any file of readings"
    )
    backtest_command.add_arguments(backtest)
    backtest.set_defaults(command=backtest_command.main)
    _add_export(commands, common)
    _add_models(commands, common)
    keys_command.add_to(commands, common, _common(nested=True), run=_keys)
    _add_explain(commands, common)
    doctor = commands.add_parser(
        "doctor", parents=[common], help="check broker, record, disk, MLflow and keys, and say what to mend"
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _add_train(commands: Commands, common: argparse.ArgumentParser) -> None:
    train = commands.add_parser(
        "train",
        parents=[common],
        help="train and judge a model now; a running `run` rolls it out when it is accepted",
        description=f"Exit code {ExitCode.REJECTED.value} when the model did not meet the criteria.",
    )
    train.add_argument(
        "--starter",
        type=_starter_folder,
        metavar="FOLDER",
        help="make the model that ships with the edge, from the open data sets in FOLDER (docs/starter.md)",
    )
    train.add_argument("--until", metavar="T", help="train on what had ended by this instant (default: all there is)")
    train.add_argument("--reason", choices=get_args(Reason), default="command", help=argparse.SUPPRESS)
    train.add_argument("--out", type=Path, help="where to write the starter (default: the edge's own folder)")
    train.add_argument("--nice", action="store_true", help="at low priority")
    train.add_argument(
        "--tune",
        type=_count,
        metavar="N",
        help="first search for a better recipe with N trials, going on where an interrupted search ended; what is "
        "better goes under `training:` of the file given with --params, or is printed",
    )
    train.set_defaults(command=_train)


def _add_explain(commands: Commands, common: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain", parents=[common], help="take the champion's forecast of a meter apart, feature by feature"
    )
    explain.add_argument("site", metavar="SITE")
    explain.add_argument("meter", metavar="METER")
    explain.add_argument("--origin", metavar="T", help="start of the first forecast interval (default: the latest)")
    explain.add_argument("--json", action="store_true", help="print JSON: every lead, quantile and feature")
    explain.set_defaults(command=_explain)


def _add_models(commands: Commands, common: argparse.ArgumentParser) -> None:
    models = commands.add_parser("models", parents=[common], help="list models, and steer how they are rolled out")
    models_command.add_arguments(models, _common(nested=True))
    models.set_defaults(command=_models)


def _common(*, nested: bool = False) -> argparse.ArgumentParser:
    """The options of every command. A nested parser's defaults would undo what was given before its name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS if nested else None)
    common.add_argument(
        "--params", type=Path, metavar="FILE", help="parameters (default ./params.yaml if there is one)"
    )
    common.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        dest="nested_overrides" if nested else "overrides",
        help="set one parameter; repeatable",
    )
    levels = ["debug", "info", "warning", "error"]
    common.add_argument("--log-level", choices=levels, help="what is logged (default info)")
    if not nested:
        common.set_defaults(log_level="info")
    return common


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of trials, 1 or above")
    return int(text)


def _starter_folder(text: str) -> Path:
    """Read `FOLDER` or `DATA=FOLDER`."""
    return Path(text.removeprefix("DATA="))


def _version(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a version of the record, 0 or above")
    return int(text)


def _add_export(commands: Commands, common: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export",
        parents=[common],
        help="read the record back as Parquet or CSV, also while `run` runs",
        description=EXPORT,
    )
    export.add_argument("--readings", type=Path, metavar="OUT", help="readings, one row for each identity")
    export.add_argument("--dead-letters", type=Path, metavar="OUT", help="dead letters, one row for each id")
    export.add_argument("--site", help="only this site")
    export.add_argument(
        "--version", type=_version, metavar="N", help="the readings as they stood at this record version"
    )
    export.set_defaults(command=_export)


def load_params(args: argparse.Namespace) -> Params:
    """The parameters a command was given."""
    overrides = [*(args.overrides or []), *getattr(args, "nested_overrides", [])]
    return params_file.load(args.params, overrides=overrides, environment=os.environ)


def _run(args: argparse.Namespace) -> int:
    collect_rarely()
    from central.bootstrap import run

    return run(load_params(args))


def _train_starter(folder: Path, out: Path | None) -> int:
    """Make, judge and write the starter; without `out` it becomes the edge's own, and its table the document's."""
    from central import starter
    from central.starter_judging import table

    made = starter.make(folder)
    print(table(made.lines))
    if made.reasons:
        print("rejected", *made.reasons, sep="\n  ")
        return ExitCode.REJECTED
    starter.write(made, out or starter.SHIPPED)
    if out is None and starter.DOCUMENT.exists():  # an image holds no documents
        document = starter.DOCUMENT.read_text(encoding="utf-8")
        starter.DOCUMENT.write_text(starter.with_table(document, made.lines), encoding="utf-8")
    print(f"accepted: it serves from {made.min_history_d} d of history on; written to {out or starter.SHIPPED}")
    return ExitCode.OK


def _train(args: argparse.Namespace) -> int:
    from central.bootstrap import train

    _be_nice(args)
    if args.starter is not None:
        return _train_starter(args.starter, args.out)
    try:
        until_us = parse_instant_us(args.until) if args.until is not None else None
    except ValueError as error:
        raise MetercastError(f"--until: {error}") from error
    params = load_params(args)
    if args.tune is not None:
        from central.tuning_command import tune

        params = tune(params, args.tune, file=args.params, until_us=until_us)
    result = train(params, reason=args.reason, until_us=until_us, out=args.out)
    print(f"{result.outcome}" + (f" as version {result.version}" if result.version else ""))
    for reason in result.reasons:
        print(f"  {reason}")
    return ExitCode.OK if result.outcome == "accepted" else ExitCode.REJECTED


def _be_nice(args: argparse.Namespace) -> None:
    if args.nice:
        os.nice(10)


def _models(args: argparse.Namespace) -> int:
    text = models_command.answer(args, load_params(args))
    if text:
        print(text)
    return ExitCode.OK


def _keys(args: argparse.Namespace) -> int:
    return keys_command.main(load_params(args), args)


def _explain(args: argparse.Namespace) -> int:
    from central import explain_command

    return explain_command.main(load_params(args), args)


def _doctor(args: argparse.Namespace) -> int:
    from central.doctor import examine

    findings = examine(load_params(args))
    for finding in findings:
        print(finding)
    return ExitCode.OK if all(finding.good for finding in findings) else ExitCode.FAILED


def _export(args: argparse.Namespace) -> int:
    from central.bootstrap import open_record
    from central.tabular import write_table

    if args.readings is None and args.dead_letters is None:
        raise ParamsError("export: nothing asked for; give --readings OUT or --dead-letters OUT")
    params = load_params(args)
    record = open_record(params)
    if args.readings is not None:
        write_table(record.readings(site=args.site, version=args.version), args.readings)
    if args.dead_letters is not None:
        write_table(record.dead_letters(site=args.site, root=params.mqtt.root), args.dead_letters)
    return ExitCode.OK
