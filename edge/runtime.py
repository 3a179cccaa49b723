"""The shell of the edge: turns the world into events and carries effects out, in order, in batches.

Invariants: a message is acknowledged only after the commit its event led to; effects are carried out in the order the
core gave them; while the state cannot be written nothing is acknowledged and the commit is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from edge.bootstrap import Edge
from edge.changes import Changes
from edge.effects import (
    Commit,
    Effect,
    EpochRenewed,
    Event,
    ForecastsConfirmed,
    GapMade,
    KeepArtifacts,
    KeepChunk,
    MakeGap,
    NumbersInDoubt,
    Prove,
    Publish,
    RenewEpoch,
    SaveArtifact,
    StateMended,
    Subscribe,
    Tick,
    Unpack,
    Unsubscribe,
)
from edge.incumbent import LOOK_S, STATUS_EVERY_S, another_lived, require_free, require_not_replaced
from edge.metrics import serve
from edge.outbox import is_sound
from edge.prover import Prover
from edge.topic_events import events_of
from edge.unconfirmed import Unconfirmed
from shared import __version__
from shared.clock import to_us, wall_now
from shared.errors import StateDamaged, StateError
from shared.heap import return_freed_memory
from shared.messages import RESTORE_WANTED, Status
from shared.mqtt import Delivery
from shared.packets import Incoming

log = logging.getLogger(__name__)

LINGER_S: Final = 0.05  # a batch that is not full waits this long for more: one sync to disk serves them all
GATHER_S: Final = 0.002
IDLE_WAIT_S: Final = 0.2
CONFIRM_WAIT_S: Final = 0.01
COMMIT_RETRY_S: Final = 1.0
STALLED_AFTER_S: Final = 30.0
CAUGHT_UP_AFTER_S: Final = 1.0
BEHIND_AT_MOST_S: Final = 120.0  # a flood that never ends is no backlog
TIDY_EVERY_S: Final = 5.0  # at most: what an hour's forecasts took in memory goes back once they are made


class Runtime:
    """Runs one edge until told to stop."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._node = edge.node
        self._connection = edge.connection
        self._prover = Prover(edge.artifacts, edge.try_out)
        self._stop = threading.Event()
        self._unsaved: dict[str, SaveArtifact] = {}  # by sha256, for want of room
        self._unconfirmed = Unconfirmed(self._publish)
        self._status_due_s = 0.0
        self._stalled_due_s = 0.0
        self._connects = 0  # that were noticed: one may come and go within a turn that takes long
        self._state_said = ""
        self._state_logged = ("", False)
        self._is_untidy, self._tidy_due_s = True, 0.0
        self._gone = ""  # the instance that served the site before us
        self._has_caught_up = False
        self._behind_at_s = self._connected_at_s = time.monotonic()

    def stop(self) -> None:
        """Ask the loop to end after the batch in hand."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`.

        Raises BrokerUnreachable when the broker cannot be reached at first, SiteTaken when another edge is here.
        """
        try:
            left = require_free(self._edge.params.mqtt, self._node.topics, self._edge.instance)
            self._gone = left.instance if left is not None else ""
            self._begin(left)
            self._connection.start()
            self._serve()
        finally:
            self._prover.stop()
            self._connection.stop()
            self._edge.store.close()

    def _begin(self, left: Status | None) -> None:
        """Make sure that the disk knows of the last life of this site, and of this one before others hear of it.

        The time is told first: a full disk may hold the rest up for hours, and the clock may jump meanwhile.
        """
        self._node.clock.tell(to_us(wall_now()))
        if another_lived(left, last_instance=self._edge.store.facts.get("instance", "")):
            self._handle(NumbersInDoubt())
        self._commit(Changes(facts={"instance": self._edge.instance}))

    def _serve(self) -> None:
        serve(self._edge)
        mended = self._edge.store.mended
        if mended is not None:
            self._handle(StateMended(mended.detail, mended.lost_batches))
        log.info("edge runs", extra={"site": self._edge.params.site, "meters": self._node.site.rows})
        while not self._stop.is_set():
            self._step()
        self._say_offline()

    def _step(self) -> None:
        messages = self._take()
        if messages:
            self._on_messages(messages)
        self._confirm()
        self._swap()
        self._carry_out(self._node.models.tell_changes())  # once a turn, however many were desired
        if not self._unconfirmed.is_full:
            caught_up = self._caught_up(len(messages))
            self._has_caught_up |= caught_up
            self._handle(Tick(caught_up=caught_up))
        self._pump_uplink()
        self._periodic()
        self._tidy(rested=not messages)

    def _tidy(self, *, rested: bool) -> None:
        """Once nothing is left to do, give the memory back that it took: a millisecond or two, now and then."""
        self._is_untidy |= not rested
        now_s = time.monotonic()
        if rested and self._is_untidy and now_s >= self._tidy_due_s and not self._node.busy:
            self._is_untidy, self._tidy_due_s = False, now_s + TIDY_EVERY_S
            return_freed_memory()

    def _swap(self) -> None:
        """Take up what was proven aside: nothing else waits longer for it than this takes."""
        for answer in self._prover.answers():
            began_s = time.monotonic()
            self._handle(answer)
            self._node.counters["swap_seconds", ""] += time.monotonic() - began_s

    def _caught_up(self, taken: int) -> bool:
        """Whether what the broker kept for us has come, so that a meter we hear nothing of is silent indeed."""
        now_s = time.monotonic()
        backlog = self._connection.waiting or taken >= self._edge.params.edge.batch // 2
        if not self._connection.connected or self._connection.connects != self._connects:
            self._behind_at_s = self._connected_at_s = now_s
        elif backlog and now_s - self._connected_at_s < BEHIND_AT_MOST_S:
            self._behind_at_s = now_s
        return now_s - self._behind_at_s >= CAUGHT_UP_AFTER_S

    def _take(self) -> list[Incoming]:
        """A batch: what waits, and what comes within LINGER_S of the first, unless it is full or forecasts are due."""
        limit, busy = self._edge.params.edge.batch, self._node.busy
        if busy and not self._unconfirmed.is_full:
            return self._connection.receive(limit, 0.0)
        messages = self._connection.receive(
            limit, CONFIRM_WAIT_S if busy and self._connection.connected else IDLE_WAIT_S
        )
        until_s = time.monotonic() + LINGER_S
        while 0 < len(messages) < limit and time.monotonic() < until_s:
            time.sleep(GATHER_S)
            messages += self._connection.receive(limit - len(messages), 0.0)
        return messages

    def _on_messages(self, messages: list[Incoming]) -> None:
        topics = self._node.topics
        for event in events_of(messages, topics):
            self._handle(event)
        status_topic = topics.status
        for message in messages:
            if message.topic == status_topic and message.payload:
                self._require_not_replaced(message)
        self._connection.acknowledge(messages)

    def _require_not_replaced(self, status: Incoming) -> None:
        """What a broker kept, or queued for us, of the instance that we looked for and found gone says nothing."""
        edge, kept = self._edge, status.retain or not self._has_caught_up
        gone = self._gone if kept else ""
        require_not_replaced(
            status.payload, self._node.topics, instance=edge.instance, started_at=edge.started_at, gone=gone
        )

    def _handle(self, event: Event) -> None:
        self._carry_out(self._node.handle(event, to_us(wall_now())))

    # -- effects -------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:  # noqa: C901 -- one branch an effect
        artifacts = self._edge.artifacts
        for effect in effects:
            match effect:
                case Commit(changes):
                    self._commit(changes)
                case RenewEpoch(epoch):
                    self._renew_epoch(epoch)
                case MakeGap():
                    self._make_gap(effect)
                case Publish():
                    self._unconfirmed.publish(effect)
                case Subscribe(topic_filter):
                    self._connection.subscribe(topic_filter)
                case Unsubscribe(topic_filter):
                    self._connection.unsubscribe(topic_filter)
                case KeepChunk(sha256, number, chunk):
                    self._on_disk(sha256, partial(artifacts.keep_chunk, sha256, number, chunk))
                case Unpack() | Prove():
                    self._prover.ask(effect)
                case SaveArtifact(sha256, artifact):
                    if not self._on_disk(sha256, partial(artifacts.save, sha256, artifact)):
                        self._unsaved[sha256] = effect
                case KeepArtifacts(sha256s):
                    self._on_disk("", partial(artifacts.keep_only, sha256s))
                    self._unsaved = {sha256: left for sha256, left in self._unsaved.items() if sha256 in sha256s}

    def _commit(self, changes: Changes) -> None:
        """Write, trying again for as long as it takes: until then the clock goes on and nothing else."""
        failed = False
        while True:
            try:
                self._edge.store.commit(changes, self._node.site)
                break
            except StateDamaged:
                raise
            except StateError as error:
                if not failed:
                    log.error("commit failed, trying again until it can", extra={"reason": str(error)})
                failed = True
                self._node.counters["commits_failed", ""] += 1
                self._node.clock.tell(to_us(wall_now()))
                self._node.bounds.reached("disk", str(error), self._node.clock.wall_us)
                self._say_status_when_due()
                if self._stop.wait(COMMIT_RETRY_S):
                    raise
        if failed:
            self._node.bounds.passed("disk")
            log.info("commits go on")

    def _make_gap(self, effect: MakeGap) -> None:
        """Give the oldest batches up; when that cannot be written now, the next batch asks for it again."""
        first, last = effect.first, effect.last
        site = self._edge.params.site
        try:
            size = self._edge.store.make_gap(first, last, site=site, reason=effect.reason, at_us=effect.at_us)
        except StateError as error:
            log.error("no gap yet", extra={"reason": str(error)})
            return
        self._handle(GapMade(first, last, size))
        log.warning("batches became a gap", extra={"first": first, "last": last, "reason": effect.reason})

    def _renew_epoch(self, epoch: str) -> None:
        """Begin a new epoch; when that cannot be written now, central's next ack asks for it again."""
        try:
            self._handle(EpochRenewed(epoch, tuple(self._edge.store.renew_epoch(epoch))))
            log.warning("new epoch: the old one's numbers cannot be relied on", extra={"epoch": epoch})
        except StateError as error:
            log.error("no new epoch yet", extra={"reason": str(error)})

    def _on_disk(self, sha256: str, keep: Callable[[], None]) -> bool:
        """Keep artifacts for a restart; without room for one the model serves from memory all the same."""
        try:
            keep()
        except OSError as error:
            log.error("models' files not as they should be", extra={"sha256": sha256, "reason": str(error)})
            return False
        return True

    def _save_unsaved(self) -> None:
        """Save what could not be saved before: there may be room now, and it may be what is fallen back on."""
        unsaved, self._unsaved = self._unsaved, {}
        self._carry_out(list(unsaved.values()))

    def _publish(self, effect: Publish) -> Delivery:
        return self._connection.publish(effect.topic, effect.payload, retain=effect.retain, expiry_s=effect.expiry_s)

    def _confirm(self) -> None:
        confirmed = self._unconfirmed.confirmed()
        if confirmed:
            self._handle(ForecastsConfirmed(tuple(confirmed)))

    def _pump_uplink(self) -> None:
        if not self._connection.connected:
            return
        uplink = self._edge.params.uplink
        now_s = time.monotonic()
        if self._node.uplink.is_in_doubt(now_s - self._connected_at_s):
            self._handle(NumbersInDoubt())
        due = self._node.uplink.due(now_s, window=uplink.window, resend_after_s=uplink.resend_after.total_seconds())
        try:
            for seq in due:
                self._send(seq)
        except StateError as error:
            log.error("outbox not sent", extra={"reason": str(error)})

    def _send(self, seq: int) -> None:
        body = self._edge.store.outbox_body(seq)
        if body is None:
            return
        if self._node.uplink.is_of_earlier_process(seq) and not is_sound(body):
            self._make_gap(MakeGap(seq, seq, "the batch was damaged on disk", self._node.clock.received_us))
            body = self._edge.store.outbox_body(seq) or b""
        self._connection.publish(self._node.topics.uplink, body)

    # -- status --------------------------------------------------------------------------------------------------

    def _periodic(self) -> None:
        now_s = time.monotonic()
        reconnected = self._connection.connected and self._connection.connects != self._connects
        if reconnected:  # first hear who else is here, then speak
            self._connects, self._status_due_s = self._connection.connects, now_s + LOOK_S
        if self._connection.inbox_full:
            self._node.bounds.reached("inbox", "the inbox is full: the broker has to wait", to_us(wall_now()))
        self._say_status_when_due()
        if reconnected:  # a broker that was killed has forgotten what it retained since it last saved
            self._carry_out([self._node.models.report()])
        if now_s >= self._stalled_due_s:
            self._stalled_due_s = now_s + STALLED_AFTER_S
            self._carry_out(self._node.models.stalled())
            self._save_unsaved()

    def _say_status_when_due(self) -> None:
        """Every STATUS_EVERY_S, and at once when the state has changed."""
        status, now_s = self._status(), time.monotonic()
        self._log_state(status)
        if status.state != self._state_said and self._connected_at_s < now_s - LOOK_S:
            self._status_due_s = min(self._status_due_s, now_s)
        if self._connection.connected and now_s >= self._status_due_s:
            self._status_due_s = now_s + STATUS_EVERY_S
            self._state_said = status.state
            self._connection.publish(self._node.topics.status, status.encode(), retain=True)

    def _log_state(self, status: Status) -> None:
        """Tell, once, that the edge became degraded or online, and that it asks central or was answered."""
        state = (status.state, RESTORE_WANTED in status.reasons)
        if state != self._state_logged:
            self._state_logged = state
            level = logging.WARNING if status.state == "degraded" else logging.INFO
            log.log(level, status.state, extra={"reasons": "; ".join(status.reasons) or "none"})

    def _status(self) -> Status:
        return self._node.status(instance=self._edge.instance, started_at=self._edge.started_at, version=__version__)

    def _say_offline(self) -> None:
        status = self._status()
        status.state = "offline"
        delivery = self._connection.publish(self._node.topics.status, status.encode(), retain=True)
        deadline_s = time.monotonic() + 2
        while not delivery.done and time.monotonic() < deadline_s:
            time.sleep(0.01)
