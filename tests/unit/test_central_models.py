"""What `central models` shows of a rollout, and how it judges and leaves a person's orders."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from central import models
from central.next_model import Trained, next_model
from central.rollout_events import Verb
from central.trainings import Result, Training
from central.work import WorkFolder, replace_bytes
from shared.clock import duration_us, iso
from shared.errors import MetercastError
from shared.params import Params, TrainingParams
from shared.refusals import Cause
from tests.unit.rollout_desk import START_US, Desk, manifest, refusal

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
        lines = models.listed(self.params, as_json=False, wall=WALL).splitlines()
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
    _, none, following, key = models.listed(counter.params, as_json=False, wall=WALL).splitlines()
    assert none == "no model was accepted yet"
    assert following == (
        "the next model comes with a training, which starts once half of the meters have training.min_history of "
        "readings; `central train` makes one now"
    )
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


def stopped(folder: Path) -> Counter:
    """Version 2 was stopped, the newest that was told; 1 serves."""
    desk = Desk(sites=2)
    counter = Counter(folder, desk)
    for version in (1, 2):
        training = Training(counter.work.trainings / f"2013-{version}")
        training.folder.mkdir(parents=True)
        training.begin("drift", START_US)
        made: dict[str, Any] = {"reasons": [], "started_at": iso(START_US), "until": iso(START_US)}
        known = manifest(version)
        replace_bytes(counter.work.artifact(known.sha256), b"")
        training.finish(
            Result(id=training.id, reason="drift", outcome="accepted", version=version, manifest=known, **made)
        )
        training.take()
    desk.settle(1)
    desk.offer(2)
    desk.obey()
    counter.save()
    return counter


def test_who_stops_a_version_is_told_that_it_is_over_and_what_brings_the_next(tmp_path: Path) -> None:
    following = (
        "the next model comes with a training, which starts when forecasts drift, or at 2013-04-01T00:00:00Z by age "
        "(training.every); `central train` makes one now"
    )
    assert stopped(tmp_path).order("stop").splitlines() == [
        "the rollout is stopped; that is, once `central run` is up again here",
        "version 2 does not go out again by itself",
        "until `central models resume` nothing goes out",
        following,
    ]


@pytest.mark.parametrize(("verb", "version", "to"), [("promote", 2, None), ("approve", 2, None), ("rollback", None, 2)])
def test_who_wants_a_stopped_version_back_is_told_what_to_do(
    tmp_path: Path, verb: Verb, version: int | None, to: int | None
) -> None:
    counter = stopped(tmp_path)
    counter.desk.order("stop")
    counter.save()
    with pytest.raises(MetercastError, match="it was stopped and does not go out again: `central train` makes a newer"):
        counter.order(verb, version, to)
    assert "`central train` makes one now" in models.listed(counter.params, as_json=False, wall=WALL)


def test_a_version_that_was_overtaken_may_be_gone_back_to_and_whoever_approves_it_is_told_how(tmp_path: Path) -> None:
    counter = stopped(tmp_path)
    counter.desk.order("stop")
    counter.desk.order("resume")
    counter.desk.settle(3)
    counter.save()
    with pytest.raises(MetercastError, match="it was stopped, and `central models rollback --to 2` is the way back"):
        counter.order("approve", 2)
    assert counter.order("rollback", to=2).startswith("the fleet goes from version 3 to 2, signed as a step back; ")


def test_while_something_is_coming_or_a_training_runs_the_next_model_is_known() -> None:
    desk, params = Desk(sites=1), TrainingParams()
    assert "a training runs" in next_model(desk.state, Trained(runs=True), params)
    desk.offer(1)
    assert next_model(desk.state, Trained(), params) == ""


def test_the_cooldown_is_told_while_it_lasts() -> None:
    desk, params = Desk(sites=1), TrainingParams()
    over_us = START_US + duration_us(params.cooldown)
    for now_us, told in ((over_us - 1, True), (over_us, False), (None, True)):
        said = next_model(desk.state, Trained(last_start_us=START_US, now_us=now_us), params)
        assert (f"not before {iso(over_us)}" in said) == told


def test_sites_that_run_a_version_and_refuse_it_under_the_new_key_are_told_apart(tmp_path: Path) -> None:
    desk = Desk(sites=3)
    counter = Counter(tmp_path, desk)
    desk.settle(1)
    assert counter.row(1).split("  ")[-1] == "0.90 of predecessor"
    for site in ("s0", "s1"):
        desk.report(site, 1, refusal(1, Cause.UNKNOWN_KEY))
    assert "3: 3 running" in counter.row(1)
    assert counter.row(1).endswith("2 of those that run it refuse it as it is signed now: unknown_key (2)")
    page = models.shown(counter.params, 1, as_json=False).splitlines()
    assert page[-2:] == [
        "2 sites running (told 1), unknown_key, as it is: s0, s1",
        "1 site running (told 1): s2",
    ]
    assert json.loads(models.shown(counter.params, 1, as_json=True))["refused_anew"] == 2
    desk.obey()
    assert "unknown_key" not in counter.row(1)


def test_a_page_names_few_of_many_sites(tmp_path: Path) -> None:
    desk = Desk(sites=30)
    counter = Counter(tmp_path, desk)
    desk.offer(1)
    desk.obey()
    counter.save()
    assert models.shown(counter.params, 1, as_json=False).splitlines()[-1].endswith(" and 20 more")
