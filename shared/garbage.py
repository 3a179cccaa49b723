"""How often Python looks for reference cycles in a process that holds much and makes hardly any."""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 50_000  # Python's own 700 has it look hundreds of times while one state is loaded


def collect_rarely() -> None:
    """Look through new objects by the fifty thousand, and through all of them seldom; counted references go at once."""
    gc.set_threshold(_NEW_OBJECTS, 20, 100)
