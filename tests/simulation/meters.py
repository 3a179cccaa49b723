"""What simulated meters send, and how each thing sent is recognised wherever it ends.

A key is what must not get lost: ("reading", meter, ts_us, value), with None for the ts of a reading that takes its
arrival time, or ("garbage", number) for what is no reading.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shared.clock import HOUR_US, SECOND_US, iso, parse_instant_us

Key = tuple[Any, ...]
MINUTE_US: Final = 60 * SECOND_US
MARK: Final = re.compile(r"#g(\d+)#")
KINDS: Final = ("power", "energy", "register")
UNITS: Final = {"power": ("W", "kW"), "energy": ("Wh", "kWh"), "register": ("kWh",)}
GARBAGE: Final = (
    b'{"ts": #g%d#',
    b"\xff\xfe #g%d#",
    b'"#g%d#"',
    b'{"ts": "yesterday #g%d#", "value": 1, "unit": "kW"}',
    b'{"ts": 1767600000, "value": "#g%d#", "unit": "kW"}',
    b'{"ts": 1767600000, "value": 1, "unit": "#g%d#"}',
    b'[[["#g%d#"]]]',
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of a meter: its payload, what is in it, and whether sending it again would be another reading."""

    meter: str
    payload: bytes
    keys: tuple[Key, ...]
    retain: bool = False

    @property
    def timed(self) -> bool:
        """Whether every reading in it says when it is of."""
        return all(key[0] == "reading" and key[2] is not None for key in self.keys)


@dataclass(slots=True)
class SimMeter:
    """One meter: what it measures, and what it has sent."""

    name: str
    kind: str
    unit: str
    period_us: int
    chance: Random
    next_us: int
    total: float = 0.0
    sent: list[Sent] = field(default_factory=list)
    held_back: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def any(cls, name: str, chance: Random, now_us: int) -> SimMeter:
        """Some meter, beginning now."""
        kind = chance.choice(KINDS)
        period_us = chance.choice((5, 15, 30, 60)) * MINUTE_US
        first_us = now_us // period_us * period_us
        return cls(name, kind, chance.choice(UNITS[kind]), period_us, chance, first_us)

    # -- what it sends ---------------------------------------------------------------------------------------------

    def fresh(self, now_us: int, number: int) -> list[Sent]:
        """What has become due, as one message each or one list; some of it is held back for later."""
        due = list(self._due(now_us, number))
        if self.chance.random() < 0.15 and len(due) > 1:
            self.held_back.append(due.pop(self.chance.randrange(len(due))))
        if not due:
            return []
        if self.chance.random() < 0.3:
            return [self._remember(due)]
        return [self._remember([one]) for one in due]

    def _due(self, now_us: int, number: int) -> Iterator[dict[str, Any]]:
        ends_later = self.period_us if self.kind == "energy" else 0
        while self.next_us + ends_later <= now_us:
            yield self._reading(self.next_us, number)
            number += 1
            self.next_us += self.period_us

    def late(self, now_us: int, number: int, lateness_us: int) -> list[Sent]:
        """What was held back, or an instant it had forgotten, still within the lateness."""
        if self.held_back:
            return [self._remember([self.held_back.pop(0)])]
        if self.kind == "energy":
            return []
        ts_us = now_us - self.chance.randrange(MINUTE_US, int(0.8 * lateness_us))
        return [self._remember([self._reading(ts_us, number)])]

    def correction(self, now_us: int, number: int, lateness_us: int) -> list[Sent]:
        """Another value for an instant within the lateness."""
        recent = [key for one in self.sent if one.timed for key in one.keys if key[2] > now_us - 0.8 * lateness_us]
        if not recent:
            return []
        return [self._remember([self._reading(self.chance.choice(recent)[2], number)])]

    def again(self) -> list[Sent]:
        """An earlier message once more, byte for byte."""
        timed = [one for one in self.sent if one.timed and not one.retain]
        return [self.chance.choice(timed)] if timed else []

    def retained(self, now_us: int, number: int) -> list[Sent]:
        """A reading that the broker keeps for whoever subscribes later."""
        return [self._remember([self._reading(now_us, number)], retain=True)]

    def ancient_or_ahead(self, now_us: int, number: int) -> list[Sent]:
        """Days late; or beyond what any clock of an edge takes."""
        days = self.chance.choice((-2, -500, 500))
        return [self._remember([self._reading(now_us + days * 24 * HOUR_US, number)])]

    def untimed(self, number: int) -> list[Sent]:
        """A reading that takes its arrival time."""
        value = self._value(number)
        content = {"value": value, "unit": self.unit, "kind": self.kind}
        sent = Sent(self.name, json.dumps(content).encode(), (("reading", self.name, None, value),))
        self.sent.append(sent)
        return [sent]

    def garbage(self, number: int) -> list[Sent]:
        """What is no reading, alone or in a list beside good ones."""
        return [Sent(self.name, self.chance.choice(GARBAGE) % number, (("garbage", number),))]

    # -- how -------------------------------------------------------------------------------------------------------

    def _value(self, number: int) -> float:
        """Never the same twice."""
        step = self.chance.randrange(1, 1000) / 100
        if self.kind != "register":
            return step + number * 1e-7
        self.total = 0.0 if self.chance.random() < 0.02 else self.total + step
        return round(self.total, 2) + number * 1e-7

    def _reading(self, ts_us: int, number: int) -> dict[str, Any]:
        content: dict[str, Any] = {"ts": self._ts(ts_us), "value": self._value(number), "unit": self.unit}
        if self.kind != "power" or self.chance.random() < 0.3:
            content["kind"] = self.kind
        if self.kind == "energy":
            content["period_s"] = self.period_us // SECOND_US
        return content | {"ts_us": ts_us}

    def _ts(self, ts_us: int) -> str | float:
        if ts_us % SECOND_US == 0 and self.chance.random() < 0.3:
            return ts_us // SECOND_US
        return iso(ts_us)

    def _remember(self, readings: list[dict[str, Any]], *, retain: bool = False) -> Sent:
        keys = tuple(("reading", self.name, one["ts_us"], one["value"]) for one in readings)
        contents = [{name: one[name] for name in one if name != "ts_us"} for one in readings]
        payload = json.dumps(contents if len(contents) > 1 else contents[0]).encode()
        sent = Sent(self.name, payload, keys, retain)
        self.sent.append(sent)
        return sent


# -- recognising it again ----------------------------------------------------------------------------------------


def key_of_row(row: dict[str, Any]) -> Key:
    """The key of a row of kind `readings`."""
    ts_us = None if row["quality"] == "arrival_time" else row["ts_us"]
    return "reading", row["meter_id"], ts_us, row["value"]


def key_of_letter(row: dict[str, Any], meter_of_topic: str | None) -> Key | None:
    """The key of a dead letter; None for one that is not of a meter of ours."""
    text = row["payload"] if row["payload"] is not None else base64.b64decode(row["payload_b64"] or "").decode("latin1")
    if (mark := MARK.search(text)) is not None:
        return "garbage", int(mark[1])
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or "value" not in content or meter_of_topic is None:
        return None
    return "reading", meter_of_topic, _ts_us(content.get("ts")), content["value"]


def _ts_us(ts: Any) -> int | None:
    return None if ts is None else parse_instant_us(ts)


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Columns as rows."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
