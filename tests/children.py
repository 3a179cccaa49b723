"""What a process holds of the system: its children and its open files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail the test when what is done inside leaves a process or an open file.

    What earlier tests left may go meanwhile: their forks' server stays, their sockets are closed when they are found.
    """
    children_before, files_before = children(), descriptors()
    yield
    assert children() <= children_before
    assert descriptors() <= files_before


def children(of: int | str = "self") -> set[int]:
    """Process ids of a process's children, zombies among them."""
    found: set[int] = set()
    for task in Path("/proc").glob(f"{of}/task/*"):
        with suppress(OSError):  # a thread may end while we look
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def descriptors() -> int:
    """How many files are open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
