"""Every fault, short: nothing lost, nothing counted twice, intervals as without it. `make soak` plays them long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import Stage
from tests.faults.scenarios import play

SEED = 1


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One broker and one central for all faults; each has a site of its own."""
    running = Stage(tmp_path_factory.mktemp("faults"))
    try:
        running.start("none")
        yield running
    finally:
        running.stop()


def _survives(fault: str, stage: Stage) -> None:
    outcome = play(fault, SEED, stage, long=False)
    assert outcome.readings > 0
    replay = f"python -m tests.faults --short --replay {fault} {SEED}"
    assert outcome.verdict.sound, f"{outcome.verdict}\n{outcome.notes}\nreplay: {replay}"


def test_an_edge_killed_at_twenty_random_instants_loses_nothing_and_counts_nothing_twice(stage: Stage) -> None:
    _survives("edge-killed", stage)


def test_a_killed_broker_that_remembers_a_second_ago_costs_nothing_the_edge_acknowledged(stage: Stage) -> None:
    _survives("broker-killed", stage)


def test_a_killed_broker_that_forgets_everything_costs_nothing_the_edge_acknowledged(stage: Stage) -> None:
    _survives("forgetful-broker-killed", stage)


def test_hours_of_event_time_without_the_broker_are_made_up_for(stage: Stage) -> None:
    _survives("broker-unreachable", stage)


def test_a_cut_to_central_stops_no_forecast_and_what_waited_is_recorded_once(stage: Stage) -> None:
    _survives("central-unreachable", stage)


def test_a_disk_that_answers_late_holds_back_acknowledgements_and_nothing_else(stage: Stage) -> None:
    _survives("disk-slow", stage)


def test_a_full_disk_stops_acknowledgements_is_told_and_is_recovered_from(stage: Stage) -> None:
    _survives("disk-full", stage)


def test_a_wall_clock_that_jumps_changes_no_interval_and_clears_no_forecast(stage: Stage) -> None:
    _survives("clock-jumps", stage)


def test_a_flood_of_ten_times_what_the_edge_takes_is_taken_in_bounded_memory(stage: Stage) -> None:
    _survives("flood", stage)


def test_a_meter_that_sends_garbage_at_full_rate_is_answered_in_few_rows_beside_timely_good_meters(
    stage: Stage,
) -> None:
    _survives("garbage-meter", stage)


def test_ten_thousand_invented_meters_are_refused_in_few_rows_beside_timely_good_meters(stage: Stage) -> None:
    _survives("many-ids", stage)


def test_the_page_on_faults_names_every_test_here_and_none_that_is_nowhere() -> None:
    root = Path(__file__).parents[2]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "faults.md").read_text()))
    everywhere = "".join(file.read_text() for file in (root / "tests").rglob("test_*.py"))
    assert {name for name in globals() if name.startswith("test_") and "_page_" not in name} <= named
    assert named <= set(re.findall(r"^def (test_\w+)", everywhere, re.MULTILINE))
