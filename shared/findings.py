"""What a doctor finds, in the same words on both sides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, and what to do when it is not good."""

    good: bool
    subject: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        """`ok subject: found` or `MEND subject: found → mend`."""
        return f"{'ok  ' if self.good else 'MEND'} {self.subject}: {self.found}" + (
            f" → {self.mend}" if self.mend else ""
        )
