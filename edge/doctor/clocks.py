"""Whether the clocks agree: this machine's, central's (its retained ack), and the meters' (recorded and live readings).

Skews are in seconds, positive when the other clock is ahead of ours. An instant ahead of now tells a skew for certain;
one behind may only be old.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edge.dialects.native import Decoder
from edge.doctor.wording import counted, some_of, span
from edge.forms import Forms
from edge.site import grid_rules
from shared.bindings import Bindings
from shared.clock import SECOND_US, parse_instant_us
from shared.errors import MessageRefused
from shared.findings import Finding, note, ok, to_mend
from shared.messages import Acked
from shared.mqtt import Connection
from shared.params import Params
from shared.topics import SiteTopics

TOLERATED_S: Final = 30.0
PATIENCE_S: Final = 5.0
_AT_ONCE: Final = 500
_SAMPLES_AT_MOST: Final = 100  # of one meter; a flood is heard, and not kept
_NTP: Final = "let both machines follow a time server (NTP)"


@dataclass(frozen=True, slots=True)
class Heard:
    """Live readings: how many messages, the median skew of each meter, and who sent no `ts`."""

    messages: int
    skew_s: Mapping[str, float]
    unstamped: frozenset[str]


def listen(params: Params, *, client_id: str, for_s: float, now_us: Callable[[], int]) -> Heard:
    """Live readings of so many seconds; raises BrokerUnreachable."""
    topics = SiteTopics(params.mqtt.root, params.site)
    connection = Connection(params.mqtt, client_id=client_id, filters=[topics.readings], lasting=False)
    connection.start(PATIENCE_S)
    forms, bindings = Forms(grid_rules(params)), Bindings(params.meters)
    decoder = Decoder(forms, default_period_us=params.step_s * SECOND_US)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    unstamped: set[str] = set()
    count = 0
    try:
        for meter, payload in _live(connection, topics, for_s):
            count += 1
            arrived_us = now_us()
            readings, _refused = decoder.decode(payload, arrived_us, bindings.of(params.site, meter))
            if any(forms.is_timeless[reading.form] for reading in readings):
                unstamped.add(meter)
            elif readings and len(samples[meter]) < _SAMPLES_AT_MOST:
                told_us = max(reading.ts_us + forms.settles_us[reading.form] for reading in readings)
                samples[meter].append(_ahead_s(told_us, arrived_us))
    finally:
        connection.stop()
    return Heard(count, {meter: statistics.median(seen) for meter, seen in samples.items()}, frozenset(unstamped))


def _live(connection: Connection, topics: SiteTopics, for_s: float) -> Iterator[tuple[str, bytes]]:
    """(meter, payload) as they come; what is retained is old, and not heard."""
    until_s = time.monotonic() + for_s
    while (left_s := until_s - time.monotonic()) > 0:
        messages = connection.receive(_AT_ONCE, left_s)
        connection.acknowledge(messages)
        for message in messages:
            meter = topics.meter_of(message.topic)
            if meter is not None and not message.retain:
                yield meter, message.payload


def _ahead_s(instant_us: int, now_us: int) -> float:
    return (instant_us - now_us) / SECOND_US


def judge_acked(payload: bytes | None, *, topic: str, now_us: int) -> Finding:
    """Central's clock, as its retained ack shows it."""
    subject = "central's clock"
    if not payload:
        return note(subject, f"unknown: central has acknowledged nothing yet on {topic}")
    try:
        ahead_s = _ahead_s(parse_instant_us(Acked.decode(payload, topic).at), now_us)
    except (MessageRefused, ValueError) as error:
        mend = "start central again: it writes this message anew"
        return to_mend(subject, f"unknown: {topic} holds something else ({error})", mend)
    if ahead_s > TOLERATED_S:
        return to_mend(subject, f"{span(ahead_s)} ahead of this machine's", _NTP)
    return ok(subject, f"not ahead of this machine's; the last ack is {span(max(-ahead_s, 0.0))} old")


def judge_recorded(latest_us: Mapping[str, int], *, now_us: int) -> Finding:
    """The meters' clocks, as the newest reading of each in the state database shows them."""
    subject = "recorded readings"
    if not latest_us:
        return note(subject, "none yet, so that no meter's clock can be seen there")
    skew_s = {meter: _ahead_s(ts_us, now_us) for meter, ts_us in latest_us.items()}
    ahead = _beyond(skew_s)
    if ahead:
        return _fast_clocks(subject, ahead, len(latest_us))
    age = span(max(-max(skew_s.values()), 0.0))
    return ok(subject, f"none of {counted(len(latest_us), 'meter')} is ahead of this clock; the newest is {age} old")


def judge_heard(heard: Heard, *, for_s: float) -> list[Finding]:
    """The meters' clocks, as live readings show them."""
    subject = "live readings"
    if not heard.messages:
        return [note(subject, f"none came in {span(for_s)}", "listen longer with --listen 2min, or see to the meters")]
    findings = _stamped(subject, heard) if heard.skew_s else []
    if heard.unstamped:
        names = some_of(sorted(heard.unstamped))
        findings.append(note(subject, f"without ts from {names}: they take the time of their arrival"))
    return findings or [note(subject, f"{counted(heard.messages, 'message')} came, and none held a reading")]


def _stamped(subject: str, heard: Heard) -> list[Finding]:
    ahead, behind = _beyond(heard.skew_s), _beyond({meter: -skew_s for meter, skew_s in heard.skew_s.items()})
    meters = counted(len(heard.skew_s), "meter")
    findings = [_fast_clocks(subject, ahead, len(heard.skew_s))] if ahead else []
    if behind:
        found = f"{len(behind):,} of {meters} send late or have a slow clock: {_named(behind, 'behind')}"
        findings.append(note(subject, found, "set these meters' clocks, unless they send later than they read"))
    worst_s = max(map(abs, heard.skew_s.values()))
    return findings or [ok(subject, f"{counted(heard.messages, 'message')}, {meters}, all within {span(worst_s)}")]


def _beyond(skew_s: Mapping[str, float]) -> dict[str, float]:
    """Those out of tolerance, the worst first."""
    return {meter: one_s for meter, one_s in sorted(skew_s.items(), key=lambda item: -item[1]) if one_s > TOLERATED_S}


def _named(skew_s: Mapping[str, float], where: str) -> str:
    return some_of([f"{meter} is {one_s:.0f} s {where}" for meter, one_s in skew_s.items()])


def _fast_clocks(subject: str, ahead: Mapping[str, float], meters: int) -> Finding:
    found = f"{len(ahead):,} of {counted(meters, 'meter')} ahead of this clock: {_named(ahead, 'ahead')}"
    if len(ahead) == meters and meters > 1:
        return to_mend(subject, found, "set this machine's clock by a time server (NTP): every meter is ahead of it")
    return to_mend(subject, found, "set these meters' clocks: what is too far ahead becomes a dead letter")
