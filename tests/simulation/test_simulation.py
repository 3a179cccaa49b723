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

from shared.memory import MemoryBroker
from shared.messages import Uplink
from tests.simulation.checks import LedgerBooks, Violation
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
