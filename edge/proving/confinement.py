"""What the process that tries a model out gives up before it sees a byte of the artifact.

Invariants: nothing here needs a privilege, and nothing can be taken back; what a system lacks is left out, since the
edge watches from outside as well.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

LOAD_SECONDS: Final = 10  # processor time that parsing, loading and golden rows may take together
NICENESS: Final = 10
_SPARE_BYTES: Final = 67_108_864  # of address space, for what is mapped and never held
_PR_SET_PDEATHSIG: Final = 1


def give_up_what_is_not_needed(parent: int) -> None:
    """Yield to the edge, leave no core and no file, and end with the thread of process `parent` that began this one."""
    os.nice(NICENESS)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _be_the_first_to_go()
    if os.getppid() != parent:
        raise EOFError("the edge is gone")


def only_answer_on(stream: BinaryIO) -> BinaryIO:
    """A stream to where `stream` goes, which nothing else can write to: a library that prints goes unheard."""
    answer = os.fdopen(os.dup(stream.fileno()), "wb")
    os.dup2(2, stream.fileno())
    return answer


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process holds, from when it is given the artifact on.

    Not from its start: interpreter and libraries are the same for every model. Not `ru_maxrss`: that begins with what
    the edge held when it started this process.
    """

    status: int  # descriptor of the kernel's account; −1 where there is none
    before: int

    @classmethod
    def begin(cls) -> Memory:
        """Look now."""
        if not Path("/proc/self/status").exists():
            return cls(-1, _peak_of_usage())
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        return cls(status, _account(status, b"VmRSS:"))

    def peak(self) -> int:
        """Most bytes held at once since, beyond those before."""
        peak = _peak_of_usage() if self.status < 0 else _account(self.status, b"VmHWM:")
        return max(0, peak - self.before)

    def limit(self, memory_bytes: int) -> None:
        """Let no more than so much more be mapped: what asks for it fails, or dies."""
        if self.status >= 0:
            _limit(resource.RLIMIT_AS, _account(self.status, b"VmSize:") + memory_bytes + _SPARE_BYTES)


def limit_time(seconds: float) -> None:
    """End this process when it takes more processor time than loading and two full batches of `seconds` may."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + LOAD_SECONDS + 2 * seconds), spare=2)


def open_nothing_more(memory: Memory) -> None:
    """No file, no socket, no directory from here on: whatever a graph names, there is no way to it."""
    _limit(resource.RLIMIT_NOFILE, 0 if memory.status < 0 else memory.status + 1)


def _limit(what: int, most: int, *, spare: int = 0) -> None:
    hard = resource.getrlimit(what)[1]
    wanted = most + spare
    hardest = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(what, (min(most, hardest), hardest))


def _be_the_first_to_go() -> None:
    """Where the system runs out of memory, it is this process that it ends, not the edge."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return


def _account(status: int, key: bytes) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in os.pread(status, 8192, 0).splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _peak_of_usage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
