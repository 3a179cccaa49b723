"""The byte stream of a broker: messages taken out, everything else left as it came, however it is cut into reads."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.packets import Incoming, Splitter, pubacks

KEEP_BYTES = 200
OTHERS = [
    b"\x20\x03\x00\x00\x00",  # CONNACK
    b"\x40\x02\x00\x07",  # PUBACK
    b"\x90\x04\x00\x01\x00\x01",  # SUBACK
    b"\xd0\x00",  # PINGRESP
    b"\xe0\x01\x8e",  # DISCONNECT, session taken over
]


def length_bytes(value: int) -> bytes:
    """A variable byte integer, from the words of the standard."""
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def publish(
    topic: bytes, payload: bytes, *, qos: int = 1, mid: int = 1, flags: int = 0, properties: bytes = b""
) -> bytes:
    """A PUBLISH packet."""
    name = len(topic).to_bytes(2, "big") + topic
    number = mid.to_bytes(2, "big") if qos else b""
    body = name + number + length_bytes(len(properties)) + properties + payload
    return bytes([0x30 | qos << 1 | flags]) + length_bytes(len(body)) + body


def fed(reads: Iterable[bytes], keep_bytes: int = KEEP_BYTES) -> tuple[list[Incoming], bytes, Splitter]:
    """What comes of these reads on one connection."""
    splitter = Splitter(connection=3, keep_bytes=keep_bytes)
    messages: list[Incoming] = []
    left = b""
    for read in reads:
        more, others = splitter.feed(read)
        messages += more
        left += others
    return messages, left, splitter


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """The stream cut at these places."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


ours = st.builds(
    publish,
    st.text(min_size=1, max_size=150).map(str.encode),
    st.binary(max_size=400),
    qos=st.sampled_from([0, 1]),
    mid=st.integers(1, 65_535),
    flags=st.sampled_from([0, 1, 8, 9]),
    properties=st.binary(max_size=150),
)
others = st.sampled_from(OTHERS) | st.builds(
    publish, st.just(b"t"), st.binary(max_size=300), qos=st.just(2), mid=st.integers(1, 65_535)
)


def test_a_message_is_read_as_it_was_sent() -> None:
    packet = publish(b"a/b", b"12 kW", qos=1, mid=513, flags=0x09, properties=b"\x02\x00\x00\x00\x3c")
    messages, left, _ = fed([packet])
    assert messages == [Incoming("a/b", b"12 kW", 5, 1, True, 513, True, 3)]
    assert left == b""


def test_a_message_at_qos_0_has_no_number() -> None:
    messages, _, _ = fed([publish(b"a/b", b"12 kW", qos=0)])
    assert messages == [Incoming("a/b", b"12 kW", 5, 0, False, 0, False, 3)]


@given(st.lists(ours | others, max_size=12), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cutting_of_any_packets_gives_the_same_messages(packets: list[bytes], places: list[int]) -> None:
    stream = b"".join(packets)
    messages, left, splitter = fed(cut(stream, places))
    whole = [fed([packet]) for packet in packets]
    assert messages == [message for one, _, _ in whole for message in one]
    assert left == b"".join(left for _, left, _ in whole)
    assert splitter.violation is None


def test_a_stream_cut_at_every_byte_gives_the_same_messages() -> None:
    stream = publish(b"m/1", b"x" * 300, mid=1) + OTHERS[0] + publish(b"m/2", b"", mid=2, properties=b"p" * 130)
    at_once = fed([stream])[:2]
    assert [message.topic for message in at_once[0]] == ["m/1", "m/2"]
    assert fed(stream[at : at + 1] for at in range(len(stream)))[:2] == at_once
    for place in range(len(stream)):
        assert fed([stream[:place], stream[place:]])[:2] == at_once


@given(st.lists(others, max_size=8), st.lists(st.integers(0, 2_000), max_size=8))
def test_what_is_not_ours_is_left_byte_for_byte(packets: list[bytes], places: list[int]) -> None:
    stream = b"".join(packets)
    assert fed(cut(stream, places))[:2] == ([], stream)


@pytest.mark.parametrize("read_bytes", [1_000, 7_919, 10_000_000])
def test_of_a_long_payload_only_the_beginning_is_kept(read_bytes: int) -> None:
    payload = bytes(range(256)) * 300
    stream = publish(b"long", payload) + publish(b"next", b"1")
    messages, _, _ = fed(stream[at : at + read_bytes] for at in range(0, len(stream), read_bytes))
    assert messages == [
        Incoming("long", payload[:KEEP_BYTES], len(payload), 1, False, 1, False, 3),
        Incoming("next", b"1", 1, 1, False, 1, False, 3),
    ]


@pytest.mark.parametrize("properties", [b"", b"p" * 10_000_000])
def test_a_packet_of_many_megabytes_is_never_held(properties: bytes) -> None:
    packet = publish(b"long", bytes(10_000_000), properties=properties)
    tracemalloc.start()
    try:
        messages, _, _ = fed(packet[at : at + 65_536] for at in range(0, len(packet), 65_536))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert messages[0].size == 10_000_000
    assert peak_bytes < 1_000_000


def test_a_topic_that_is_no_utf8_is_read_with_the_replacement_character() -> None:
    assert fed([publish(b"a/\xff/b", b"1")])[0][0].topic == "a/\N{REPLACEMENT CHARACTER}/b"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (publish(b"", b"1"), "without a topic"),
        (publish(b"t", b"1", mid=0), "without a message id"),
        (b"\x32\x00", "within its header"),
        (b"\x32\x04\x00\x09ab", "within its header"),
        (b"\x32\x06\x00\x01t\x00\x01\x05", "within its header"),
        (b"\x32\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x90\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x32\x0c\x00\x01t\x00\x01\xff\xff\xff\xff\x01ab", "more than four bytes"),
    ],
)
def test_what_mqtt_does_not_allow_ends_the_stream_after_the_messages_before_it(bad: bytes, why: str) -> None:
    stream = publish(b"good", b"1") + bad + publish(b"after", b"1") * 20
    for reads in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        messages, left, splitter = fed(reads)
        assert [message.topic for message in messages] == ["good"]
        assert left == b""
        assert why in str(splitter.violation)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_whatever_bytes_come_nothing_but_messages_leftovers_and_violations_comes_of_them(
    stream: bytes, places: list[int]
) -> None:
    messages, left, splitter = fed(cut(stream, places))
    again, same_left, same = fed([stream])
    assert (messages, left) == (again, same_left)
    assert str(splitter.violation) == str(same.violation)


def test_acknowledgements_are_whole_packets_in_order() -> None:
    assert pubacks([1, 0xFFFE]) == b"\x40\x02\x00\x01\x40\x02\xff\xfe"
    assert pubacks([]) == b""
