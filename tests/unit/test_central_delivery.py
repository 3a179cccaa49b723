"""The rollout's shell: what is signed, kept, published and told, and what a person's orders come to."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from central import orders
from central.delivery import SITES_AT_ONCE, Delivery, Unkept, load_rollout
from central.jobs import Jobs
from central.journal import Journal
from central.keyring import Keyring
from central.orders import Order
from central.rollout import Rollout
from central.rollout_events import Heard, ReportArrived, SiteSeen
from central.rollout_state import Comparison
from central.stalls import PAUSES_S
from central.telemetry import CentralMetrics
from central.work import WorkFolder, replace_bytes
from shared.clock import iso, parse_instant_us, to_us
from shared.errors import MetercastError
from shared.manifest import Manifest, digest_of, pack
from shared.memory import MemoryBroker, MemoryConnection
from shared.messages import Desired, Reported, Running
from shared.mqtt import Connection
from shared.params import Params
from shared.refusals import Cause
from shared.signing import SigningKey, trusted_by_id, verify
from shared.topics import SiteTopics, artifact_chunk
from tests.unit.rollout_desk import manifest, refusal, report

ROOT = Path(__file__).resolve().parents[2]
WALL = datetime(2026, 1, 1, tzinfo=UTC)
EVENT_US = to_us(datetime(2013, 3, 4, tzinfo=UTC))
KEY, SECOND = SigningKey.new(), SigningKey.new()


class Errands(Jobs):
    """Remembers what the registry would be told, and starts no process."""

    told: list[tuple[str, ...]]

    def errand(self, *words: str) -> None:
        self.told.append(words)


class Shell:
    """A delivery over a broker in memory, in a folder; `again` is what a restart makes of it."""

    def __init__(self, folder: Path, broker: MemoryBroker | None = None, **rollout: Any) -> None:
        self.folder, self.rollout, self.work = folder, rollout, WorkFolder(folder)
        self.broker = broker or MemoryBroker()
        params = Params.model_validate(
            {"central": {"work_dir": str(folder)}, "keys": {"private": str(folder / "key.pem")}, "rollout": rollout}
        )
        self.connection = MemoryConnection(self.broker, client_id="central")
        self.connection.start()
        self.jobs, self.metrics = Errands(params, self.work), CentralMetrics()
        self.jobs.told = []
        self.delivery = Delivery(
            Rollout(load_rollout(self.work), params.rollout),
            cast("Connection", self.connection),
            self.work,
            self.jobs,
            Journal(self.work.journal),
            self.metrics,
            root="metercast",
            keyring=Keyring.of(params, self.work),
        )

    def again(self) -> Shell:
        return Shell(self.folder, self.broker, **self.rollout)

    def give_key(self, key: SigningKey = KEY) -> None:
        path = self.folder / "key.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.pem())

    def model(self, version: int) -> Manifest:
        """A manifest whose artifact is there."""
        artifact = f"model {version}".encode()
        made = manifest(version).model_copy(update=pack(artifact).claims)
        replace_bytes(self.work.artifact(made.sha256), artifact)
        return made

    def accept(self, version: int) -> Manifest:
        made = self.model(version)
        self.delivery.accept(made, wall=WALL, event_us=EVENT_US)
        return made

    def see(self, *sites: str) -> None:
        for site in sites:
            self.delivery.handle(SiteSeen(site), wall=WALL, event_us=EVENT_US)

    def tick(self, hours: float = 0) -> None:
        self.delivery.tick(Comparison(), wall=WALL, event_us=EVENT_US + int(hours * 3_600_000_000))

    def desired(self, site: str) -> Desired | None:
        kept = self.broker.retained.get(SiteTopics("metercast", site).desired)
        return None if kept is None else Desired.decode(kept.payload, "desired")

    def champion(self, site: str) -> Manifest:
        desired = self.desired(site)
        assert desired is not None
        assert desired.champion is not None
        return desired.champion

    def told(self) -> list[str]:
        """Sites of which something is desired."""
        return [topic.split("/")[1] for topic in self.broker.retained if topic.endswith("/models/desired")]

    def has(self, made: Manifest) -> bool:
        return artifact_chunk("metercast", made.sha256, 0) in self.broker.retained

    def journal(self, event: str) -> list[dict[str, Any]]:
        lines = self.work.journal.read_text().splitlines() if self.work.journal.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made.give_key()
    return made


def test_each_site_gets_a_manifest_of_its_own_signed_and_valid_for_a_month(shell: Shell) -> None:
    shell.see("a", "b")
    made = shell.accept(1)
    for site in ("a", "b"):
        told = shell.champion(site)
        verify(told, trusted_by_id([KEY.trusted]))
        assert (told.sites, told.sha256) == ([site], made.sha256)
        assert parse_instant_us(told.expires) == to_us(WALL + timedelta(days=30))
    assert shell.has(made)
    assert [line["version"] for line in shell.journal("pushed")] == [1]


def test_what_is_signed_are_the_chunks_that_are_published_whatever_packed_the_model_when_it_was_made(
    shell: Shell,
) -> None:
    shell.see("a")
    old = shell.model(1).model_copy(update={"chunk_sha256": [], "compressed_size": 7, "chunks": 3})
    shell.delivery.accept(old, wall=WALL, event_us=EVENT_US)
    told = shell.champion("a")
    published = [shell.broker.retained[artifact_chunk("metercast", old.sha256, n)].payload for n in range(told.chunks)]
    assert told.chunk_sha256 == [digest_of(chunk) for chunk in published]
    assert told.compressed_size == sum(map(len, published))
    verify(told, trusted_by_id([KEY.trusted]))


def test_what_is_published_is_signed_for_the_role_it_is_published_in(shell: Shell) -> None:
    shell.see("a")
    first = shell.accept(1)
    serves = Running(name=first.name, version=1, sha256=first.sha256, since="2013-03-04T00:00:00Z")
    shell.delivery.handle(ReportArrived("a", Reported(champion=serves)), wall=WALL, event_us=EVENT_US)
    shell.tick(50)
    shell.tick(100)
    shell.accept(2)
    desired = shell.desired("a")
    assert desired is not None
    for role, version in (("champion", 2), ("challenger", 1)):
        told: Manifest = getattr(desired, role)
        assert (told.role, told.version) == (role, version)
        verify(told, trusted_by_id([KEY.trusted]))


def test_a_refresh_after_a_week_signs_anew(shell: Shell) -> None:
    shell.see("a")
    shell.accept(1)
    later = WALL + timedelta(days=7)
    shell.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    shell.delivery.refresh_when_due(wall=later, event_us=EVENT_US)
    assert shell.champion("a").expires == iso(to_us(later + timedelta(days=30)))


def test_a_clock_that_was_a_year_ahead_and_was_set_right_does_not_stop_refreshes(shell: Shell) -> None:
    shell.see("a")
    shell.accept(1)
    shell.delivery.refresh_when_due(wall=WALL + timedelta(days=365), event_us=EVENT_US)
    shell.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    assert shell.champion("a").expires == iso(to_us(WALL + timedelta(days=30)))


def test_without_a_private_key_nothing_is_published_and_it_is_said_once(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.see("a")
    made = shell.accept(1)
    for _ in range(3):
        shell.tick()
    assert shell.desired("a") is None
    assert not shell.has(made)
    assert len(shell.journal("no private key")) == 1
    assert shell.metrics.keys._value.get() == 0
    shell.give_key()
    shell.tick()
    assert shell.champion("a").version == 1
    assert shell.has(made)


def test_a_key_that_is_changed_signs_everything_anew(shell: Shell) -> None:
    shell.see("a")
    shell.accept(1)
    shell.give_key(SECOND)
    shell.tick()
    verify(shell.champion("a"), trusted_by_id([SECOND.trusted]))


def test_a_key_that_goes_takes_no_model_away(shell: Shell) -> None:
    shell.see("a")
    made = shell.accept(1)
    (shell.folder / "key.pem").unlink()
    shell.tick()
    shell.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    assert shell.champion("a").sha256 == made.sha256
    assert shell.has(made)


def test_a_restart_goes_on_in_the_middle_of_a_rollout(shell: Shell) -> None:
    shell.see("a", "b", "c")
    first = shell.accept(1)
    serves = Running(name=first.name, version=1, sha256=first.sha256, since=iso(EVENT_US))
    shell.delivery.handle(ReportArrived("a", Reported(champion=serves)), wall=WALL, event_us=EVENT_US)
    shell.tick(50)
    shell.tick(100)
    second = shell.accept(2)
    (canary,) = shell.delivery.state.members
    again = shell.again()
    again.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    assert again.delivery.compared == (second, first)
    assert again.champion(canary).version == 2
    refused = refusal(2, Cause.GOLDEN_ROWS).model_copy(update={"sha256": second.sha256})
    told = report(1, refused)
    again.delivery.handle(ReportArrived(canary, told), wall=WALL, event_us=EVENT_US)
    assert (again.champion(canary).version, again.champion(canary).step_back_from) == (1, 2)
    assert not again.has(second)
    assert again.journal("stepped back")[0]["reason"] == "1 of 1 sites refuse it: golden_rows (1)"
    assert again.jobs.told[-1] == ("models", "aliases", "1", "0", "0")
    (noted,) = again.journal("refused")
    assert (noted["at"], noted["reason"], noted["site"]) == (iso(EVENT_US), "golden_rows", canary)
    assert again.metrics.model_refusals.labels("golden_rows")._value.get() == 1
    assert again.metrics.step_backs._value.get() == 1


def test_a_first_model_that_was_withdrawn_is_taken_from_sites_that_a_kill_kept_from_being_told(shell: Shell) -> None:
    shell.see("a")
    first = shell.accept(1)
    before = dict(shell.broker.retained)
    orders.leave(shell.work, Order(verb="stop"), WALL)
    shell.tick()
    assert shell.champion("a").withdrawn
    shell.broker.retained.clear()
    shell.broker.retained.update(before)  # the kill came after the state was kept
    again = shell.again()
    again.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    assert again.champion("a").withdrawn
    assert not again.has(first)


def test_orders_are_followed_in_their_order_and_what_cannot_be_followed_is_told(tmp_path: Path) -> None:
    shell = Shell(tmp_path, approval="manual")
    shell.give_key()
    shell.see("a")
    shell.accept(1)
    for second, order in enumerate([Order(verb="approve", version=1), Order(verb="approve", version=5)]):
        orders.leave(shell.work, order, WALL + timedelta(seconds=second))
    (shell.work.orders / "1.json").write_text("no order")
    orders.leave(shell.work, Order(verb="rollback", version=1, to=9), WALL + timedelta(seconds=9))
    shell.tick()
    assert shell.champion("a").version == 1
    assert [line["version"] for line in shell.journal("order followed")] == [1]
    assert [line["reason"] for line in shell.journal("order refused")] == [
        "version 5 does not wait for approval; waiting: none",
        "version 9 was never accepted here; `central models` lists those that were",
    ]
    assert list(shell.work.orders.iterdir()) == []


def test_what_is_on_its_way_is_shown(shell: Shell) -> None:
    shell.see("a", "b")
    shell.accept(1)
    shell.tick()
    value = shell.metrics.registry.get_sample_value
    assert value("metercast_central_rollout_stage") == 2
    assert value("metercast_central_rollout_sites", {"answer": "silent"}) == 2
    assert value("metercast_central_rollout_version") == 1


def test_every_alert_goes_by_a_metric_that_there_is(shell: Shell) -> None:
    rules = yaml.safe_load((ROOT / "monitoring" / "central_alerts.yml").read_text())["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"metercast_\w+", rule["expr"])}
    shell.metrics.count_refusal("a word of tomorrow")
    known = {sample.name for family in shell.metrics.registry.collect() for sample in family.samples}
    assert named <= known
    assert len(rules) == len({rule["alert"] for rule in rules}) == 6


def block(shell: Shell) -> None:
    """Let the state not be written."""
    shell.work.rollout.unlink()
    (shell.work.rollout / "in the way").mkdir(parents=True)


def unblock(shell: Shell) -> None:
    (shell.work.rollout / "in the way").rmdir()
    shell.work.rollout.rmdir()
    time.sleep(PAUSES_S[0])


def test_while_the_state_cannot_be_kept_nothing_moves_and_nothing_is_said_and_afterwards_all_of_it(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    shell.see("a")
    orders.leave(shell.work, Order(verb="pause"), WALL)
    block(shell)
    before = shell.delivery.state
    with pytest.raises(Unkept, match=r"rollout\.json: Is a directory"):
        shell.accept(1)
    for _ in range(3):
        with pytest.raises(Unkept):
            shell.tick()
    with pytest.raises(Unkept):
        shell.see("b")
    assert shell.delivery.state is before
    assert shell.desired("a") is None
    assert len(list(shell.work.orders.iterdir())) == 1
    assert shell.metrics.stalled.labels("rollout")._value.get() == 1
    assert [record.message for record in caplog.records].count("cannot go on, trying again") == 1
    unblock(shell)
    shell.accept(1)
    shell.tick()
    assert shell.champion("a").version == 1
    assert load_rollout(shell.work) == shell.delivery.state
    assert shell.delivery.state.paused
    assert shell.metrics.stalled.labels("rollout")._value.get() == 0
    assert [line["verb"] for line in shell.journal("order followed")] == ["pause"]


def test_a_state_that_can_be_kept_again_is_noticed_though_nothing_happens(shell: Shell) -> None:
    shell.see("a")
    block(shell)
    with pytest.raises(Unkept):
        shell.see("b")
    kept = [shell.delivery.is_kept]
    unblock(shell)
    shell.tick()
    kept.append(shell.delivery.is_kept)
    assert kept == [False, True]
    assert set(load_rollout(shell.work).sites) == {"a"}


def test_a_key_that_comes_while_the_state_cannot_be_kept_signs_everything_once_it_can(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.see("a")
    shell.accept(1)
    shell.tick()
    block(shell)
    shell.give_key()
    with pytest.raises(Unkept):
        shell.tick()
    unblock(shell)
    shell.tick()
    assert shell.champion("a").version == 1


def test_an_artifact_that_cannot_be_read_is_published_as_soon_as_it_can(shell: Shell) -> None:
    shell.see("a")
    made = shell.model(1)
    away = shell.work.artifact(made.sha256).rename(shell.folder / "away")
    shell.delivery.accept(made, wall=WALL, event_us=EVENT_US)
    shell.tick()
    assert not shell.has(made)
    assert shell.metrics.stalled.labels("artifacts")._value.get() == 1
    away.rename(shell.work.artifact(made.sha256))
    time.sleep(PAUSES_S[1])
    shell.tick()
    assert shell.has(made)
    assert shell.metrics.stalled.labels("artifacts")._value.get() == 0


def test_an_artifact_that_is_damaged_on_disk_is_neither_published_nor_signed_under_another_name(shell: Shell) -> None:
    shell.see("a")
    made = shell.model(1)
    replace_bytes(shell.work.artifact(made.sha256), b"damaged")
    shell.delivery.accept(made, wall=WALL, event_us=EVENT_US)
    assert not shell.has(made)
    assert shell.champion("a").sha256 == made.sha256
    assert shell.metrics.stalled.labels("artifacts")._value.get() == 1


def fleet(shell: Shell, count: int) -> None:
    """So many sites, met in one go."""
    seen = tuple(SiteSeen(f"s{number:04}") for number in range(count))
    shell.delivery.handle(Heard(seen), wall=WALL, event_us=EVENT_US)


def test_a_fleet_is_told_some_sites_at_a_time_and_chunks_first(shell: Shell) -> None:
    fleet(shell, 3 * SITES_AT_ONCE + 1)
    made = shell.accept(1)
    told = [len(shell.told())]
    assert shell.has(made)
    while shell.delivery.waiting:
        shell.delivery.go_on(WALL)
        told.append(len(shell.told()))
    assert told == [SITES_AT_ONCE, 2 * SITES_AT_ONCE, 3 * SITES_AT_ONCE, 3 * SITES_AT_ONCE + 1]


def test_a_step_back_goes_before_sites_that_are_only_told_again_and_chunks_stay_until_all_were_told(
    shell: Shell,
) -> None:
    shell.see("a")
    shell.accept(1)
    shell.tick(50)
    shell.tick(150)
    fleet(shell, 2 * SITES_AT_ONCE)
    for _ in range(3):
        shell.delivery.go_on(WALL)
    shell.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    assert shell.delivery.waiting
    orders.leave(shell.work, Order(verb="stop"), WALL)
    shell.delivery.go_on(WALL + timedelta(seconds=1))
    first = shell.delivery.state.champion
    assert first is not None
    shell.tick()
    assert shell.has(first)
    shell.delivery.go_on(WALL)
    while shell.delivery.waiting:
        shell.delivery.go_on(WALL)
    assert shell.champion("s0001").withdrawn
    assert not shell.has(first)


def test_a_restart_among_the_sites_of_a_stage_tells_the_rest(shell: Shell) -> None:
    fleet(shell, 2 * SITES_AT_ONCE)
    shell.accept(1)
    assert len(shell.told()) == SITES_AT_ONCE
    again = shell.again()
    again.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    again.delivery.go_on(WALL)
    assert len(again.told()) == 2 * SITES_AT_ONCE


def test_a_refresh_is_spread_over_its_period_and_leaves_no_site_out(shell: Shell) -> None:
    fleet(shell, 50)
    shell.accept(1)
    shell.delivery.refresh_when_due(wall=WALL, event_us=EVENT_US)
    while shell.delivery.waiting:
        shell.delivery.go_on(WALL)
    for hour in range(1, 7 * 24 + 1):
        wall = WALL + timedelta(hours=hour)
        shell.delivery.go_on(wall)
        shell.delivery.refresh_when_due(wall=wall, event_us=EVENT_US)
        assert shell.delivery.waiting == 0, "no more in an hour than in a turn"
    expiries = [parse_instant_us(shell.champion(site).expires) for site in shell.told()]
    assert min(expiries) > to_us(WALL + timedelta(days=30))
    assert len(set(expiries)) > 20


def test_a_state_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    WorkFolder(tmp_path).rollout.write_text('{"schema": 3}')
    with pytest.raises(MetercastError, match=r"rollout\.json: Input should be 2"):
        load_rollout(WorkFolder(tmp_path))
