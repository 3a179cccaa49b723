"""What one transaction of the state database writes; the core fills it, the store carries it out.

Everything in it is absolute (a row's new content, never a difference), so that carrying it out twice is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.covariates import Key as CovariateKey
from edge.covariates import Row as CovariateRow
from edge.forms import Form
from edge.scoring import Issued
from edge.window import Ints

OutboxBatch = tuple[int, bytes]
ReadingRow = tuple[int, int, float, int]  # the meter's row, ts_us, value, number of its form


@dataclass(slots=True)
class Changes:
    """Rows to write, grouped as the store's tables are."""

    facts: dict[str, str] = field(default_factory=dict)
    meters: set[int] = field(default_factory=set)
    forms: list[tuple[int, Form]] = field(default_factory=list)
    readings: list[ReadingRow] = field(default_factory=list)
    closed: list[tuple[int, int, int]] = field(default_factory=list)
    issued: list[Issued] = field(default_factory=list)
    calibrated: list[tuple[int, Ints]] = field(default_factory=list)  # (source, rows) whose state has moved
    standing: set[int] = field(default_factory=set)
    covariates: list[CovariateRow] = field(default_factory=list)
    covariates_dropped: list[CovariateKey] = field(default_factory=list)
    arrivals: dict[int, bytes] = field(default_factory=dict)
    outbox: list[OutboxBatch] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(getattr(self, name) for name in self.__slots__)
