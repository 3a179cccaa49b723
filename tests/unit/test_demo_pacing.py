"""The demo's pace: how far the replay may run."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.pacing import AHEAD_US, Pace, next_target
from demo.processes import STOP_WITHIN_S, DemoFailed, start
from shared.clock import DAY_US, to_us
from tests.unit.demo_run import SCENARIO, new_observer
from tests.waiting import PATIENCE_S

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_the_target_moves_a_day_in_the_seconds_of_a_day() -> None:
    assert next_target(0.0, elapsed_s=1.2, day_s=2.4, edge_us=DAY_US) == DAY_US / 2


@given(st.floats(0, 1e15), st.floats(0, 10), st.floats(0.1, 10), st.integers(0, 10**15))
def test_the_target_never_goes_back_and_never_runs_away_from_the_edge(
    target: float, elapsed_s: float, day_s: float, edge_us: int
) -> None:
    moved = next_target(target, elapsed_s=elapsed_s, day_s=day_s, edge_us=edge_us)
    assert moved >= target
    assert moved <= max(target, edge_us + AHEAD_US)


def test_a_replay_past_its_target_waits_and_still_ends_when_told(tmp_path: Path) -> None:
    observer = new_observer()
    replay = start("replay", SLEEPER, tmp_path, tmp_path)
    live_us = to_us(SCENARIO.live_from)
    pace = Pace(replay, observer, day_s=1.0, begins_us=live_us, training=lambda: False)
    observer.newest_us[0] = live_us + 2 * DAY_US
    pace.keep()
    assert pace.paused
    begun = time.monotonic()
    replay.stop()
    assert time.monotonic() - begun < STOP_WITHIN_S, "it was killed, since it did not end"
    assert not replay.running


def test_a_process_that_dies_is_named_with_the_last_it_said(tmp_path: Path) -> None:
    child = start("edge", [sys.executable, "-c", "print('no broker'); raise SystemExit(3)"], tmp_path, tmp_path)
    child.process.wait(PATIENCE_S)
    with pytest.raises(DemoFailed, match=r"edge: ended unexpectedly with code 3") as failure:
        child.require_running()
    assert failure.value.log_tail == "no broker"


def test_a_process_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    child = start("export", SLEEPER, tmp_path, tmp_path)
    with pytest.raises(DemoFailed, match="not done after"):
        child.wait(0.2)
    assert isinstance(child.process, subprocess.Popen)
    assert not child.running
