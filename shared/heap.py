"""What the C library keeps of memory that was freed, and how it is made to give it back (glibc; elsewhere nothing).

Light to import: a process that wants one heap says so before its libraries are loaded.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

# From malloc.h. One heap for all threads: else each keeps what it freed where no other finds it, and they take turns
# anyway, as Python lets one run at a time. What is larger than MAPPED_FROM_BYTES (a round's features, a model's file)
# goes back the moment it is freed. Arrays that come and go within a block of features are far smaller: fresh pages for
# each of them would cost a third of a round's time, and so would a heap whose end was given back each time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MAPPED_FROM_BYTES: Final = 3_145_728
FREE_END_BYTES: Final = 33_554_432


def keep_little() -> None:
    """Have the heap keep little of what is freed. It counts for threads and allocations that come after it."""
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, FREE_END_BYTES)


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
