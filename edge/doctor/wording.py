"""Sizes, durations and lists as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SIZES: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SPANS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))
NAMED_AT_MOST: Final = 3


def size(count: float) -> str:
    """Bytes with a unit: 512 B, 3.4 MiB, 256 MiB."""
    for unit, many in _SIZES:
        if count >= many:
            return f"{count / many:.0f} {unit}" if count >= 10 * many else f"{count / many:.1f} {unit}"
    return f"{count:.0f} B"


def span(seconds: float) -> str:
    """A duration in one unit: 12 ms, 34 s, 5 min, 3 h, 12 d."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, many in _SPANS:
        if seconds >= 2 * many:
            return f"{seconds / many:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(count: int, noun: str) -> str:
    """1 meter, 2,000 meters."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def some_of(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    told = ", ".join(names[:NAMED_AT_MOST])
    return f"{told} and {more:,} more" if more > 0 else told
