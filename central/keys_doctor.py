"""What is wrong with central's keys: told by `central doctor`, and logged at every start of `central run`."""

from __future__ import annotations

import logging
import shlex
import stat
from pathlib import Path
from typing import Final

from central.key_files import KeyFile
from central.keyring import MAKE_ONE, Held, Keyring
from shared.findings import Finding, note, ok, to_mend

log = logging.getLogger(__name__)

SUBJECT: Final = "keys"


def examine(keyring: Keyring) -> list[Finding]:
    """How many keys sign, who else may read them, and what lies about that should not."""
    held = keyring.held()
    return [_signing(keyring, held), *_exposed(keyring.folder, held), *_trouble(held), *_idle(held)]


def warn(keyring: Keyring) -> None:
    """Log what is to mend."""
    for finding in examine(keyring):
        if not finding.good:
            log.warning("keys to mend", extra={"found": finding.found, "mend": finding.mend})


def _signing(keyring: Keyring, held: Held) -> Finding:
    if held.active:
        ids = ", ".join(file.id for file in held.active)
        return ok(SUBJECT, f"models are signed by {ids}")
    found = f"{keyring.place}: no key signs, so no model goes out"
    return to_mend(SUBJECT, found, f"{MAKE_ONE}; put the line it prints into keys.trusted of the edges")


def _exposed(folder: Path, held: Held) -> list[Finding]:
    """Files and the folder that others may open; a key signs nevertheless (ADR 0021)."""
    found = [_mode(file.path, file.mode, "600") for file in _private(held) if file.exposed]
    mode = _mode_of(folder)
    return [*found, *([_mode(folder, mode, "700")] if mode & 0o022 else [])]


def _mode(path: Path, mode: int, right: str) -> Finding:
    found = f"{path} can be read or changed by others than its owner (mode {mode:04o})"
    mend = f"chmod {right} {shlex.quote(str(path))}; whoever may have read a key can sign: make another, retire this"
    return to_mend(SUBJECT, found, mend)


def _mode_of(folder: Path) -> int:
    try:
        return stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return 0


def _trouble(held: Held) -> list[Finding]:
    undead = [
        to_mend(
            SUBJECT, f"{file.path} still holds the private part of a retired key", f"`central keys retire {file.id}`"
        )
        for file in held.undead
    ]
    unusable = [to_mend(SUBJECT, sentence, "put the right file there, or remove it") for sentence in held.unusable]
    return undead + unusable


def _idle(held: Held) -> list[Finding]:
    if not held.idle:
        return []
    ids = ", ".join(file.id for file in held.idle)
    return [note(SUBJECT, f"{ids} do not sign: keys.private names another file", "retire them, or unset keys.private")]


def _private(held: Held) -> tuple[KeyFile, ...]:
    return (*held.active, *held.idle, *held.undead)
