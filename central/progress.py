"""How far long work has come, told on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

_TELL_EVERY_S: Final = 5.0

Say = Callable[[str], None]


def teller(command: str) -> Say:
    """Return what tells a sentence of this command at once."""

    def say(sentence: str) -> None:
        sys.stderr.write(f"{command}: {sentence}\n")
        sys.stderr.flush()

    return say


class Counted:
    """Tells how many of `total` windows are forecast, every few seconds at most."""

    def __init__(self, total: int, say: Say) -> None:
        self._total = total
        self._say = say
        self._told_s = time.monotonic()

    def __call__(self, done: int) -> None:
        """So many are done."""
        if done == self._total or time.monotonic() - self._told_s > _TELL_EVERY_S:
            self._told_s = time.monotonic()
            self._say(f"forecast {done} of {self._total} windows")
