"""What a doctor finds, in the same words on both sides, for people and for scripts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Grade(StrEnum):
    """How good what was found is; only `MEND` makes a doctor's command fail."""

    OK = "ok"
    MEND = "mend"
    NOTE = "note"  # it cannot be known from here, or it is worth knowing


_LABELS: Final = {Grade.OK: "ok", Grade.MEND: "MEND", Grade.NOTE: "?"}
_COLOURS: Final = {Grade.OK: "32", Grade.MEND: "1;31", Grade.NOTE: "33"}
_LABEL_COLUMNS: Final = 6
_LEAST_COLUMNS: Final = 40


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, and what to do about it.

    Invariants: what has to be mended says how; what is ok asks for nothing.
    """

    grade: Grade
    subject: str
    found: str
    mend: str = ""

    def __post_init__(self) -> None:
        if bool(self.mend) != (self.grade is Grade.MEND) and self.grade is not Grade.NOTE:
            raise ValueError(f"{self.subject}: {self.grade} {'with' if self.mend else 'without'} a mend")

    @property
    def good(self) -> bool:
        """Whether nothing has to be mended."""
        return self.grade is not Grade.MEND

    def __str__(self) -> str:
        """`ok   subject: found`, or `MEND subject: found → mend`."""
        told = f"{_LABELS[self.grade]:<4} {self.subject}: {self.found}"
        return f"{told} → {self.mend}" if self.mend else told


def ok(subject: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(Grade.OK, subject, found)


def to_mend(subject: str, found: str, mend: str) -> Finding:
    """It is wrong, and this is what to do."""
    return Finding(Grade.MEND, subject, found, mend)


def note(subject: str, found: str, mend: str = "") -> Finding:
    """It cannot be known from here, or it is worth knowing."""
    return Finding(Grade.NOTE, subject, found, mend)


def as_text(findings: Sequence[Finding], *, columns: int = 100, colours: bool = False) -> str:
    """Aligned lines, each mend below what it mends, and a count of each grade at the end."""
    indent = _LABEL_COLUMNS + max((len(finding.subject) for finding in findings), default=0) + 2
    width = max(columns, indent + _LEAST_COLUMNS)
    lines = [line for finding in findings for line in _lines(finding, indent, width, colours=colours)]
    return "\n".join([*lines, "", _count(findings)])


def as_json(findings: Iterable[Finding]) -> str:
    """A JSON list of `grade` (ok, mend, note), `subject`, `found` and `mend`."""
    rows = [{"grade": one.grade, "subject": one.subject, "found": one.found, "mend": one.mend} for one in findings]
    return json.dumps(rows, ensure_ascii=False, indent=1)


def _lines(finding: Finding, indent: int, width: int, *, colours: bool) -> list[str]:
    label = f"{_LABELS[finding.grade]:<{_LABEL_COLUMNS}}"
    head = f"{label}{finding.subject:<{indent - _LABEL_COLUMNS}}"
    lines = textwrap.wrap(head + finding.found, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    if colours:
        lines[0] = f"\x1b[{_COLOURS[finding.grade]}m{lines[0][:_LABEL_COLUMNS]}\x1b[0m{lines[0][_LABEL_COLUMNS:]}"
    if finding.mend:
        arrow, below = " " * indent + "→ ", " " * (indent + 2)
        lines += textwrap.wrap(
            finding.mend, width, initial_indent=arrow, subsequent_indent=below, break_on_hyphens=False
        )
    return lines


def _count(findings: Sequence[Finding]) -> str:
    counts = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    return f"{counts[Grade.MEND]} to mend, {counts[Grade.NOTE]} to know, {counts[Grade.OK]} ok"
