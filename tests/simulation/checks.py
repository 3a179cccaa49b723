"""What must hold after every step of a simulation, and at its end.

Owed is every QoS 1 reading a broker has taken for an edge. It must stand somewhere at every instant: unacknowledged in
the broker's session, in a batch on the edge's disk, or in the record (as a reading or a dead letter). Only a disaster
that destroys the last place it stood in forgives it: a wiped disk, an old disk image, an old record, a killed broker.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from central.gaps import first_seq
from shared.messages import Uplink
from shared.topics import SiteTopics
from tests.simulation.central_shell import ModelRecord
from tests.simulation.edge_shell import EdgeProcess
from tests.simulation.meters import Key, Sent, key_of_letter, key_of_row, rows_of

Identity = tuple[str, int]


def _gap_keys(batch: Uplink) -> set[Key]:
    rows = rows_of(batch.kinds.get("gaps", {}))
    counts = tuple(sorted((row["meter_id"], row["readings"]) for row in rows))
    return {("gap", counts, rows[0]["at_us"])} if rows else set()


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: object, sentence: str) -> None:
    """Raise Violation with `sentence` unless it holds."""
    if not holds:
        raise Violation(sentence)


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A stretch of a meter's time that a reading beyond the lateness would have changed."""

    meter: str
    from_us: int
    until_us: int


@dataclass(slots=True)
class Books:
    """All that is known of one site's readings and where they are."""

    topics: SiteTopics
    lateness_us: int
    reach_us: int
    owed: set[Key] = field(default_factory=set)
    forgiven: set[Key] = field(default_factory=set)
    published: Counter[Key] = field(default_factory=Counter)
    keys_of_payload: dict[tuple[str, bytes], tuple[Key, ...]] = field(default_factory=dict)
    on_disk: dict[int, frozenset[Key]] = field(default_factory=dict)
    lost_with_record: set[Key] = field(default_factory=set)
    gaps: dict[Key, set[Key]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    disk_keys: set[Key] = field(default_factory=set)
    recorded: set[Key] = field(default_factory=set)
    committed: Counter[Key] = field(default_factory=Counter)
    order: dict[tuple[Key, int], int] = field(default_factory=dict)
    receptions: int = 0
    rows: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    known: dict[Identity, float] = field(default_factory=dict)
    spoilt: list[Spoilt] = field(default_factory=list)
    closed_us: dict[str, int] = field(default_factory=dict)
    copies_allowed: int = 1
    disasters: int = 0

    # -- meters and broker -----------------------------------------------------------------------------------------

    def take(self, sent: Sent, *, owed: bool) -> None:
        """A broker has taken a message; `owed`: for an edge that has a session there."""
        self.keys_of_payload[self.topics.reading(sent.meter), sent.payload] = sent.keys
        self.published.update(sent.keys)
        if owed:
            self.owed.update(key for key in sent.keys if key not in self.forgiven)

    def keys_in(self, messages: Iterable[tuple[str, bytes]]) -> set[Key]:
        """What is in messages that wait at the broker."""
        return {key for message in messages for key in self.keys_of_payload.get(message, ())}

    # -- the edge's disk -------------------------------------------------------------------------------------------

    def look_afresh(self, edge: EdgeProcess) -> None:
        """After a start or a new epoch: what is on disk now, whatever we knew of it."""
        self.on_disk, self.first = {}, {}
        self._look(edge, new_rows=False)
        self._note_closed(edge)

    def look_after_commit(self, edge: EdgeProcess) -> None:
        """After a commit: its rows are new, and what left the outbox is in the record."""
        self._look(edge, new_rows=True)
        self._note_closed(edge)

    def look_after_gap(self, edge: EdgeProcess, first: int, last: int) -> None:
        """Batches `first` … `last` became one gap entry: it counts what they held, and is owed in their stead."""
        given_up = [self.on_disk.pop(seq) for seq in sorted(self.on_disk) if first <= seq <= last]
        rows = rows_of(edge.batch(last).kinds.get("gaps", {}))
        lost = sum(
            sum(count for _meter, count in key[1]) if key[0] == "gap" else 1 for keys in given_up for key in keys
        )
        told = sum(row["readings"] for row in rows)
        require(told >= lost, f"a gap tells of {told} and {lost} were given up")
        require(all(row["reason"] for row in rows), f"a gap without a reason: {rows}")
        held = set[Key]().union(*given_up)
        self._forgive(held - self.recorded)
        self._look(edge, new_rows=False)
        for gap in (key for key in self.on_disk[last] if key[0] == "gap"):
            self.owed.add(gap)
            self.gaps[gap] = (held | self.gaps.get(gap, set())) - {gap}

    def _look(self, edge: EdgeProcess, *, new_rows: bool) -> None:
        waiting = edge.outbox()
        for seq in self.on_disk.keys() - set(waiting):
            gone = self.on_disk.pop(seq)
            self._forgive({gap for gap in gone if gap in self.gaps and self._is_needless(gap)})
            require(
                gone <= self.recorded | self.forgiven,
                f"batch {seq} left the outbox before the record held {set(gone) - self.recorded}",
            )
        epoch = edge.disk_facts()["epoch"]
        for seq in waiting:
            if seq not in self.on_disk:
                batch = edge.batch(seq)
                require((batch.epoch, batch.seq) == (epoch, seq), f"outbox {seq} holds {batch.epoch} {batch.seq}")
                self.on_disk[seq] = self.enter(batch, new_rows=new_rows)
                self.first[seq] = first_seq(batch)
        for before, seq in pairwise(waiting):
            first = self.first.get(seq, seq)
            require(first <= before + 1 <= seq, f"the outbox has holes: {waiting}, gaps {self.first}")
        self.disk_keys = set().union(*self.on_disk.values())

    def _is_needless(self, gap: Key) -> bool:
        """Whether the record had told of all a gap stands for, unheard of by the edge: as rows or in other gaps."""
        was_recorded = self.recorded | self.lost_with_record
        told = was_recorded.union(*(self.gaps[other] for other in self.gaps.keys() & was_recorded))
        return all(key in told or (key in self.gaps and self._is_needless(key)) for key in self.gaps[gap])

    def _note_closed(self, edge: EdgeProcess) -> None:
        step_us = edge.params.step_s * 1_000_000
        self.closed_us = {meter: edge.closed(meter) * step_us for meter in edge.meters()}

    def enter(self, batch: Uplink, *, new_rows: bool = True) -> frozenset[Key]:
        """What is in a batch; `new_rows`: its readings were committed just now."""
        rows = rows_of(batch.kinds.get("readings", {}))
        if new_rows:
            for row in rows:
                self._enter_row(row)
        return frozenset({key_of_row(row) for row in rows} | self._letter_keys(batch) | _gap_keys(batch))

    def _letter_keys(self, batch: Uplink) -> set[Key]:
        keys = set()
        for row in rows_of(batch.kinds.get("dead_letters", {})):
            require(row["reason"], f"a dead letter without a reason: {row}")
            key = key_of_letter(row, self.topics.meter_of(row["topic"]))
            if key is not None and key not in self.published and key[0] == "reading":
                key = (*key[:2], None, key[3])  # one that had taken its arrival time
            require(key is None or key in self.published, f"a dead letter of what nobody sent: {row}")
            keys |= {key} if key is not None else set()
        return keys

    def _enter_row(self, row: dict[str, Any]) -> None:
        key, meter, ts_us = key_of_row(row), row["meter_id"], row["ts_us"]
        identity = meter, ts_us
        require(key in self.published, f"a reading that nobody sent: {row}")
        self.committed[key] += 1
        if key[2] is None:
            allowed = self.published[key] * self.copies_allowed
            require(
                self.committed[key] <= allowed, f"a reading without ts was taken {self.committed[key]} times: {row}"
            )
        late = ts_us < row["received_us"] - self.lateness_us
        if late and ts_us < self.closed_us.get(meter, ts_us):
            self.spoilt.append(Spoilt(meter, ts_us - self.reach_us, ts_us + self.reach_us))
        else:
            require(self.known.get(identity) != row["value"], f"a reading was counted twice: {row}")
            self.known[identity] = row["value"]
            self.rows[identity] = row
        self.receptions += 1
        self.order[key, row["received_us"]] = self.receptions

    # -- central ---------------------------------------------------------------------------------------------------

    def record(self, batch: Uplink) -> None:
        """A batch is in the record."""
        self.recorded |= self.enter(batch, new_rows=False)

    def record_restored(self, record: ModelRecord, site: str) -> None:
        """The record is an earlier one: what only its lost part held is forgiven."""
        before = self.recorded
        self.recorded = set()
        for name in ("readings", "dead_letters"):
            for rows in record.tables[name]:
                if rows.site == site and rows.seq <= record.recorded_seq(site, rows.epoch):
                    batch = Uplink(site=site, epoch=rows.epoch, seq=rows.seq, at="", kinds={rows.kind: rows.columns})
                    self.recorded |= self.enter(batch, new_rows=False)
        self.lost_with_record |= before - self.recorded
        self._forgive(before - self.recorded)

    # -- disasters -------------------------------------------------------------------------------------------------

    def disaster(self, waiting_at_broker: set[Key]) -> None:
        """The edge's disk is another one: what stands nowhere any more is forgiven, what was known may come again."""
        self.disasters += 1
        self.copies_allowed += 1
        self.known = {}
        self._forgive(self.owed - self.recorded - self.disk_keys - waiting_at_broker)

    def forgive_lost_queue(self, waiting_at_broker: set[Key]) -> None:
        """The broker was killed: what it alone held is forgiven."""
        self.copies_allowed += 1
        self._forgive(self.owed - self.recorded - self.disk_keys - waiting_at_broker)

    def _forgive(self, keys: set[Key]) -> None:
        self.forgiven |= keys
        self.owed -= keys

    # -- what must hold --------------------------------------------------------------------------------------------

    def check_nothing_lost(self, waiting_at_broker: Callable[[], set[Key]]) -> None:
        """Invariant 1, at this instant."""
        away = self.owed - self.recorded - self.disk_keys
        if away:
            away -= waiting_at_broker()
            require(not away, f"acknowledged and nowhere: {sorted(away, key=str)[:3]} ({len(away)} in all)")

    def check_all_recorded(self) -> None:
        """Invariant 1, when all has come to rest."""
        away = self.owed - self.recorded
        require(not away, f"never came into the record: {sorted(away, key=str)[:3]} ({len(away)} in all)")


@dataclass(slots=True)
class LedgerBooks:
    """What was sent under which number, and how far each epoch is recorded."""

    sent: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    recorded: dict[tuple[str, str], int] = field(default_factory=dict)

    def send(self, payload: bytes) -> None:
        """A batch passes the wire."""
        batch = Uplink.decompress(payload, "the wire")
        key = batch.site, batch.epoch, batch.seq
        digest = hashlib.sha256(payload).digest()
        if "gaps" in batch.kinds:  # may take the place of a batch that was sent and not acked
            return
        known = self.sent.setdefault(key, digest)
        require(known == digest, f"another content was sent under number {batch.seq} of epoch {batch.epoch}")

    def record(self, batches: Sequence[Uplink]) -> None:
        """These came into the record in one go: each after the last of its epoch, none left out but inside a gap."""
        before = dict(self.recorded)
        left_out: dict[tuple[str, str], set[int]] = {}
        for batch in batches:
            key = batch.site, batch.epoch
            last = self.recorded.get(key, 0)
            require(batch.seq > last, f"batch {batch.seq} of {key} was recorded after {last}")
            self.recorded[key] = batch.seq
            stands_for = range(max(first_seq(batch), before.get(key, 0) + 1), batch.seq + 1)
            left_out.setdefault(key, set()).update(range(last + 1, batch.seq))
            left_out[key] -= set(stands_for)
        require(not any(left_out.values()), f"numbers were left out: {left_out}")

    def life_ended(self, site: str) -> None:
        """What a site had under way will never arrive: its numbers stand for nothing yet."""
        for of_site, epoch, seq in list(self.sent):
            if of_site == site and seq > self.recorded.get((site, epoch), 0):
                del self.sent[of_site, epoch, seq]

    def record_restored(self, record: ModelRecord) -> None:
        """The record is an earlier one."""
        self.recorded = dict(record.ledgers["readings"])


def check_reader_rule(record: ModelRecord, books: Books, site: str) -> None:
    """Invariant 2: each identity's value in the record, by the reader's rule, is the one the edge received last."""
    best: dict[Identity, tuple[tuple[int, int, int], float]] = {}
    expected: dict[Identity, tuple[int, float]] = {}
    for part in record.tables["readings"]:
        if part.site != site:
            continue
        for number, row in enumerate(rows_of(part.columns)):
            identity, place = (row["meter_id"], row["ts_us"]), (row["received_us"], part.seq, number)
            best[identity] = max(best.get(identity, (place, row["value"])), (place, row["value"]))
            mine = books.order[key_of_row(row), row["received_us"]], row["value"]
            expected[identity] = max(expected.get(identity, mine), mine)
    for identity, (_place, value) in best.items():
        require(value == expected[identity][1], f"{identity}: readers see {value}, received last: {expected[identity]}")


def check_scored_once(record: ModelRecord, site: str) -> None:
    """Invariant 2: each forecast met the truth once. A copy under a new epoch is one score to who reads the record."""
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in record.tables["scores"]:
        if part.site == site:
            for row in rows_of(part.columns):
                score = row["meter_id"], row["valid_us"], row["lead"], row["role"]
                require(seen.setdefault(score, row) == row, f"scored twice: {score}")
