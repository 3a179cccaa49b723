"""How the doctor grades what it measured: grants, the queue, clocks and the disk."""

from pathlib import Path
from typing import Any

import pytest

from edge.doctor import broker, clocks, disk, parking
from edge.doctor.broker import DROPPED, VERSION, Visit
from edge.doctor.clocks import Heard
from edge.doctor.demand import Demand
from edge.doctor.parking import Parking
from edge.doctor.wording import size, some_of, span
from shared.clock import SECOND_US, iso, parse_instant_us
from shared.findings import Finding, Grade
from shared.messages import Acked
from shared.mqtt import Granted
from shared.params import Params

NOW_US = parse_instant_us("2026-01-05T10:00:00Z")
WEEK_S = 7 * 86_400


def granted(**more: Any) -> Granted:
    usual: dict[str, Any] = {
        "reason_code": 0,
        "reason": "Success",
        "session_present": False,
        "session_expiry_s": WEEK_S,
        "receive_maximum": 65_535,
        "max_packet_bytes": None,
        "max_qos": 2,
        "retain": True,
        "wildcards": True,
    }
    return Granted(**{**usual, **more})


def by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {one.subject: one for one in found}


def granting(**more: Any) -> dict[str, Finding]:
    return by_subject(broker.judge(Params(), Visit(granted(**more), {VERSION: b"mosquitto 2", DROPPED: b"0"})))


def test_a_broker_that_limits_nothing_is_ok() -> None:
    assert {one.grade for one in granting().values()} == {Grade.OK}


@pytest.mark.parametrize(
    ("grant", "subject", "grade", "part"),
    [
        ({"session_expiry_s": 3600}, "session", Grade.MEND, "is kept for 60 min"),
        ({"session_expiry_s": 0}, "session", Grade.MEND, "is not kept"),
        ({"retain": False}, "abilities", Grade.MEND, "without retained messages"),
        ({"wildcards": False, "max_qos": 0}, "abilities", Grade.MEND, "without QoS 1 and wildcard subscriptions"),
        ({"max_packet_bytes": 131_072}, "packet size", Grade.MEND, "packets over 128 KiB end the connection"),
        ({"max_packet_bytes": 2_000_000}, "packet size", Grade.OK, "up to 1.9 MiB"),
        ({"receive_maximum": 10}, "publications", Grade.NOTE, "takes 10 unacknowledged"),
    ],
)
def test_what_a_broker_does_not_grant_is_named(grant: dict[str, Any], subject: str, grade: Grade, part: str) -> None:
    found = granting(**grant)[subject]
    assert found.grade is grade
    assert part in found.found


@pytest.mark.parametrize(("payload", "grade"), [(b"0", Grade.OK), (b"12", Grade.NOTE), (None, Grade.NOTE)])
def test_dropped_messages_are_worth_knowing(payload: bytes | None, grade: Grade) -> None:
    retained = {} if payload is None else {DROPPED: payload}
    assert by_subject(broker.judge(Params(), Visit(granted(), retained)))["dropped"].grade is grade


def test_a_broker_that_counts_and_tells_of_no_drop_has_dropped_nothing_for_a_minute() -> None:
    seen = Visit(granted(), {VERSION: b"mosquitto version 2.0.11"})
    found = by_subject(broker.judge(Params(), seen))["dropped"]
    assert found.grade is Grade.OK
    assert "no message in the last minute" in found.found


@pytest.mark.parametrize(
    ("returned", "meters", "grade", "part"),
    [
        (100, 10, Grade.MEND, "100 of 2,000 parked messages came back; 10 meters at a reading a minute send 600"),
        (1_000, 10, Grade.OK, "1,000 of 2,000"),
        (1_000, 0, Grade.NOTE, "no meter is known yet, and this is good for 16 meters"),
        (2_000, 33, Grade.OK, "all 2,000"),
        (2_000, 34, Grade.NOTE, "all 2,000"),
        (2_000, 0, Grade.OK, "all 2,000"),
    ],
)
def test_a_queue_is_judged_by_what_the_meters_send_in_an_hour(
    returned: int, meters: int, grade: Grade, part: str
) -> None:
    found = by_subject(
        parking.judge(Parking(2_000, returned, returned, session_kept=True), Demand(meters), topic="t/x", batch=1)
    )
    assert found["queue"].grade is grade
    assert part in found["queue"].found


def test_a_larger_site_is_told_how_to_ask_again_or_where_to_look() -> None:
    mends = [
        parking.judge(Parking(2_000, 2_000, 2_000, session_kept=True), Demand(meters), topic="t/x", batch=1)[0].mend
        for meters in (100, 100_000)
    ]
    assert mends == [
        "ask again with --park 6000, or look in --broker-conf FILE",
        "see that the broker's max_queued_messages is 6000000 or more",
    ]


def test_a_session_that_was_forgotten_and_a_topic_that_is_forbidden_are_told_apart() -> None:
    forgotten = parking.judge(Parking(2_000, 0, 0, session_kept=False), Demand(1), topic="m/home/doctor/x", batch=1)
    forbidden = parking.judge(None, Demand(1), topic="m/home/doctor/x", batch=1)
    assert [one.grade for one in (*forgotten, *forbidden)] == [Grade.MEND, Grade.NOTE]
    assert forbidden[0].mend == "let this account publish and subscribe to m/home/doctor/+"


@pytest.mark.parametrize(
    ("returned", "unacknowledged", "grade"),
    [(2_000, 1_000, Grade.OK), (2_000, 20, Grade.MEND), (100, 100, Grade.NOTE)],
)
def test_a_broker_that_stops_before_a_whole_batch_is_to_mend(returned: int, unacknowledged: int, grade: Grade) -> None:
    found = parking.judge(
        Parking(2_000, returned, unacknowledged, session_kept=True), Demand(1), topic="t/x", batch=1_000
    )
    assert by_subject(found)["receive maximum"].grade is grade


def acked(at_us: int) -> bytes:
    return Acked(epoch="e", seq=1, at=iso(at_us)).encode()


@pytest.mark.parametrize(
    ("payload", "grade", "part"),
    [
        (acked(NOW_US + 90 * SECOND_US), Grade.MEND, "90 s ahead"),
        (acked(NOW_US + SECOND_US), Grade.OK, "not ahead"),
        (acked(NOW_US - 7200 * SECOND_US), Grade.OK, "the last ack is 2 h old"),
        (b"nonsense", Grade.MEND, "holds something else"),
        (b'{"schema":1,"epoch":"e","seq":1,"at":"yesterday"}', Grade.MEND, "holds something else"),
        (None, Grade.NOTE, "acknowledged nothing yet"),
    ],
)
def test_centrals_clock_is_seen_in_its_last_ack(payload: bytes | None, grade: Grade, part: str) -> None:
    found = clocks.judge_acked(payload, topic="t/acked", now_us=NOW_US)
    assert found.grade is grade
    assert part in found.found


def test_recorded_meters_ahead_of_now_are_named_with_their_seconds_the_worst_first() -> None:
    seconds = {"good": -5, "fast": 45, "faster": 312, "a": 31, "b": 32}
    latest_us = {meter: NOW_US + skew_s * SECOND_US for meter, skew_s in seconds.items()}
    found = clocks.judge_recorded(latest_us, now_us=NOW_US)
    assert found.grade is Grade.MEND
    assert found.found == (
        "4 of 5 meters ahead of this clock: faster is 312 s ahead, fast is 45 s ahead, b is 32 s ahead and 1 more"
    )


def test_when_all_meters_are_ahead_it_is_this_machine_that_is_late() -> None:
    latest_us = dict.fromkeys(("m1", "m2"), NOW_US + 100 * SECOND_US)
    assert "this machine's clock" in clocks.judge_recorded(latest_us, now_us=NOW_US).mend


def test_live_meters_that_are_ahead_and_behind_are_both_named() -> None:
    heard = Heard(9, {"good": 0.2, "fast": 100.0, "slow": -400.0}, frozenset({"mute"}))
    found = clocks.judge_heard(heard, for_s=5)
    assert [(one.grade, "fast" in one.found, "slow is 400 s behind" in one.found) for one in found] == [
        (Grade.MEND, True, False),
        (Grade.NOTE, False, True),
        (Grade.NOTE, False, False),
    ]
    assert "without ts from mute" in found[2].found


def test_silence_and_garbage_are_told_apart() -> None:
    silent = clocks.judge_heard(Heard(0, {}, frozenset()), for_s=5)
    garbage = clocks.judge_heard(Heard(3, {}, frozenset()), for_s=5)
    assert [one.found for one in (*silent, *garbage)] == [
        "none came in 5 s",
        "3 messages came, and none held a reading",
    ]


@pytest.mark.parametrize(("sync_s", "grade"), [(0.004, Grade.OK), (0.1, Grade.NOTE), (0.8, Grade.MEND)])
def test_a_slow_disk_is_told_by_its_syncs(sync_s: float, grade: Grade) -> None:
    assert disk.judge_sync(sync_s).grade is grade


def test_room_is_wanted_for_the_rest_of_the_outbox_and_a_second_state() -> None:
    exact = disk.judge_room(3_000_000, outbox_left_bytes=2_000_000, state_bytes=1_000_000)
    short = disk.judge_room(3_000_000 - 1024, outbox_left_bytes=2_000_000, state_bytes=1_000_000)
    assert (exact.grade, short.grade) == (Grade.OK, Grade.MEND)
    assert short.mend == "make room for 1.0 KiB more, or lower outbox.max_bytes"


def test_a_folder_that_is_to_come_is_judged_by_the_one_above_it_and_not_made(tmp_path: Path) -> None:
    found = disk.examine(tmp_path / "a" / "b", outbox_left_bytes=1, state_bytes=0)
    assert [one.grade for one in found][:2] == [Grade.OK, Grade.OK]
    assert "the first run makes it" in found[0].found
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_is_a_file_is_to_mend(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert disk.examine(file, outbox_left_bytes=1, state_bytes=0)[0].grade is Grade.MEND


def test_sizes_spans_and_lists_read_as_a_person_says_them() -> None:
    assert [size(count) for count in (512, 2_000, 268_435_456)] == ["512 B", "2.0 KiB", "256 MiB"]
    assert [span(seconds) for seconds in (0.012, 5, 34, 300, 7200, 604_800)] == [
        "12 ms",
        "5 s",
        "34 s",
        "5 min",
        "2 h",
        "7 d",
    ]
    assert [some_of(["a"]), some_of(["a", "b", "c", "d", "e"])] == ["a", "a, b, c and 2 more"]
