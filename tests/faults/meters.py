"""A seeded site: meters of all kinds that repeat themselves, come out of order and sometimes send garbage.

Invariant: what a meter reads at an hour follows from seed, meter and hour alone, so a repeated reading is the same
reading; disorder stays below `DISORDER_AT_MOST_H`, which is within the grid's lateness.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.clock import HOUR_US, iso, parse_instant_us

START_US: Final = parse_instant_us("2026-01-05T00:00:00Z")
DISORDER_AT_MOST_H: Final = 2.0
_REPEATED: Final = 0.1
_DELAYED: Final = 0.2
_GARBAGE: Final = 0.03
_CYCLE_H: Final = 70  # a register is exchanged after so many hours and begins anew


@dataclass(frozen=True, slots=True)
class Reading:
    """The identity and value of one reading."""

    meter: str
    ts_us: int
    value: float


@dataclass(frozen=True, slots=True)
class Publication:
    """One message of a meter; without readings it is garbage, owed one dead letter."""

    meter: str
    payload: bytes
    readings: tuple[Reading, ...] = ()


class Fleet:
    """The meters of one site."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._seed = seed
        self.names = tuple(names)
        self._garbage = 0

    def hours(self, first: int, count: int, chance: random.Random) -> list[Publication]:
        """What is published of some hours: each reading at least once, some twice, some late, garbage between."""
        timed: list[tuple[float, Publication]] = []
        for hour in range(first, first + count):
            for number in range(len(self.names)):
                for at_h, publication in self._of_hour(number, hour):
                    late_h = chance.uniform(0, DISORDER_AT_MOST_H) if chance.random() < _DELAYED else 0.0
                    timed.append((at_h + late_h, publication))
                    if chance.random() < _REPEATED:
                        timed.append((at_h + chance.uniform(0, DISORDER_AT_MOST_H), publication))
            if chance.random() < _GARBAGE * len(self.names):
                timed.append((float(hour), self.garbage(chance)))
        return [publication for _at_h, publication in sorted(timed, key=lambda entry: entry[0])]

    def garbage(self, chance: random.Random, meter: str | None = None) -> Publication:
        """A message that is no reading, unlike any other of this fleet."""
        self._garbage += 1
        mark = f"{self._seed}-{self._garbage}"
        ts = iso(START_US - HOUR_US)  # of no reading that any meter sends
        bodies = (
            b"{broken " + mark.encode(),
            b"\xff\xfe\x00" + mark.encode(),
            json.dumps({"ts": ts, "unit": "kW", "mark": mark}).encode(),
            json.dumps({"ts": ts, "value": "many", "unit": "kW", "mark": mark}).encode(),
            json.dumps({"ts": ts, "value": 1.0, "unit": "horsepower", "mark": mark}).encode(),
            json.dumps({"ts": "yesterday", "value": 1.0, "unit": "kW", "mark": mark}).encode(),
        )
        return Publication(meter or chance.choice(self.names), chance.choice(bodies))

    def _of_hour(self, number: int, hour: int) -> list[tuple[float, Publication]]:
        """(hours after the start, message) of one meter's hour; the kind follows from the meter's number."""
        name = self.names[number]
        chance = random.Random(f"{self._seed}/{name}/{hour}")
        start_us = START_US + hour * HOUR_US
        match number % 3:
            case 0:
                value = round(chance.uniform(0.1, 5), 3)
                return [(hour + 1.0, message(name, (start_us, value), unit="kWh", kind="energy", period_s=3600))]
            case 1:
                quarters = [(start_us + q * HOUR_US // 4, round(chance.uniform(0.1, 5), 3)) for q in range(4)]
                listed = message(name, *quarters[:2], unit="kW")
                return [(hour + 0.25, listed)] + [(hour + q / 4, message(name, quarters[q], unit="kW")) for q in (2, 3)]
            case _:
                counted = round(2.0 * (hour % _CYCLE_H) + chance.uniform(0, 1), 3)
                return [(float(hour), message(name, (start_us, counted), unit="kWh", kind="register"))]


def message(meter: str, *timed: tuple[int, float], unit: str, **more: Any) -> Publication:
    """One message of (ts in µs, value), a list where there are several."""
    items = [{"ts": iso(ts_us), "value": value, "unit": unit, **more} for ts_us, value in timed]
    payload = json.dumps(items if len(items) > 1 else items[0]).encode()
    return Publication(meter, payload, tuple(Reading(meter, *pair) for pair in timed))
