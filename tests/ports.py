"""Ports of 127.0.0.1 for brokers and metrics, which nobody takes between the choice and the use, or over a restart.

Two things would: a test of another process, and the system, which draws the ports of outgoing connections from a range
of its own; a client that tries to reach a broker that is down may even be given the broker's port, and meet itself.

Invariants: ports lie below that range; each process of tests on this machine has a block of its own, held by a lock
that ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

_FIRST: Final = 12_000
_PORTS_OF_A_BLOCK: Final = 300
_BLOCKS: Final = 60  # up to port 30,000; Linux draws from 32,768 on, others from 49,152 on


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on; it stays free until the block has been gone through."""
    return next(port for port in _ports() if _is_free(port))


@cache
def _ports() -> Iterator[int]:
    """The ports of this process's block, again and again."""
    return _around(_FIRST + _block() * _PORTS_OF_A_BLOCK)


def _around(first: int) -> Iterator[int]:
    while True:
        yield from range(first, first + _PORTS_OF_A_BLOCK)


def _block() -> int:
    """The first block that no living process has."""
    folder = Path(tempfile.gettempdir()) / f"metercast-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for number in range(_BLOCKS):
        lock = os.open(folder / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return number
    raise OSError("every block of ports is taken: too many test processes run on this machine")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
