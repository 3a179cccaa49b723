"""What the edge's shell does without a broker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest

from edge import runtime
from edge.bootstrap import build
from edge.effects import (
    AckedArrived,
    ChunkArrived,
    CovariatesArrived,
    DesiredArrived,
    HistoryArrived,
    KeepArtifacts,
    Publish,
    ReadingsArrived,
    RestoreArrived,
    SaveArtifact,
    Tick,
)
from edge.runtime import Runtime
from edge.store import Store
from edge.topic_events import events_of
from edge.unconfirmed import AT_MOST, Unconfirmed
from shared import params_file
from shared.clock import DAY_US, to_datetime
from shared.errors import StateError
from shared.manifest import digest_of
from shared.memory import MemoryBroker, MemoryConnection
from shared.mqtt import Connection
from shared.packets import Incoming
from shared.topics import SiteTopics, artifact_chunk
from tests.unit.edge_harness import START_US

MINUTE_US = 60_000_000
UNTIL_ROOM_US = 30 * MINUTE_US


def test_an_edge_that_a_full_disk_holds_up_at_its_start_still_sees_how_its_clock_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = build(params_file.load(overrides=["clock=wall", f"edge.state_dir={tmp_path}", "site=desk"]))
    wall_us = START_US
    commit = Store.commit

    def later(*given: object) -> None:
        nonlocal wall_us
        if wall_us < START_US + UNTIL_ROOM_US:
            wall_us += MINUTE_US
            raise StateError("the disk is full")
        commit(*given)  # type: ignore[arg-type]

    def now() -> datetime:
        return to_datetime(wall_us)

    monkeypatch.setattr(Store, "commit", later)
    monkeypatch.setattr(runtime, "wall_now", now)
    monkeypatch.setattr(runtime, "COMMIT_RETRY_S", 0.0)
    Runtime(edge)._begin(None)
    assert (edge.node.clock.wall_us, edge.node.clock.doubt_us) == (START_US + UNTIL_ROOM_US, 0)
    wall_us += 365 * DAY_US
    edge.node.handle(Tick(caught_up=False), wall_us)
    assert edge.node.clock.doubt_us == 365 * DAY_US
    edge.store.close()


def test_an_artifact_that_found_no_room_is_saved_later_unless_nobody_wants_it_any_more(tmp_path: Path) -> None:
    edge = build(params_file.load(overrides=[f"edge.state_dir={tmp_path}", "site=desk"]))
    shell, wanted, unwanted = Runtime(edge), b"wanted", b"unwanted"
    in_its_place = tmp_path / "models"
    in_its_place.write_text("")  # no folder can be made here
    shell._carry_out([SaveArtifact(digest_of(artifact), artifact) for artifact in (wanted, unwanted)])
    shell._carry_out([KeepArtifacts(frozenset({digest_of(wanted)}))])
    in_its_place.unlink()
    shell._periodic()
    assert edge.artifacts.read(digest_of(wanted)) == wanted
    assert edge.artifacts.read(digest_of(unwanted)) is None
    edge.store.close()


def test_what_runs_is_told_again_also_where_the_broker_went_and_came_within_one_turn(tmp_path: Path) -> None:
    broker = MemoryBroker()
    connection = MemoryConnection(broker, client_id="desk")
    edge = build(params_file.load(overrides=[f"edge.state_dir={tmp_path}", "site=desk"]))
    shell = Runtime(replace(edge, connection=cast("Connection", connection)))
    connection.start()
    shell._periodic()
    assert broker.retained.pop(TOPICS.reported)
    shell._periodic()
    assert TOPICS.reported not in broker.retained, "once a connection"
    connection.cut()
    connection.start()
    shell._periodic()
    assert TOPICS.reported in broker.retained
    edge.store.close()


TOPICS = SiteTopics("metercast", "desk")


@dataclass
class Sent:
    """A publication of which the test says what became."""

    done: bool = False
    refused: bool = False


def message(topic: str, payload: bytes = b"{}", *, retain: bool = False) -> Incoming:
    return Incoming(topic, payload, len(payload), retain=retain)


def test_a_batch_is_an_event_for_its_readings_its_history_and_its_covariates_and_one_for_each_word_of_central() -> None:
    read, more = message(TOPICS.reading("a")), message(TOPICS.reading("b"))
    backfilled, warmth = message(TOPICS.backfill("a")), message(TOPICS.covariate("warmth"))
    words = [message(TOPICS.acked), message(TOPICS.acked, retain=True), message(TOPICS.restore)]
    models = [message(TOPICS.desired), message(artifact_chunk("metercast", "0" * 64, 3), b"chunk")]
    others = [message(TOPICS.desired, b""), message(TOPICS.status), message("elsewhere")]
    assert list(events_of([*words, read, warmth, *models, backfilled, *others, more], TOPICS)) == [
        ReadingsArrived((read, more)),
        HistoryArrived((backfilled,)),
        CovariatesArrived((warmth,)),
        AckedArrived(TOPICS.acked, b"{}", live=True),
        AckedArrived(TOPICS.acked, b"{}", live=False),
        RestoreArrived(TOPICS.restore, b"{}"),
        DesiredArrived(TOPICS.desired, b"{}"),
        ChunkArrived("0" * 64, 3, b"chunk"),
    ]
    assert list(events_of([], TOPICS)) == []


def test_what_is_published_is_confirmed_in_order_and_once_and_sent_again_where_the_queue_was_full() -> None:
    sent: list[tuple[Publish, Sent]] = []

    def send(effect: Publish) -> Sent:
        sent.append((effect, Sent()))
        return sent[-1][1]

    waiting = Unconfirmed(send)
    for row in range(3):
        waiting.publish(Publish("t", b"", forecast=(row, 7)))
    waiting.publish(Publish("dead letter", b""))
    sent[1][1].done = True
    assert waiting.confirmed() == []  # the first has not arrived
    sent[0][1].done = True
    assert waiting.confirmed() == [(0, 7), (1, 7)]
    sent[2][1].refused = True
    assert waiting.confirmed() == []
    assert [effect.topic for effect, _delivery in sent] == ["t", "t", "t", "dead letter", "t"]
    for _effect, delivery in sent[3:]:
        delivery.done = True
    assert waiting.confirmed() == [(2, 7)]
    assert waiting.confirmed() == []


def test_more_than_so_many_unconfirmed_are_too_many() -> None:
    waiting = Unconfirmed(lambda _effect: Sent())
    for _ in range(AT_MOST - 1):
        waiting.publish(Publish("t", b""))
    assert not waiting.is_full
    waiting.publish(Publish("t", b""))
    assert waiting.is_full
