"""The inbox: in order, bounded in bytes, and in messages for QoS 0."""

from __future__ import annotations

import threading
import time

from shared.inbox import MESSAGE_BYTES, Inbox
from shared.packets import Incoming
from tests.waiting import PATIENCE_S


def message(number: int, *, qos: int = 1, payload: bytes = b"1") -> Incoming:
    return Incoming("t", payload, len(payload), qos, False, number, False, 1)


def test_messages_without_a_payload_fill_it_too() -> None:
    inbox = Inbox(at_most=10, at_most_bytes=10 * MESSAGE_BYTES)
    inbox.put([message(number, payload=b"") for number in range(10)])
    assert inbox.full


def numbers(messages: list[Incoming]) -> list[int]:
    return [message.mid for message in messages]


def test_messages_are_taken_in_order_up_to_the_limit() -> None:
    inbox = Inbox(at_most=10, at_most_bytes=10_000)
    inbox.put([message(1), message(2), message(3)])
    inbox.put([message(4)])
    assert (numbers(inbox.take(2, 0)), len(inbox)) == ([1, 2], 2)
    assert (numbers(inbox.take(9, 0)), len(inbox)) == ([3, 4], 0)


def test_taking_from_an_empty_inbox_waits_for_the_first_message_or_the_time() -> None:
    inbox = Inbox(at_most=10, at_most_bytes=10_000)
    assert inbox.take(1, 0.01) == []
    threading.Timer(0.05, inbox.put, [[message(1)]]).start()
    began_s = time.monotonic()
    assert numbers(inbox.take(1, PATIENCE_S)) == [1]
    assert time.monotonic() - began_s < PATIENCE_S / 2


def test_qos_0_beyond_the_bound_is_dropped_and_counted_but_qos_1_never() -> None:
    inbox = Inbox(at_most=2, at_most_bytes=10_000)
    inbox.put([message(1, qos=0), message(2, qos=0)])
    inbox.put([message(3, qos=0), message(4, qos=1), message(5, qos=0)])
    assert inbox.dropped == 2
    assert numbers(inbox.take(9, 0)) == [1, 2, 4]


def test_an_inbox_is_full_from_its_bytes_on_until_some_are_taken() -> None:
    inbox = Inbox(at_most=10, at_most_bytes=2 * MESSAGE_BYTES + 100)
    inbox.put([message(1, payload=b"x" * 97)])
    assert (inbox.full, inbox.wait_for_room(0)) == (False, True)
    inbox.put([message(2, payload=b"")])
    assert (inbox.full, len(inbox)) == (False, 2)
    inbox.put([message(3, payload=b"")])
    assert (inbox.full, inbox.wait_for_room(0.01)) == (True, False)
    threading.Timer(0.05, inbox.take, [1, 0]).start()
    assert inbox.wait_for_room(PATIENCE_S)
    assert not inbox.full
