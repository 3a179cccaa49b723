"""`central keys new|list|retire`: make, show and destroy the keys that sign models.

As JSON a key is `id, created, retired, state, public, file`: state is active, idle (it would sign if `keys.private`
named no other file), elsewhere (made with --out, signs once keys.private names it) or retired; `public` is the text
for keys.trusted; `file` holds the private part and is null for a retired one, whose `retired` says when.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from central.key_files import KeyFile, RetiredKey
from central.keyring import MAKE_ONE, VALID, Keyring
from central.work import WorkFolder
from shared.clock import wall_now
from shared.errors import ExitCode
from shared.params import Params

Row: TypeAlias = dict[str, str | None]

COLUMNS: Final = ("id", "state", "created", "retired", "public", "file")
ABOUT: Final = (
    "Keys sign the models that go out; an edge takes none but those signed by a key of its keys.trusted. What is made "
    "or retired counts at once, also for a `central run` that is up."
)
ROTATE: Final = (
    "To change keys without a gap: make a new one, trust both at every edge, retire the old one, and take it out of "
    "keys.trusted. Where keys.private names the key: make the new one with --out, let keys.private name it once it is "
    "trusted, and retire the old one by its file."
)
NEW: Final = (
    "Make a key, readable by its owner only, in the folder `keys` of central.work_dir, or the very file that "
    "keys.private names; a file that is there already is never written over. " + ROTATE
)
RETIRE: Final = (
    "Destroy the private part of a key for good: it signs no more, whatever backup is put back. Its public line stays "
    "in the list, with the date. Edges accept what it has signed until that ends, "
    f"{VALID.days} days at most, or until they trust it no more. " + ROTATE
)
FORCE: Final = "also when it is the last key that signs: no model goes out until there is another"


def add_to(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    nested: argparse.ArgumentParser,
    *,
    run: Callable[[argparse.Namespace], int],
) -> None:
    """Add the command with its three verbs; without one it lists."""
    keys = commands.add_parser(
        "keys", parents=[common], help="make, list or retire the keys that sign models", description=ABOUT
    )
    keys.add_argument("--json", action="store_true", help="print JSON")
    keys.set_defaults(command=run, verb="list")
    verbs = keys.add_subparsers(title="what", metavar="WHAT")
    new = _verb(verbs, nested, "new", "make a key and print the line that edges trust", NEW)
    new.add_argument("--out", type=Path, metavar="FILE", help="make this file; it signs once keys.private names it")
    _verb(verbs, nested, "list", "all keys, retired ones last (the default)", ABOUT)
    retire = _verb(verbs, nested, "retire", "destroy a private key; its public line stays in the list", RETIRE)
    retire.add_argument("id", metavar="ID", help="the key's id, the beginning of it, or the file of its private part")
    retire.add_argument("--force", action="store_true", help=FORCE)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    nested: argparse.ArgumentParser,
    name: str,
    what: str,
    about: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, parents=[nested], help=what, description=about)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.set_defaults(verb=name)
    return parser


def main(params: Params, args: argparse.Namespace) -> int:
    """Do what is asked and print it on standard output. Raises MetercastError in a sentence."""
    keyring = Keyring.of(params, WorkFolder(params.central.work_dir))
    match args.verb:
        case "new":
            row = _made(keyring, keyring.new(wall_now(), out=args.out))
            text = made_text(row)
        case "retire":
            row = _retired(keyring.retire(args.id, wall_now(), force=args.force))
            text = retired_text(row)
        case _:
            sys.stdout.write(f"{listed(keyring, as_json=args.json)}\n")
            return ExitCode.OK
    sys.stdout.write(f"{json.dumps(row, indent=1) if args.json else text}\n")
    return ExitCode.OK


def listed(keyring: Keyring, *, as_json: bool) -> str:
    """Every key, as a table or JSON: those that sign, idle ones, retired ones."""
    held = keyring.held()
    rows = [_row(file, "active") for file in held.active] + [_row(file, "idle") for file in held.idle]
    rows += [_retired(key) for key in held.retired]
    if as_json:
        return json.dumps(rows, indent=1)
    told = "" if held.active else f"no key signs, so no model goes out: {MAKE_ONE}"
    return "\n".join(line for line in (_table(rows) if rows else "", told) if line)


def made_text(row: Row) -> str:
    """What there is now, and what to do at the edges."""
    lines = [
        f"made key {row['id']} in {row['file']}",
        "",
        f"  {row['public']}",
        "",
        "Put that line into keys.trusted of every edge that takes models from here, beside those that are there:",
        "",
        f'  keys: {{trusted: ["{row["public"]}"]}}',
    ]
    if row["state"] == "elsewhere":
        lines += ["", f"Central signs with it once keys.private is {row['file']}."]
    return "\n".join(lines)


def retired_text(row: Row) -> str:
    """What is gone, and what is left to do at the edges."""
    return (
        f"retired key {row['id']}: its private part is destroyed\n"
        "Take its line out of keys.trusted of every edge; up to then an edge accepts what it has signed, "
        f"for {VALID.days} days at most:\n\n  {row['public']}"
    )


def _made(keyring: Keyring, file: KeyFile) -> Row:
    active = {one.id for one in keyring.held().active}
    return _row(file, "active" if file.id in active else "elsewhere")


def _row(file: KeyFile, state: str) -> Row:
    return {
        "id": file.id,
        "created": file.created,
        "retired": None,
        "state": state,
        "public": str(file.key.trusted),
        "file": str(file.path),
    }


def _retired(key: RetiredKey) -> Row:
    return {
        "id": key.id,
        "created": key.created,
        "retired": key.retired,
        "state": "retired",
        "public": key.public,
        "file": None,
    }


def _table(rows: list[Row]) -> str:
    lines = [list(COLUMNS), *([row[name] or "–" for name in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
