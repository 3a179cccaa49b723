"""The whole system under every fault at once, seed after seed.

After every step of every seed `tests.simulation.checks` holds the world against the invariants: nothing acknowledged to
a meter is anywhere but on disk or in the record (1), nothing is counted twice (2); and when all has come to rest, that
all owed is in the record and intervals equal a clean delivery's bit for bit (2), that meters have their forecast (4),
and that wrong input was answered (6).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from shared.clock import DAY_US, HOUR_US
from shared.memory import MemoryBroker
from shared.messages import Uplink
from shared.topics import SiteTopics
from tests.simulation.checks import Books, LedgerBooks, Violation
from tests.simulation.run import failure_of
from tests.simulation.world import FAULTS, World

SEEDS_A_TEST: Final = 10


@pytest.mark.parametrize("first", range(0, 150, SEEDS_A_TEST))
def test_invariants_1_2_4_and_6_nothing_lost_nothing_twice_always_a_forecast_wrong_input_answered(first: int) -> None:
    failures = [found for seed in range(first, first + SEEDS_A_TEST) if (found := failure_of(seed))]
    assert not failures, "\n".join(failures)


def test_a_seed_gives_the_same_course_each_time(tmp_path: Path) -> None:
    courses: list[list[str]] = [[], []]
    for number, course in enumerate(courses):
        World(11, tmp_path / str(number), course.append).run()
    assert courses[0] == courses[1]
    assert len(courses[0]) > 100


def test_seeds_meet_every_fault_and_also_do_without_it(tmp_path: Path) -> None:
    known = [World(seed, tmp_path / str(seed)).faults for seed in range(60)]
    for fault in FAULTS:
        met = sum(fault in faults for faults in known)
        assert 5 < met < 55, fault


def test_a_failing_seed_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBroker, "publish", lambda *_given, **_more: None)  # a broker that loses everything
    assert "replay with: python -m tests.simulation --replay 3" in str(failure_of(3))


def test_the_ledgers_books_refuse_a_number_used_for_two_contents() -> None:
    books = LedgerBooks()
    first = Uplink(site="s", epoch="e", seq=1, at="2026-01-05T00:00:00Z", kinds={"other": {"a": [1]}})
    books.send(first.compress())
    books.send(first.compress())
    with pytest.raises(Violation, match="another content"):
        books.send(first.model_copy(update={"kinds": {"other": {"a": [2]}}}).compress())


def _batch(seq: int, value: float, received_us: int) -> Uplink:
    row = {"meter_id": "m1", "ts_us": 0, "value": value, "unit": "kW", "kind": "power", "period_s": None}
    columns = {name: [cell] for name, cell in (row | {"quality": "ok", "received_us": received_us}).items()}
    return Uplink(site="s", epoch="e", seq=seq, at="2026-01-05T00:00:00Z", kinds={"readings": columns})


@pytest.mark.parametrize("corrected_us", [HOUR_US, 365 * DAY_US])
def test_the_books_tell_a_value_that_comes_back_after_a_correction_from_one_that_is_counted_twice(
    corrected_us: int,
) -> None:
    """Also when a clock that ran ahead took the correction of an open interval for late."""
    books = Books(topics=SiteTopics("metercast", "s"), lateness_us=6 * HOUR_US, reach_us=HOUR_US)
    books.published.update(("reading", "m1", 0, value) for value in (1.0, 2.0))
    for number, (value, received_us) in enumerate([(1.0, HOUR_US), (2.0, corrected_us), (1.0, HOUR_US)], start=1):
        books.enter(_batch(number, value, received_us))
    with pytest.raises(Violation, match="counted twice"):
        books.enter(_batch(4, 1.0, HOUR_US))
