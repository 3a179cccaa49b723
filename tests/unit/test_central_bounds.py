"""What central keeps stays bounded, whatever sites, epochs and numbers come; who is known is served all the same."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from central import orders, recorder, runtime
from central.asking import RestoreDesk
from central.delivery import Delivery, load_rollout
from central.drift import DriftWatch
from central.intake import Intake
from central.jobs import Jobs
from central.journal import Journal
from central.keyring import Keyring
from central.orders import Order
from central.oversight import Oversight
from central.record import Record
from central.rollout import Rollout
from central.runtime import Central
from central.telemetry import CentralMetrics
from central.triggers import Coverage, Triggers
from central.work import WorkFolder
from shared.clock import iso, to_us
from shared.messages import Status, Uplink
from shared.mqtt import Connection, Incoming
from shared.params import Params, RolloutParams

WALL = datetime(2026, 1, 1, tzinfo=UTC)
STOP = threading.Event()


class Parts:
    """A central without a broker: what it would publish waits in its connection."""

    def __init__(self, folder: Path) -> None:
        params = Params.model_validate({"central": {"work_dir": str(folder)}})
        work, self.metrics, journal = WorkFolder(folder), CentralMetrics(), Journal(folder / "events.jsonl")
        self.work = work
        self.record = Record(str(work.record))
        self.record.create()
        connection, jobs, root = Connection(params.mqtt, client_id="t"), Jobs(params, work), params.mqtt.root
        self.connection = connection
        rollout = Rollout(load_rollout(work), RolloutParams())
        self.delivery = Delivery(
            rollout, connection, work, jobs, journal, self.metrics, root=root, keyring=Keyring.of(params, work)
        )
        watch, triggers = DriftWatch(params.drift, step_s=3600), Triggers(params.training)
        oversight = Oversight(
            watch, triggers, jobs, self.delivery, journal, self.metrics, connection, work, root=root, event_clock=False
        )
        self.intake = Intake(self.record, connection, self.metrics, root=root)
        self.central = Central(
            root=root,
            connection=connection,
            intake=self.intake,
            oversight=oversight,
            delivery=self.delivery,
            restores=RestoreDesk(lambda _site, _epoch: iter(()), connection, root=root),
            metrics=self.metrics,
        )

    def step(self, *messages: Incoming) -> None:
        self.central.step(messages, STOP)


def uplink(site: str, seq: int = 1, epoch: str = "e") -> Incoming:
    payload = Uplink(site=site, epoch=epoch, seq=seq, at=iso(to_us(WALL)), kinds={}).compress()
    return Incoming(f"metercast/{site}/uplink", payload, len(payload), 1, False, 1, False, 1)


def status(site: str, instance: str = "i", epoch: str = "e") -> Incoming:
    told = Status(state="online", instance=instance, epoch=epoch, version="1", started_at=iso(0)).encode()
    return Incoming(f"metercast/{site}/status", told, len(told), 1, True, 1, False, 1)


def test_sites_without_end_are_refused_and_the_known_ones_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "SITES_AT_MOST", 3)
    parts = Parts(tmp_path)
    parts.step(status("known"))
    for number in range(10):
        parts.step(uplink(f"x{number}"), status(f"y{number}"))
    parts.step(uplink("known"))
    assert set(parts.delivery.sites) == {"known", "x0", "y0"}
    assert [parts.record.recorded_seq(site, "e") for site in ("known", "x0", "x1")] == [1, 1, 0]
    assert parts.metrics.refused._value.get() == 18


def test_epochs_and_early_batches_without_end_are_let_go_of_with_their_messages(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for number in range(3 * recorder.EPOCHS_OF_A_SITE):
        parts.step(*(uplink("s", seq, f"e{number}") for seq in range(2, 6)))
    ledger = parts.intake._recorder
    assert (ledger.epochs, ledger.held) == (recorder.EPOCHS_OF_A_SITE, 4 * recorder.EPOCHS_OF_A_SITE)
    assert len(parts.intake._deliveries) == ledger.held
    parts.step(*(uplink("s", seq, "e0") for seq in range(1, 6)))
    assert parts.record.recorded_seq("s", "e0") == 5


def test_processes_of_edges_without_end_are_forgotten_and_those_without_a_name_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "TOLD_AT_MOST", 5)
    parts = Parts(tmp_path)
    parts.step(*(status("s", f"i{number}") for number in range(20)))
    parts.step(status("s", ""), status("s", "i", "e" * 65), status("s", "i", ""))
    assert list(parts.central._told) == [("s", f"i{number}", "e") for number in range(15, 20)]


def test_a_flood_of_large_batches_goes_into_commits_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.intake.BYTES_AT_ONCE", 150)
    parts = Parts(tmp_path)
    before = parts.record.version
    parts.step(*(uplink("s", seq) for seq in range(1, 9)))
    assert parts.record.recorded_seq("s", "e") == 8
    assert parts.record.version == Record(str(tmp_path / "record")).version >= before + 4


def test_sites_that_were_seen_while_nothing_could_be_kept_are_asked_for_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.step(status("known"))
    (tmp_path / "rollout.json").unlink()
    (tmp_path / "rollout.json" / "in the way").mkdir(parents=True)
    parts.step(status("new"))
    assert set(parts.delivery.sites) == {"known"}
    (tmp_path / "rollout.json" / "in the way").rmdir()
    (tmp_path / "rollout.json").rmdir()
    parts.connection._filters.clear()
    time.sleep(1.1)
    parts.step()
    assert sorted(parts.connection._filters) == ["metercast/+/models/reported", "metercast/+/status"]
    parts.step(status("new"))
    assert set(parts.delivery.sites) == {"known", "new"}


def test_a_person_can_stop_a_rollout_while_the_record_does_not_answer(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    (tmp_path / "record").rename(tmp_path / "away")
    orders.leave(parts.work, Order(verb="stop"), WALL)

    def mend() -> None:
        while not parts.delivery.state.stopped:
            time.sleep(0.05)
        (tmp_path / "away").rename(tmp_path / "record")

    mending = threading.Thread(target=mend, daemon=True)
    mending.start()
    parts.step(uplink("s"))
    mending.join(20)
    assert parts.delivery.state.stopped
    assert parts.record.recorded_seq("s", "e") == 1


def test_meters_without_end_are_not_all_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.triggers.METERS_AT_MOST", 2)
    coverage = Coverage()
    for meter in ("a", "b", "c", "a"):
        coverage.add("s", meter, 0, len(coverage.spans))
    assert coverage.spans == {("s", "a"): (0, 2), ("s", "b"): (0, 1)}
