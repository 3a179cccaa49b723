"""The keys whose models this edge takes: which they are, and whether others may change them."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.errors import ParamsError
from shared.findings import Finding, note, ok, to_mend
from shared.trusted_keys import key_files, trusted_keys

SUBJECT: Final = "keys.trusted"


def examine(entries: Iterable[str]) -> list[Finding]:
    """What `keys.trusted` names."""
    entries = tuple(entries)
    try:
        keys = trusted_keys(entries)
    except ParamsError as error:
        told = str(error).removeprefix(f"{SUBJECT}: ")
        return [to_mend(SUBJECT, told, "put the lines there that `central keys list` prints; the edge does not start")]
    if not keys:
        return [
            note(
                SUBJECT,
                "no key is trusted: every model will be refused, and the other forecasts go on",
                "run `central keys new` at central, and put the line it prints into keys.trusted here",
            )
        ]
    trusted = ok(SUBJECT, f"models signed by {' or '.join(key.id for key in keys)} are taken")
    return [trusted, *(_changeable(path) for path in key_files(entries) if _mode(path) & 0o022)]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _changeable(path: Path) -> Finding:
    found = f"{path} can be changed by others than its owner (mode {_mode(path):04o}), who could add a key of theirs"
    return to_mend(SUBJECT, found, f"chmod go-w {shlex.quote(str(path))}, and look at what it holds")
