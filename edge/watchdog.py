"""One thread of the process that stops what takes too long.

A run is judged by the processor time of its own thread: a machine that is overloaded or asleep is no fault of a model.

Invariants: a run that ends in time is never stopped; arming costs no thread and no system call but the waking of a
watcher that sleeps too long; the watcher sleeps without a time-out when there is nothing to watch.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final


@dataclass(eq=False, slots=True)
class _Watched:
    clock: int
    until_s: float  # on that clock
    stop: Callable[[], None]

    def left_s(self) -> float:
        """What it may still take; at least that long by the wall, too."""
        return self.until_s - time.clock_gettime(self.clock)


class Watchdog:
    """Calls `stop` of whatever takes longer than it may; its thread begins with the first thing to watch."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._watched: set[_Watched] = set()
        self._wakes_at_s = -math.inf  # monotonic; −inf: it runs and will look by itself
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, seconds: float, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop`, from another thread, once what is done inside has taken `seconds` of processor time."""
        clock = _clock_of_this_thread()
        watched = _Watched(clock, time.clock_gettime(clock) + seconds, stop)
        with self._changed:
            self._watched.add(watched)
            self._watch_from(time.monotonic() + seconds)
        try:
            yield
        finally:
            with self._changed:
                self._watched.discard(watched)

    def _watch_from(self, due_s: float) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        elif due_s < self._wakes_at_s:
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                left_s = {watched: watched.left_s() for watched in self._watched}
                for watched in [each for each, left in left_s.items() if left <= 0]:
                    watched.stop()
                    self._watched.discard(watched)
                sleep_s = _sleep_s(left_s.values())
                self._wakes_at_s = math.inf if sleep_s is None else time.monotonic() + sleep_s
                self._changed.wait(sleep_s)


WATCHDOG: Final = Watchdog()
_SHORTEST_S: Final = 0.001  # a run that is about to be due and does not get on is not waited for by spinning


def _sleep_s(left_s: Iterable[float]) -> float | None:
    """Until one may be due; None when there is nothing to watch."""
    soonest = min((left for left in left_s if left > 0), default=None)
    return None if soonest is None else min(max(soonest, _SHORTEST_S), threading.TIMEOUT_MAX)


def _clock_of_this_thread() -> int:
    of_thread = getattr(time, "pthread_getcpuclockid", None)  # not on every POSIX system
    clock: int = time.CLOCK_MONOTONIC if of_thread is None else of_thread(threading.get_ident())
    return clock
