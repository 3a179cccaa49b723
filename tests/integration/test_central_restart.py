"""What a restarted central learns again from the record: detectors, coverage and event time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from central.columns import Recorded
from central.delivery import Delivery, load_rollout
from central.drift import DriftWatch
from central.jobs import Jobs, new_training
from central.journal import Journal
from central.keyring import Keyring
from central.orders import Order, leave
from central.oversight import Oversight
from central.record import Record
from central.rollout import Rollout
from central.stalls import PAUSES_S
from central.telemetry import CentralMetrics
from central.trainings import Result, Training, trainings_in
from central.triggers import Triggers
from central.work import WorkFolder, replace_text
from shared.clock import DAY_US, HOUR_US, iso, to_us
from shared.manifest import Manifest
from shared.messages import Uplink
from shared.mqtt import Connection
from shared.params import Params, RolloutParams
from tests.unit.rollout_desk import Desk, manifest
from tests.waiting import PATIENCE_S

START_US = to_us(datetime.fromisoformat("2013-03-04T00:00:00+00:00"))
WALL = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
METERS = 4
DAYS = 30


def scored_day(day: int) -> Uplink:
    """A day's readings and scores of all meters; from day 14 on the champion is far off."""
    rng = np.random.default_rng(day)
    rows = [(f"m{meter}", START_US + day * DAY_US + hour * HOUR_US) for hour in range(24) for meter in range(METERS)]
    error_kw = np.abs(rng.normal(0.2, 0.05, len(rows))) + (1.0 if day >= 14 else 0.0)
    size = len(rows)
    shared = {"meter_id": [meter for meter, _ in rows]}
    instants = [ts_us for _, ts_us in rows]
    readings = shared | {"ts_us": instants, "value": [1.0] * size, "unit": ["kW"] * size, "received_us": instants}
    scores = shared | {
        "valid_us": instants,
        "lead": [24] * size,
        "role": ["champion"] * size,
        "rung": ["champion"] * size,
        "model_version": [1] * size,
        "y_kw": [1.0] * size,
        "forecast_kw": (1.0 + error_kw).tolist(),
        "low_kw": [0.0] * size,
        "high_kw": [2.0] * size,
        "naive_kw": [1.0] * size,
    }
    at = iso(instants[-1])
    return Uplink(site="s", epoch="e", seq=day + 1, at=at, kinds={"readings": readings, "scores": scores})


def oversight(folder: Path) -> tuple[Oversight, DriftWatch]:
    params = Params.model_validate({"central": {"work_dir": str(folder)}, "clock": "event"})
    work, metrics = WorkFolder(folder), CentralMetrics()
    connection, journal, jobs = Connection(params.mqtt, client_id="t"), Journal(work.journal), Jobs(params, work)
    delivery = Delivery(
        Rollout(load_rollout(work), RolloutParams()),
        connection,
        work,
        jobs,
        journal,
        metrics,
        root="metercast",
        keyring=Keyring.of(params, work),
    )
    watch = DriftWatch(params.drift, step_s=3600)
    triggers = Triggers(params.training)
    made = Oversight(
        watch, triggers, jobs, delivery, journal, metrics, connection, work, root="metercast", event_clock=True
    )
    return made, watch


def test_a_restart_sees_the_drift_that_stood_before_it(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    days = [scored_day(day) for day in range(DAYS)]
    record.append(days)
    before, watch = oversight(tmp_path / "before")
    before.take(Recorded.of(days), WALL)
    after, rebuilt = oversight(tmp_path / "after")
    after.rebuild(record, WALL)
    assert rebuilt.standing == watch.standing
    assert set(rebuilt.standing["s"].meters) <= {f"m{meter}" for meter in range(METERS)}
    assert after.now_us(WALL) == before.now_us(WALL) == START_US + (DAYS * 24 - 1) * HOUR_US
    assert after._coverage == before._coverage


def test_an_empty_record_is_nothing_to_learn_from(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    fresh, watch = oversight(tmp_path)
    fresh.rebuild(record, WALL)
    assert watch.standing == {}
    assert fresh.now_us(WALL) is None


def test_columns_that_do_not_fit_stop_nothing(tmp_path: Path) -> None:
    batch = scored_day(0)
    batch.kinds["scores"]["y_kw"] = ["much"] * len(batch.kinds["scores"]["y_kw"])
    batch.kinds["readings"]["ts_us"] = [None] * len(batch.kinds["readings"]["ts_us"])
    made, watch = oversight(tmp_path)
    made.take(Recorded.of([batch]), WALL)
    assert made._coverage.spans == {}
    assert watch.standing == {}


SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def orphan(work: WorkFolder, at_us: int) -> tuple[Training, subprocess.Popen[bytes]]:
    """A training as a killed central leaves it: its process goes on, holding the lock it was given."""
    training = new_training(work, "drift", WALL)
    training.begin("drift", at_us)
    with training.held() as lock:
        return training, subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, pass_fds=[lock])


def filled(folder: Path) -> Record:
    record = Record(str(folder / "record"))
    record.create()
    record.append([scored_day(day) for day in range(DAYS)])
    return record


def test_a_training_that_outlived_a_killed_central_counts_as_running_and_ends_with_its_process(tmp_path: Path) -> None:
    record, last_us = filled(tmp_path), START_US + 29 * DAY_US
    training, process = orphan(WorkFolder(tmp_path), last_us)
    try:
        made, _ = oversight(tmp_path)
        made.rebuild(record, WALL)
        made.tick(WALL)
        assert [found.id for found in trainings_in(tmp_path / "trainings")] == [training.id]
        assert made._triggers.running
    finally:
        process.communicate()
    made.tick(WALL)
    result = training.result()
    assert result is not None
    assert (result.outcome, result.reason, result.reasons) == ("failed", "drift", ["it ended: it said nothing"])
    assert not made._jobs.training
    assert made._triggers.cools_until(last_us + HOUR_US) == last_us + 3 * DAY_US
    assert len(trainings_in(tmp_path / "trainings")) == 1, "the cooldown holds"


def test_a_training_that_died_with_central_failed_and_its_cooldown_holds(tmp_path: Path) -> None:
    record, last_us = filled(tmp_path), START_US + 29 * DAY_US
    training, process = orphan(WorkFolder(tmp_path), last_us)
    process.communicate()
    made, _ = oversight(tmp_path)
    made.rebuild(record, WALL)
    made.tick(WALL)
    result = training.result()
    assert result is not None
    assert result.outcome == "failed"
    assert training.taken
    assert len(trainings_in(tmp_path / "trainings")) == 1


def test_errands_run_one_after_the_other(tmp_path: Path) -> None:
    jobs = Jobs(Params.model_validate({"central": {"work_dir": str(tmp_path)}}), WorkFolder(tmp_path))
    for what in ("nothing", "neither"):
        jobs.errand("models", what)
    first = jobs._errand
    assert first is not None
    assert jobs._errands == [("models", "nothing"), ("models", "neither")]
    first.wait(PATIENCE_S)
    jobs.ended(WALL)
    assert jobs._errands == [("models", "neither"), ("models", "nothing")], "it failed, and is tried again later"
    assert jobs._errand is not first
    jobs.stop()


def end_errand(jobs: Jobs) -> None:
    """Wait for the errand that runs, and let it be noticed."""
    assert jobs._errand is not None
    jobs._errand.wait(PATIENCE_S)
    jobs.ended(WALL)


def test_an_errand_that_fails_is_tried_again_later_until_a_newer_one_says_what_is(tmp_path: Path) -> None:
    jobs = Jobs(Params.model_validate({"central": {"work_dir": str(tmp_path)}}), WorkFolder(tmp_path))
    jobs.errand("models", "nothing", "1")
    for delay_s in (30, 60):
        end_errand(jobs)
        failing = jobs._failing["models", "nothing"]
        assert jobs._errand is None, "not at once"
        assert delay_s - 30 < failing.due_s - time.monotonic() <= delay_s
        failing.due_s = 0
        jobs.ended(WALL)
    jobs.errand("models", "nothing", "2")
    jobs.errand("models", "nothing", "3")
    assert jobs._errands == [("models", "nothing", "1"), ("models", "nothing", "3")]
    jobs.stop()


def duel(day: int, ratio: float) -> Uplink:
    """A day's scores at the site of a champion 2 and its predecessor 1 in the shadow, errors `ratio` apart."""
    hours = [(hour, role) for hour in range(24) for role in ("champion", "challenger")]
    instants = [START_US + day * DAY_US + hour * HOUR_US for hour, _ in hours]
    errors = [0.1 * ratio if role == "champion" else 0.1 for _, role in hours]
    size = len(hours)
    scores: dict[str, list[Any]] = {
        "meter_id": ["m0"] * size,
        "valid_us": instants,
        "lead": [1] * size,
        "role": [role for _, role in hours],
        "rung": ["champion"] * size,
        "model_version": [2 if role == "champion" else 1 for _, role in hours],
        "y_kw": [1.0] * size,
        "forecast_kw": [1.0 + error for error in errors],
        "low_kw": [0.0] * size,
        "high_kw": [2.0] * size,
        "naive_kw": [1.0] * size,
    }
    readings = {
        "meter_id": ["m0"],
        "ts_us": instants[-1:],
        "value": [1.0],
        "unit": ["kW"],
        "received_us": instants[-1:],
    }
    return Uplink(
        site="s0", epoch="e", seq=day + 1, at=iso(instants[-1]), kinds={"readings": readings, "scores": scores}
    )


def on_its_way(folder: Path) -> WorkFolder:
    """Central's folder while version 2 is with its only site, in place of 1."""
    desk = Desk(sites=1)
    desk.settle(1)
    desk.offer(2)
    work = WorkFolder(folder)
    replace_text(work.rollout, desk.state.model_dump_json(by_alias=True))
    return work


def test_a_model_that_forecasts_badly_is_taken_back_by_its_live_scores_whatever_restarts_between(
    tmp_path: Path,
) -> None:
    record = Record(str(tmp_path / "record"))
    record.create()
    days = [duel(day, 1.5) for day in range(3)]
    work = on_its_way(tmp_path / "central")
    made, _ = oversight(work.root)
    for day in days[:1]:
        made.take(Recorded.of([day]), WALL)
    made.tick(WALL)
    assert made._delivery.state.rolling is not None, "a day's pairs are too few for a verdict"
    record.append(days)
    again, _ = oversight(work.root)
    again.rebuild(record, WALL)
    again.tick(WALL)
    (ended,) = [end for end in load_rollout(work).ended if end.version == 2]
    assert ended.state == "stepped back"
    assert ended.reason.startswith("its live error is 1.4")
    assert load_rollout(work).everywhere == load_rollout(work).champion
    again._jobs.stop()


def waiting(folder: Path, *, version: int = 1) -> WorkFolder:
    """Central's folder with a first model that waits for a person."""
    desk = Desk(sites=1, params=RolloutParams(approval="manual"))
    desk.offer(version)
    work = WorkFolder(folder)
    replace_text(work.rollout, desk.state.model_dump_json(by_alias=True))
    return work


def test_while_the_first_model_waits_for_a_person_no_other_is_trained(tmp_path: Path) -> None:
    record, last_us = filled(tmp_path), START_US + 29 * DAY_US
    training = new_training(waiting(tmp_path), "first", WALL)
    training.begin("first", last_us - 9 * DAY_US)
    training.finish(result_of(training, manifest(1), until_us=last_us - 9 * DAY_US))
    training.take()
    made, _ = oversight(tmp_path)
    made.rebuild(record, WALL)
    made.tick(WALL)
    assert [found.id for found in trainings_in(tmp_path / "trainings")] == [training.id]


def result_of(training: Training, accepted: Manifest, *, until_us: int) -> Result:
    told: dict[str, Any] = {"reason": "first", "outcome": "accepted", "reasons": [], "started_at": iso(START_US)}
    return Result(id=training.id, version=accepted.version, manifest=accepted, until=iso(until_us), **told)


def test_a_first_model_that_was_taken_back_makes_room_for_another_first_training(tmp_path: Path) -> None:
    desk = Desk(sites=1)
    desk.offer(1)
    work = WorkFolder(tmp_path)
    replace_text(work.rollout, desk.state.model_dump_json(by_alias=True))
    made, _ = oversight(tmp_path)
    made.tick(WALL)
    known = [made._triggers.champion_until_us is not None]
    leave(work, Order(verb="rollback", version=1), WALL)
    leave(work, Order(verb="stop"), WALL + timedelta(seconds=1))
    made.tick(WALL)
    known.append(made._triggers.champion_until_us is not None)
    assert known == [True, False]
    made._jobs.stop()


def test_a_result_that_the_rollout_cannot_keep_is_taken_later_and_told_once(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    made, _ = oversight(tmp_path)
    training = new_training(work, "first", WALL)
    training.finish(result_of(training, manifest(1), until_us=START_US))
    (work.rollout / "in the way").mkdir(parents=True)
    for _ in range(2):
        made.tick(WALL)
    taken = [training.taken]
    (work.rollout / "in the way").rmdir()
    work.rollout.rmdir()
    time.sleep(PAUSES_S[0])
    made.tick(WALL)
    made.tick(WALL)
    taken.append(training.taken)
    assert taken == [False, True]
    assert load_rollout(work).queued == manifest(1), "until there is a key"
    events = [json.loads(line)["event"] for line in work.journal.read_text().splitlines()]
    assert events.count("training ended") == 1
    made._jobs.stop()


def test_a_training_that_cannot_be_started_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    record = filled(tmp_path)
    made, _ = oversight(tmp_path)
    made.rebuild(record, WALL)
    (tmp_path / "params.yaml").mkdir()  # where the job's settings go
    made.tick(WALL)
    assert list((tmp_path / "trainings").iterdir()) == []
    running = [made._triggers.running]
    (tmp_path / "params.yaml").rmdir()
    time.sleep(PAUSES_S[0])
    made.tick(WALL)
    running.append(made._triggers.running)
    assert running == [False, True]
    assert len(trainings_in(tmp_path / "trainings")) == 1
    made._jobs.stop()
