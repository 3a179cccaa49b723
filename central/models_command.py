"""The arguments of `central models` and what each leads to; heavy modules are imported when one is asked for."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final, cast

from central.rollout_events import Verb
from shared.clock import wall_now
from shared.params import Params

DESCRIPTION: Final = (
    "A model that a training accepted goes to canary sites first, then in stages to the whole fleet, each watched for "
    "a time (parameters `rollout.*`). Sites that refuse it, or live forecasts worse than its predecessor's, take it "
    "back at once. Orders are left for a running `central run`, which follows them within seconds."
)
_ORDERS: Final[dict[Verb, tuple[str, str]]] = {
    "approve": ("let a waiting version begin with its canary sites", "It waits because rollout.approval is manual."),
    "reject": ("give up a version that waits", "It is never rolled out; one on its way is stopped or rolled back."),
    "promote": (
        "let a version go to the whole fleet now",
        "Whatever its gates say; it is still watched and taken back.",
    ),
    "pause": ("let no stage begin", "The version on its way stays where it is, and is still taken back if it must be."),
    "resume": ("go on after pause or stop", ""),
    "stop": ("emergency: take the version on its way back now", "Nothing is rolled out any more until `resume`."),
    "rollback": (
        "take back the version on its way, or else the fleet's",
        "Sites get what they ran before, or the version that --to names, signed as a step back. Later models roll out.",
    ),
}
_OF_A_VERSION: Final = ("approve", "reject", "promote")


def add_arguments(models: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Give `models` its commands; `common` holds the options of every command, nested."""
    models.description = DESCRIPTION
    models.add_argument("--json", action="store_true", help="print JSON")
    models.add_argument("--nice", action="store_true", help=argparse.SUPPRESS)
    models.set_defaults(command_of_models="list")
    what = models.add_subparsers(title="what", metavar="WHAT")
    listed = what.add_parser("list", parents=[common], help="accepted models, newest last (the default)")
    show = what.add_parser("show", parents=[common], help="one version: training, rollout, and what each site says")
    show.add_argument("version", type=int, metavar="VERSION")
    for parser, name in ((listed, "list"), (show, "show")):
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        parser.set_defaults(command_of_models=name)
    for verb, (text, more) in _ORDERS.items():
        _add_order(what, common, verb, text, more)
    _add_errands(what, common)


def answer(args: argparse.Namespace, params: Params) -> str:
    """Carry out what was asked for; returns what to print, empty for the errands of `run`."""
    from central import models

    if args.nice:
        os.nice(10)
    match args.command_of_models:
        case "list":
            return models.listed(params, as_json=args.json, wall=wall_now())
        case "show":
            return models.shown(params, args.version, as_json=args.json)
        case "aliases":
            models.aliases(params, *args.versions)
        case "prepare":
            models.prepare(params)
        case verb:
            version, to = getattr(args, "version", None), getattr(args, "to", None)
            return models.order(params, cast("Verb", verb), version, to, wall=wall_now())
    return ""


def _add_order(what: Any, common: argparse.ArgumentParser, verb: Verb, text: str, more: str) -> None:
    parser = what.add_parser(
        verb, parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip()
    )
    if verb in _OF_A_VERSION:
        parser.add_argument("version", type=int, metavar="VERSION")
    if verb == "rollback":
        parser.add_argument(
            "--to",
            type=int,
            metavar="VERSION",
            help="a version that was accepted here and is older than the newest that was rolled out",
        )
    parser.set_defaults(command_of_models=verb)


def _add_errands(what: Any, common: argparse.ArgumentParser) -> None:
    """What `run` has another process do at the registry; not for people, and not in the list."""
    aliases = what.add_parser("aliases", parents=[common], description="Set the registry's aliases; 0 for none.")
    aliases.add_argument("versions", type=int, nargs=3, metavar=("CHAMPION", "CHALLENGER", "CANDIDATE"))
    prepare = what.add_parser("prepare", parents=[common], description="Create MLflow's store, if need be.")
    errands: tuple[tuple[str, argparse.ArgumentParser], ...] = (("aliases", aliases), ("prepare", prepare))
    for name, parser in errands:
        parser.add_argument("--nice", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.set_defaults(command_of_models=name)
