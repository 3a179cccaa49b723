"""The edge's half of the ledger."""

from edge.uplink import UNHEARD_AT_MOST_S, UplinkLedger
from shared.messages import MAX_UPLINK_BYTES, Acked, Uplink


def _ledger(waiting: int = 0) -> UplinkLedger:
    return UplinkLedger("s", "e1", next_seq=waiting + 1, waiting=[(seq, 10) for seq in range(1, waiting + 1)])


def _due(ledger: UplinkLedger, at_s: float) -> list[int]:
    return ledger.due(at_s, window=3, resend_after_s=20)


def test_at_most_the_window_is_under_way_and_the_unanswered_go_again() -> None:
    ledger = _ledger(5)
    assert _due(ledger, 0) == [1, 2, 3]
    assert _due(ledger, 1) == []
    assert ledger.on_acked(Acked(epoch="e1", seq=2, at="")) == [1, 2]
    assert _due(ledger, 2) == [4, 5]
    assert _due(ledger, 20) == [3]


def test_each_sending_without_an_answer_doubles_the_wait_and_an_answer_resets_it() -> None:
    ledger = _ledger(1)
    sent = [second for second in range(200) if _due(ledger, second)]
    assert sent == [0, 20, 60, 140]
    ledger.on_acked(Acked(epoch="e1", seq=0, at=""))
    assert _due(ledger, 200) == [1]


def test_an_old_ack_that_comes_again_parts_nobody() -> None:
    ledger = _ledger(6)
    early = Acked(epoch="e1", seq=2, missing=[(3, 4)], at="2026-01-05T00:00:01Z")
    late = Acked(epoch="e1", seq=5, at="2026-01-05T00:00:02Z")
    for acked in (early, late, early, late):
        assert not ledger.disowned_by(acked)
        ledger.on_acked(acked)
    assert ledger.disowned_by(Acked(epoch="e1", seq=0, missing=[(1, 3), (5, 5)], at="2026-01-05T00:00:03Z"))
    assert ledger.disowned_by(Acked(epoch="e1", seq=7, at=""))


def test_what_central_misses_is_sent_at_once() -> None:
    ledger = _ledger(3)
    _due(ledger, 0)
    ledger.on_acked(Acked(epoch="e1", seq=0, missing=[(1, 2)], at=""))
    assert _due(ledger, 1) == [1, 2]


def test_what_gives_way_is_never_among_what_is_under_way() -> None:
    ledger = _ledger(9)
    assert _due(ledger, 0) == [1, 2, 3]
    assert ledger.overflow(70) == (4, 6)
    ledger.on_acked(Acked(epoch="e1", seq=0, missing=[(1, 1)], at=""))
    assert ledger.overflow(70) == (4, 6)


def test_acks_of_another_epoch_are_ignored() -> None:
    ledger = _ledger(2)
    assert ledger.on_acked(Acked(epoch="other", seq=9, at="")) == []
    assert ledger.batches == 2


def test_rows_too_many_for_one_batch_become_several_in_order_with_none_lost() -> None:
    noise = [str(hash((n, "x"))) * 3 for n in range(30_000)]
    batches = _ledger().enqueue({"readings": {"a": noise, "b": list(range(30_000))}, "scores": {"c": [1]}}, "now")
    read = [Uplink.decompress(body, "t") for _, body in batches]
    assert [batch.seq for batch in read] == list(range(1, len(batches) + 1))
    assert all(len(body) <= MAX_UPLINK_BYTES for _, body in batches)
    assert [b for batch in read for b in batch.kinds.get("readings", {}).get("b", [])] == list(range(30_000))
    assert [c for batch in read for c in batch.kinds.get("scores", {}).get("c", [])] == [1]


def test_nothing_to_say_takes_no_number() -> None:
    ledger = _ledger()
    assert ledger.enqueue({"readings": {}, "scores": {"a": []}}, "now") == []
    assert ledger.next_seq == 1


def _acked(seq: int, *missing: tuple[int, int]) -> Acked:
    return Acked(epoch="e", seq=seq, missing=list(missing), at="2026-01-05T00:00:00Z")


def test_no_number_of_this_process_is_sent_before_central_was_heard() -> None:
    ledger = UplinkLedger("s", "e", next_seq=3, waiting=[(1, 10), (2, 10)])
    ledger.enqueue({"events": {"a": [1]}}, "now")
    assert ledger.due(0.0, window=16, resend_after_s=20.0) == [1, 2]
    ledger.on_acked(_acked(0), fresh=False)
    assert ledger.due(1.0, window=16, resend_after_s=20.0) == []
    ledger.on_acked(_acked(1))
    assert ledger.due(2.0, window=16, resend_after_s=20.0) == [3]


def test_a_number_that_nobody_vouched_for_before_a_restart_still_waits_after_it() -> None:
    """An image taken while they wait may be put back after the life it was taken of began a new epoch."""
    first = UplinkLedger("s", "e", next_seq=3, waiting=[(1, 10), (2, 10)])
    first.enqueue({"events": {"a": [1]}}, "now")
    second = UplinkLedger("s", "e", next_seq=4, waiting=[(1, 10), (2, 10), (3, 10)], vouched=first.vouched)
    assert second.due(0.0, window=16, resend_after_s=20.0) == [1, 2]
    assert second.is_in_doubt(UNHEARD_AT_MOST_S)
    assert second.disowned_by(_acked(3))
    second.on_acked(_acked(2))
    assert (second.vouched, second.due(1.0, window=16, resend_after_s=20.0)) == (3, [3])


def test_numbers_that_nobody_vouches_for_are_given_up_for_a_new_epoch() -> None:
    ledger = UplinkLedger("s", "e", next_seq=3, waiting=[(1, 10), (2, 10)])
    assert not ledger.is_in_doubt(UNHEARD_AT_MOST_S)
    ledger.enqueue({"events": {"a": [1]}}, "now")
    assert not ledger.is_in_doubt(UNHEARD_AT_MOST_S - 1)
    assert ledger.is_in_doubt(UNHEARD_AT_MOST_S)
    ledger.renew("new", [(1, 10), (2, 10), (3, 10)])
    assert not ledger.is_in_doubt(UNHEARD_AT_MOST_S)
    assert ledger.due(0.0, window=16, resend_after_s=20.0) == [1, 2, 3]


def test_what_central_has_of_numbers_we_never_sent_belongs_to_another_life_of_this_disk() -> None:
    """A disk image from last week: batch 3 here is not the batch 3 that central has."""
    ledger = UplinkLedger("s", "e", next_seq=3, waiting=[(2, 10)], recorded=(1, 0))
    for _ in range(5):
        ledger.enqueue({"events": {"a": [1]}}, "now")
    ledger.due(0.0, window=16, resend_after_s=20.0)
    assert not ledger.disowned_by(_acked(2))
    assert ledger.disowned_by(_acked(3))
    assert ledger.disowned_by(_acked(7))


def test_a_gap_entry_that_was_lost_is_asked_for_again_and_is_no_reason_for_a_new_epoch() -> None:
    ledger = UplinkLedger("s", "e", next_seq=60, waiting=[(50, 10), (51, 10)], recorded=(10, 0))
    ledger.due(0.0, window=16, resend_after_s=20.0)
    wanted = _acked(10, (11, 50))
    assert not ledger.disowned_by(wanted)
    ledger.on_acked(wanted)
    assert ledger.due(1.0, window=16, resend_after_s=20.0) == [50]
