"""The ledger's state machine, alone: whatever the wire does to batches, each is written once, in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from central.recorder import (
    EPOCHS_IN_ALL,
    EPOCHS_OF_A_SITE,
    HELD_AT_MOST,
    HELD_BYTES_IN_ALL,
    BatchArrived,
    EdgeAsked,
    EpochMet,
    Recorder,
    Release,
    TellAcked,
    Write,
)
from edge.uplink import UplinkLedger
from shared.messages import GAP_COLUMNS, Acked, Uplink, columns_of


def batch(seq: int, *, site: str = "s", epoch: str = "e", since: int | None = None) -> Uplink:
    """A batch; with `since`, a gap that stands for `since` … `seq`."""
    gaps = [] if since is None else [(since, seq, "m", 3, "the outbox was full", 0)]
    kinds = {"gaps": columns_of(GAP_COLUMNS, gaps)} if gaps else {}
    return Uplink(site=site, epoch=epoch, seq=seq, at=f"2013-03-04T00:{seq % 60:02}:00Z", kinds=kinds)


@dataclass
class World:
    """Carries effects out: the written batches, the latest answer, the deliveries released."""

    recorder: Recorder = field(default_factory=Recorder)
    written: list[tuple[str, int]] = field(default_factory=list)
    acked: dict[str, TellAcked] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    delivered: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def meet(self, epoch: str = "e", seq: int = 0) -> None:
        self.carry_out(self.recorder.handle([EpochMet("s", epoch, seq)]))

    def deliver(self, *batches: Uplink) -> None:
        events = []
        for one in batches:
            self.delivered += 1
            self.open.add(self.delivered)
            events.append(BatchArrived(one, self.delivered))
        self.carry_out(self.recorder.handle(events))

    @property
    def numbers(self) -> list[int]:
        return [seq for _, seq in self.written]

    def carry_out(self, effects: list[Write | TellAcked | Release]) -> None:
        for effect in effects:
            match effect:
                case Write(batches):
                    self.written += [(one.epoch, one.seq) for one in batches]
                    self.gaps += [(first_of(one), one.seq) for one in batches if one.kinds]
                case TellAcked():
                    self.acked[effect.epoch] = effect
                case Release(deliveries):
                    self.open -= set(deliveries)


def test_a_batch_that_comes_twice_is_written_once_and_acked_again() -> None:
    world = World()
    world.meet()
    world.deliver(batch(1), batch(1))
    world.acked.clear()
    world.deliver(batch(1))
    assert world.written == [("e", 1)]
    assert world.acked["e"].seq == 1
    assert world.open == set()
    assert world.recorder.duplicates == 2


def test_a_gap_holds_later_batches_unreleased_and_is_told() -> None:
    world = World()
    world.meet()
    world.deliver(batch(1), batch(3), batch(6))
    assert world.written == [("e", 1)]
    assert list(world.acked["e"].missing) == [(2, 2), (4, 5)]
    assert len(world.open) == 2
    world.deliver(batch(2))
    assert world.written == [("e", 1), ("e", 2), ("e", 3)]
    assert list(world.acked["e"].missing) == [(4, 5)]


def test_an_epoch_goes_on_where_the_record_stands() -> None:
    world = World()
    world.meet(seq=41)
    world.deliver(batch(41), batch(42))
    assert world.written == [("e", 42)]


def test_meeting_an_epoch_again_forgets_nothing() -> None:
    world = World()
    world.meet()
    world.deliver(batch(2))
    world.meet()
    world.deliver(batch(1))
    assert world.written == [("e", 1), ("e", 2)]


def test_a_batch_too_far_ahead_is_not_held() -> None:
    world = World()
    world.meet()
    world.deliver(batch(HELD_AT_MOST + 1))
    assert world.written == []
    assert world.open == set()
    assert world.acked["e"].seq == 0


def test_a_gap_continues_an_epoch_for_all_the_numbers_it_stands_for() -> None:
    world = World()
    world.meet()
    world.deliver(batch(1), batch(500, since=2), batch(501))
    assert world.numbers == [1, 500, 501]
    assert (world.acked["e"].seq, world.acked["e"].missing) == (501, ())
    assert world.open == set()


def test_a_gap_continues_an_epoch_of_which_part_of_its_range_is_recorded() -> None:
    world = World()
    world.meet(seq=6)
    world.deliver(batch(9, since=3))
    assert world.numbers == [9]
    world.deliver(batch(9, since=3), batch(8), batch(5, since=2))
    assert world.numbers == [9]
    assert world.recorder.duplicates == 3
    assert world.open == set()


def test_a_gap_that_begins_too_late_is_held_and_what_lies_before_it_is_wanted() -> None:
    world = World()
    world.meet()
    world.deliver(batch(9, since=4), batch(7))
    assert world.numbers == []
    assert world.acked["e"].missing == ((1, 3),)
    world.deliver(batch(1), batch(2))
    assert world.numbers == [1, 2]
    assert world.acked["e"].missing == ((3, 3),)


def test_what_is_held_inside_a_gap_is_written_before_it() -> None:
    world = World()
    world.meet()
    world.deliver(batch(4), batch(6))
    world.deliver(batch(5, since=1))
    assert world.numbers == [4, 5, 6]
    assert world.open == set()


def test_of_a_batch_and_a_gap_with_one_number_the_gap_is_held_in_whichever_order_they_come() -> None:
    for pair in ([batch(9, since=3), batch(9)], [batch(9), batch(9, since=3)]):
        world = World()
        world.meet()
        world.deliver(*pair)
        assert world.acked["e"].missing == ((1, 2),)
        assert len(world.open) == 1


def test_gaps_beyond_what_may_be_held_are_not_held() -> None:
    world = World()
    world.meet()
    world.deliver(*(batch(seq, since=2) for seq in range(1000, 1000 + 2 * HELD_AT_MOST)))
    assert world.recorder.held == HELD_AT_MOST
    world.deliver(batch(1))
    assert world.acked["e"].seq >= 1000
    assert world.open == set()


def test_a_batch_too_early_to_be_held_tells_its_edge_what_is_missing_before_it() -> None:
    world = World()
    world.meet(seq=5)
    world.deliver(batch(500), batch(400), batch(8))
    assert list(world.acked["e"].missing) == [(6, 7), (9, 399)]
    world.deliver(batch(6))
    assert list(world.acked["e"].missing) == [(7, 7)]


def test_an_edge_that_asks_is_told_how_far_its_epoch_is() -> None:
    recorder = Recorder()
    effects = recorder.handle([EpochMet("s", "e", 12), EdgeAsked("s", "e")])
    assert effects == [TellAcked("s", "e", 12, (), "")]


def test_endless_epochs_of_a_site_are_let_go_of_and_their_held_batches_released() -> None:
    world = World()
    for number in range(10 * EPOCHS_OF_A_SITE):
        world.meet(f"e{number}")
        world.deliver(batch(2, epoch=f"e{number}"))
    assert world.recorder.epochs == EPOCHS_OF_A_SITE
    assert len(world.open) == world.recorder.held == EPOCHS_OF_A_SITE
    assert not world.recorder.knows("s", "e0")
    world.meet("e0")
    world.deliver(batch(1, epoch="e0"), batch(2, epoch="e0"))
    assert world.written == [("e0", 1), ("e0", 2)]


def test_an_epoch_that_is_heard_of_stays_while_others_come_and_go() -> None:
    world = World()
    world.meet("old")
    for number in range(10 * EPOCHS_OF_A_SITE):
        world.meet(f"e{number}")
        world.deliver(batch(number + 1, epoch="old"))
    assert [seq for epoch, seq in world.written if epoch == "old"] == list(range(1, 10 * EPOCHS_OF_A_SITE + 1))


def test_endless_sites_are_let_go_of() -> None:
    recorder = Recorder()
    recorder.handle(EpochMet(f"s{number}", "e", 0) for number in range(EPOCHS_IN_ALL + 5))
    assert recorder.epochs == EPOCHS_IN_ALL
    assert not recorder.knows("s4", "e")


def test_batches_held_in_all_are_bounded_in_number_and_bytes_and_the_longest_unheard_of_let_go() -> None:
    world = World(Recorder(held_in_all=10))
    for number in range(4):
        world.meet(f"e{number}")
        world.deliver(*(batch(seq, epoch=f"e{number}") for seq in range(2, 6)))
    assert world.recorder.held == len(world.open) == 10
    assert world.acked["e3"].missing == ((1, 1),)
    world.deliver(batch(1, epoch="e3"))
    assert world.acked["e3"].seq == 5
    arrived = BatchArrived(batch(9, epoch="e3"), 99, size_bytes=HELD_BYTES_IN_ALL + 1)
    released = world.recorder.handle([arrived])[-1]
    assert isinstance(released, Release)
    assert set(released.deliveries) == world.open | {99}
    assert world.recorder.held == 0


def test_a_record_that_is_an_old_copy_is_seen_by_an_edge_however_old_it_is() -> None:
    for recorded in (0, 80, 99):
        ledger = UplinkLedger("s", "e", next_seq=101, waiting=[], recorded=(100, 0))
        ledger.enqueue({"events": {"at_us": [0], "event": ["x"], "detail": [""]}}, "2013-03-04T00:00:00Z")
        world = World()
        world.meet(seq=recorded)
        world.deliver(batch(101))
        told = world.acked["e"]
        assert ledger.disowned_by(Acked(epoch="e", seq=told.seq, missing=list(told.missing), at=told.at))


def test_writes_come_before_answers_and_answers_before_releases() -> None:
    recorder = Recorder()
    effects = recorder.handle([EpochMet("s", "e", 0), BatchArrived(batch(1), 1)])
    assert [type(effect) for effect in effects] == [Write, TellAcked, Release]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_loss_repetition_and_disorder_with_resends_ends_with_each_batch_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    world = World()
    world.meet("a")
    world.meet("b")
    everything = [batch(seq, epoch=epoch) for epoch in "ab" for seq in range(1, count + 1)]
    for _ in range(data.draw(st.integers(0, 4))):
        chosen = data.draw(st.lists(st.sampled_from(everything), max_size=60))
        cuts = data.draw(st.integers(1, 10))
        for start in range(0, len(chosen), cuts):
            world.deliver(*chosen[start : start + cuts])
    while unacked := [one for one in everything if one.seq > seq_of(world, one.epoch)]:
        world.deliver(*unacked[:16])  # an edge's window
    for epoch in "ab":
        assert [seq for name, seq in world.written if name == epoch] == list(range(1, count + 1))
    assert world.open == set()


chances = st.booleans()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_gaps_of_a_full_outbox_under_any_loss_and_disorder_leave_every_number_written_or_in_a_written_gap(
    data: st.DataObject,
) -> None:
    world = World()
    world.meet()
    outbox: dict[int, Uplink] = {}
    sent: list[Uplink] = []
    for seq in range(1, data.draw(st.integers(2, 30))):
        outbox[seq] = batch(seq)
        if data.draw(st.integers(0, 5)) == 0:
            given_up = sorted(outbox)[: data.draw(st.integers(1, len(outbox)))]
            since = min(first_of(outbox[one]) for one in given_up)
            outbox = {one: kept for one, kept in outbox.items() if one not in given_up}
            outbox[given_up[-1]] = batch(given_up[-1], since=since)
        sent += [outbox[one] for one in sorted(outbox)[: data.draw(st.integers(0, 4))]]
        if data.draw(chances) and sent:
            arrived: list[Uplink] = data.draw(st.lists(st.sampled_from(sent), max_size=6))
            world.deliver(*arrived)
        if data.draw(chances):
            outbox = {one: kept for one, kept in outbox.items() if one > seq_of(world, "e")}
    last = max(outbox, default=seq_of(world, "e"))
    while waiting := [outbox[one] for one in sorted(outbox) if one > seq_of(world, "e")]:
        world.deliver(*waiting[:16])
    numbers = [seq for _, seq in world.written]
    assert numbers == sorted(set(numbers))
    assert seq_of(world, "e") == last
    assert world.open == set()
    for seq in range(1, last + 1):
        assert seq in numbers or any(since <= seq <= until for since, until in world.gaps)


def first_of(one: Uplink) -> int:
    return int(one.kinds["gaps"]["from_seq"][0]) if one.kinds else one.seq


def seq_of(world: World, epoch: str) -> int:
    return world.acked[epoch].seq if epoch in world.acked else 0
