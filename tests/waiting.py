"""Waiting for what processes do: for the thing itself, never for so long.

No machine is fast: a limit here ends a test that hangs, and says nothing of how long a thing may take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")
PATIENCE_S: Final = 240.0  # hundreds of times what anything takes on a machine with nothing else to do
_TAIL_CHARS: Final = 2_000


def wait_for(
    condition: Callable[[], object],
    what: str,
    log: Path | None = None,
    within_s: float = PATIENCE_S,
    every_s: float = 0.01,
) -> None:
    """Wait until the condition holds; raises AssertionError with what it was and the end of a log."""
    until_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until_s:
            tail = log.read_text(errors="replace")[-_TAIL_CHARS:] if log and log.exists() else ""
            raise AssertionError(f"waited {within_s:g} s for {what}\n{tail}")
        time.sleep(every_s)


def found(look: Callable[[], T | None], what: str, log: Path | None = None) -> T:
    """What a look finds, once it finds something; raises AssertionError as `wait_for`."""
    seen: list[T] = []

    def looked() -> bool:
        thing = look()
        if thing is not None:
            seen.append(thing)
        return bool(seen)

    wait_for(looked, what, log)
    return seen[-1]


def all_pass(items: Iterable[T], passes: Callable[[T], bool]) -> Callable[[], bool]:
    """A condition that asks each of many items until it has passed once, and then no more."""
    left = list(items)[::-1]

    def condition() -> bool:
        while left and passes(left[-1]):
            left.pop()
        return not left

    return condition
