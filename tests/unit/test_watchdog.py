"""The watchdog: what takes too long is stopped, by the processor time of its own thread; nothing else is."""

import threading
import time

from edge.watchdog import Watchdog
from tests.waiting import PATIENCE_S


def _burn(seconds: float, until: threading.Event | None = None) -> float:
    """Take so much processor time of this thread, or less when told; returns what was taken."""
    began_s = time.thread_time()
    while (taken_s := time.thread_time() - began_s) < seconds and not (until and until.is_set()):
        pass
    return taken_s


def test_what_takes_too_long_is_stopped_soon() -> None:
    stop, began_s = threading.Event(), time.thread_time()
    with Watchdog().over(0.05, stop.set):
        assert _burn(60, stop) < 30
    assert time.thread_time() - began_s >= 0.05


def test_what_is_done_in_time_is_not_stopped_afterwards() -> None:
    watchdog, stop = Watchdog(), threading.Event()
    for _ in range(20):
        with watchdog.over(0.2, stop.set):
            _burn(0.001)
    assert not stop.wait(0.5)


def test_a_run_that_waits_for_the_machine_is_not_stopped() -> None:
    stop = threading.Event()
    with Watchdog().over(0.1, stop.set):
        time.sleep(0.4)
    assert not stop.is_set()


def test_a_short_run_is_stopped_while_the_watcher_sleeps_for_a_long_one() -> None:
    watchdog, long, short = Watchdog(), threading.Event(), threading.Event()
    with watchdog.over(600, long.set):
        time.sleep(0.02)
        with watchdog.over(0.05, short.set):
            _burn(60, short)
    assert short.is_set()
    assert not long.is_set()


def test_runs_of_two_threads_are_told_apart() -> None:
    watchdog, busy, idle = Watchdog(), threading.Event(), threading.Event()

    def wait_for_the_other() -> None:
        with watchdog.over(0.05, idle.set):
            busy.wait(PATIENCE_S)

    waiting = threading.Thread(target=wait_for_the_other)
    waiting.start()
    with watchdog.over(0.05, busy.set):
        _burn(60, busy)
    waiting.join()
    assert busy.is_set()
    assert not idle.is_set()


def test_one_thread_watches_all() -> None:
    watchdog, before = Watchdog(), _watchers()
    for _ in range(50):
        with watchdog.over(60, lambda: None):
            pass
    assert len(_watchers() - before) == 1


def _watchers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "watchdog"}
