"""What a full disk does to the small parts of central: stalls, the journal, whole files; and what waits to be said."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.journal import Journal
from central.stalls import PAUSES_S, Stall
from central.telemetry import CentralMetrics
from central.unsaid import Unsaid, due_between
from central.work import replace_text
from shared.messages import Desired
from tests.unit.rollout_desk import manifest

WALL = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """A disk that takes no longer files of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- stalls -----------------------------------------------------------------------------------------------------------


def test_a_stall_is_told_once_and_once_more_for_another_reason_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "central.stalls")
    metrics = CentralMetrics()
    gauge = metrics.stalled.labels("record")
    stall = Stall("record", metrics.stalled)
    assert not stall.passed()
    for reason in (
        "part-00000-29c63cdc.parquet: No space left",
        "part-00001-8eff0578.parquet: No space left",
        "denied",
    ):
        stall.failed(reason, 0.0)
    assert gauge._value.get() == 1
    assert stall.passed()
    assert gauge._value.get() == 0
    assert [record.message for record in caplog.records] == [*["cannot go on, trying again"] * 2, "goes on"]


def test_pauses_grow_to_half_a_minute_and_begin_anew_after_a_success() -> None:
    stall = Stall("journal")
    assert [stall.failed("no", 0.0) for _ in range(7)] == [*PAUSES_S, PAUSES_S[-1]]
    assert stall.holds(29.9)
    assert not stall.holds(30.0)
    stall.passed()
    assert not stall.holds(0.0)
    assert stall.failed("no", 0.0) == PAUSES_S[0]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_replaced_stays_and_half_of_the_new_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_text(path, "old")
    with no_file_above(1000), pytest.raises(OSError, match="File too large"):
        replace_text(path, "x" * 2000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_journal_of_a_full_disk_waits_and_has_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    journal.write("first", wall=WALL, event_us=None)
    with no_file_above(path.stat().st_size + 10):
        journal.write("second", wall=WALL, event_us=None)
        journal.write("third", wall=WALL, event_us=None)
        assert [line["event"] for line in lines(path)] == ["first"]
    time.sleep(PAUSES_S[0])
    journal.catch_up(WALL)
    assert [line["event"] for line in lines(path)] == ["first", "second", "third"]


def test_a_journal_that_waits_for_long_keeps_the_latest_and_says_how_many_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.journal.WAITING_AT_MOST", 2)
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    with no_file_above(0):
        for number in range(5):
            journal.write("event", wall=WALL, event_us=None, number=number)
    time.sleep(PAUSES_S[0])
    journal.catch_up(WALL)
    assert [(line["event"], line.get("lines"), line.get("number")) for line in lines(path)] == [
        ("lines lost", 3, None),
        ("event", None, 3),
        ("event", None, 4),
    ]


# -- what waits to be said --------------------------------------------------------------------------------------------


def desired(version: int) -> Desired:
    return Desired(champion=manifest(version))


def test_the_newest_is_said_in_the_place_of_the_older_and_what_changed_before_what_is_said_again() -> None:
    unsaid = Unsaid()
    for site in ("a", "b", "c"):
        unsaid.add(site, desired(1), again=True)
    unsaid.add("d", desired(2), again=False)
    unsaid.add("b", desired(2), again=False)
    unsaid.add("d", desired(3), again=True)
    assert [(site, told.champion.version) for site, told in unsaid.next(9) if told.champion is not None] == [
        ("d", 3), ("b", 2), ("a", 1), ("c", 1),
    ]  # fmt: skip
    assert [site for site, _ in unsaid.next(2)] == ["d", "b"]


def test_an_artifact_is_cleared_when_nobody_waits_and_not_when_it_is_wanted_again() -> None:
    unsaid = Unsaid()
    unsaid.add("a", desired(1), again=False)
    unsaid.clear("x", 3)
    unsaid.clear("y", 4)
    unsaid.keep("y")
    assert unsaid.clearances() == {}
    unsaid.said("a")
    assert unsaid.clearances() == {"x": 3}
    assert unsaid.clearances() == {}


@given(hours=st.lists(st.floats(0, 400), min_size=2, max_size=20).map(sorted))
def test_whatever_the_looks_each_name_is_due_once_a_period(hours: list[float]) -> None:
    names = [f"s{number}" for number in range(20)]
    looks = [WALL + timedelta(hours=hour) for hour in hours]
    due = [name for before, now in pairwise(looks) for name in due_between(names, before, now, WEEK)]
    rounds = (looks[-1] - looks[0]) / WEEK
    for name in names:
        assert due.count(name) <= int(rounds) + 1
        if max(now - before for before, now in pairwise(looks)) < WEEK:
            assert due.count(name) >= int(rounds)


def test_moments_are_spread_over_the_period() -> None:
    names = [f"site-{number}" for number in range(700)]
    days = [len(due_between(names, WALL + day * WEEK / 7, WALL + (day + 1) * WEEK / 7, WEEK)) for day in range(7)]
    assert sum(days) == 700
    assert min(days) > 70
