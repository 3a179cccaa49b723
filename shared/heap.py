"""What the C library keeps of memory that was freed, and how it is made to give it back (glibc; elsewhere nothing).

Light to import: a process that wants one heap says so before its libraries are loaded.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

_M_ARENA_MAX: Final = -8  # malloc.h


def share_one_heap() -> None:
    """Let all threads allocate from one heap: else each keeps what it freed where no other finds it.

    It counts for threads that start after it. Those here take turns anyway, as Python lets one run at a time.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give free pages inside the heap back to the system, in a millisecond or two: malloc by itself returns its end."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_the_c_library(name: str) -> Any:
    """A function of glibc; None where the C library is another, which has no such thing or means something else."""
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
