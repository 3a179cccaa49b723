"""What `central models` shows of a rollout, and how it judges and leaves a person's orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from central import models
from central.rollout_events import Verb
from central.work import WorkFolder
from shared.errors import MetercastError
from shared.params import Params
from shared.refusals import Cause
from tests.unit.rollout_desk import Desk, refusal

WALL = datetime(2026, 1, 1, tzinfo=UTC)


class Counter:
    """A person at central's work folder, who gives an order a second."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        self.params = Params.model_validate({"central": {"work_dir": str(folder)}})
        self.work, self.desk, self.wall = WorkFolder(folder), desk, WALL
        self.save()

    def save(self) -> None:
        self.work.rollout.write_text(self.desk.state.model_dump_json(by_alias=True))

    def order(self, verb: Verb, version: int | None = None, to: int | None = None) -> str:
        self.wall += timedelta(seconds=1)
        return models.order(self.params, verb, version, to, wall=self.wall)

    def row(self, version: int) -> str:
        self.save()
        lines = models.listed(self.params, as_json=False).splitlines()
        return next(line for line in lines if line.startswith(str(version)))


def test_an_order_is_judged_as_if_those_left_before_it_were_followed(tmp_path: Path) -> None:
    counter = Counter(tmp_path, Desk(sites=1))
    counter.order("pause")
    with pytest.raises(MetercastError, match="the rollout is paused already"):
        counter.order("pause")
    counter.order("resume")
    counter.order("pause")
    assert [path.stem.split("-")[1] for path in sorted(counter.work.orders.iterdir())] == ["pause", "resume", "pause"]


def test_an_order_is_not_promised_when_no_run_is_there_to_follow_it(tmp_path: Path) -> None:
    counter = Counter(tmp_path, Desk(sites=1))
    assert counter.order("pause") == "the rollout is paused; that is, once `central run` is up again here"
    with counter.work.held():
        assert counter.order("resume") == "the rollout goes on; `central run` sees to it"
    assert not counter.work.is_held


def test_why_sites_do_not_take_a_model_stands_in_the_table_at_once(tmp_path: Path) -> None:
    desk = Desk(sites=2)
    counter = Counter(tmp_path, desk)
    desk.offer(1)
    desk.report("s0", None, refusal(1, Cause.NO_TRUSTED_KEYS))
    assert counter.row(1).endswith("no_trusted_keys (1)")
    desk.obey()
    assert "no_trusted_keys" not in counter.row(1)


def test_before_the_first_model_the_table_says_so_and_that_a_key_is_missing(tmp_path: Path) -> None:
    counter = Counter(tmp_path, Desk())
    _, none, key = models.listed(counter.params, as_json=False).splitlines()
    assert none == "no model was accepted yet"
    assert "`central keys new` makes one" in key


def test_a_champion_that_was_superseded_once_does_not_claim_to_serve_since_then(tmp_path: Path) -> None:
    desk = Desk(sites=1)
    counter = Counter(tmp_path, desk)
    desk.order("pause")
    desk.offer(1, 2)
    desk.order("resume")
    assert "2013-" in counter.row(1)
    desk.order("rollback", 2, target=1)
    assert desk.told(1)
    assert "2013-" not in counter.row(1)
