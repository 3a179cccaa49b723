"""The ledger's state machine, alone: whatever the wire does to batches, each is written once, in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from central.recorder import HELD_AT_MOST, BatchArrived, EpochMet, Recorder, Release, TellAcked, Write
from shared.messages import Uplink


def batch(seq: int, *, site: str = "s", epoch: str = "e") -> Uplink:
    return Uplink(site=site, epoch=epoch, seq=seq, at=f"2013-03-04T00:{seq % 60:02}:00Z", kinds={})


@dataclass
class World:
    """Carries effects out: the written batches, the latest answer, the deliveries released."""

    recorder: Recorder = field(default_factory=Recorder)
    written: list[tuple[str, int]] = field(default_factory=list)
    acked: dict[str, TellAcked] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    delivered: int = 0

    def meet(self, epoch: str = "e", seq: int = 0) -> None:
        self.carry_out(self.recorder.handle([EpochMet("s", epoch, seq)]))

    def deliver(self, *batches: Uplink) -> None:
        events = []
        for one in batches:
            self.delivered += 1
            self.open.add(self.delivered)
            events.append(BatchArrived(one, self.delivered))
        self.carry_out(self.recorder.handle(events))

    def carry_out(self, effects: list[Write | TellAcked | Release]) -> None:
        for effect in effects:
            match effect:
                case Write(batches):
                    self.written += [(one.epoch, one.seq) for one in batches]
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


def seq_of(world: World, epoch: str) -> int:
    return world.acked[epoch].seq if epoch in world.acked else 0
