"""The one checker: what was owed is in central's record exactly once, or in the dead letters with a reason.

Invariants: nothing counts as answered by being alike: a reading is its identity and value, a dead letter of its own is
its topic and payload; only a summary row (`count` above 1) stands for letters that it does not hold, each once.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.clock import parse_instant_us
from shared.messages import MAX_DEAD_LETTER_PAYLOAD
from tests.faults.meters import Publication, Reading

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Closed:
    """A meter's closed intervals: those that have a load, in kW by number, and the first number not yet closed."""

    until: int
    load_kw: Mapping[int, float]


Intervals = Mapping[str, Closed]


@dataclass(frozen=True, slots=True)
class Letter:
    """One row of exported dead letters."""

    topic: str
    payload: bytes
    reason: str
    count: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Letter:
        """From the row's columns."""
        raw = row["payload_b64"]
        payload = base64.b64decode(raw) if raw is not None else (row["payload"] or "").encode()
        return cls(row["topic"], payload, row["reason"] or "", int(row["count"]))


@dataclass(slots=True)
class Verdict:
    """What is wrong, in words; nothing is when all are empty.

    `refused` are good readings that are dead letters: answered, but wrong where nothing gave the edge a reason.
    """

    refused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled, invented or computed otherwise, and no expectation broken."""
        return not any(getattr(self, name) for name in self.__slots__)

    def __str__(self) -> str:
        """One line for each kind of finding, with the first few."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return "\n".join(
            f"{len(what)} {name}: {'; '.join(what[:_SHOWN])}" for name, what in found.items() if what
        ) or "sound"  # fmt: skip


def check(
    owed: Iterable[Publication],
    published: Iterable[Publication],
    readings: Sequence[Reading],
    letters: Sequence[Letter],
    *,
    readings_topic: str,
    welcome: Collection[str],
) -> Verdict:
    """Compare what is owed, of all that was published, with what an export holds.

    A meter's topic is `readings_topic` and its name; nothing gives the edge a reason to refuse the meters `welcome`.
    """
    verdict = Verdict()
    everything = list(published)
    _judge_rows(verdict, readings, {reading for one in everything for reading in one.readings})
    _judge_letters(verdict, letters, everything, readings_topic)
    recorded = set(readings)
    answered = _answered(letters)
    open_: dict[str, list[str]] = {}
    for one in dict.fromkeys(owed):
        topic = f"{readings_topic}{one.meter}"
        if not one.readings and (topic, one.payload[:MAX_DEAD_LETTER_PAYLOAD]) not in answered:
            open_.setdefault(topic, []).append(f"letter of {one.payload[:80]!r} on {topic}")
        for reading in set(one.readings) - recorded:
            if (topic, reading.ts_us, reading.value) in answered:
                verdict.refused += [str(reading)] if one.meter in welcome else []
            else:
                open_.setdefault(topic, []).append(str(reading))
    verdict.missing += _beyond_summaries(open_, letters)
    return verdict


def _judge_rows(verdict: Verdict, readings: Sequence[Reading], published: set[Reading]) -> None:
    times = Counter((reading.meter, reading.ts_us) for reading in readings)
    verdict.doubled += [f"{meter} at {ts_us}: {count} rows" for (meter, ts_us), count in times.items() if count > 1]
    verdict.unexplained += [f"{reading} was never published" for reading in readings if reading not in published]


def _judge_letters(
    verdict: Verdict, letters: Sequence[Letter], published: Sequence[Publication], readings_topic: str
) -> None:
    topics = {f"{readings_topic}{one.meter}" for one in published}
    verdict.unexplained += [f"a letter without a reason on {one.topic}" for one in letters if not one.reason.strip()]
    verdict.unexplained += [
        f"a letter on {one.topic}, where nobody published"
        for one in letters
        if one.count == 1 and one.topic.startswith(readings_topic) and one.topic not in topics
    ]
    times = Counter((one.topic, one.payload, one.reason) for one in letters if one.count == 1)
    verdict.doubled += [f"letter of {payload[:80]!r}" for (_t, payload, _r), count in times.items() if count > 1]


def _answered(letters: Iterable[Letter]) -> set[tuple[Any, ...]]:
    """What letters answer by what they hold: (topic, payload), and (topic, ts, value) of a reading."""
    answered: set[tuple[Any, ...]] = set()
    for one in letters:
        answered.add((one.topic, one.payload))
        answered.add((one.topic, *_reading_in(one.payload)))
    return answered


def _reading_in(payload: bytes) -> tuple[int, float] | tuple[()]:
    try:
        content = json.loads(payload)
        return parse_instant_us(content["ts"]), float(content["value"])
    except (ValueError, TypeError, KeyError):
        return ()


def _beyond_summaries(open_: Mapping[str, list[str]], letters: Iterable[Letter]) -> list[str]:
    """What is left when each summary row has stood for as many as it counts: of its own topic first, then of any."""
    stands_for: Counter[str] = Counter()
    for one in letters:
        if one.count > 1:
            stands_for[one.topic] += one.count
    left: list[str] = []
    for topic, what in open_.items():
        covered = min(len(what), stands_for[topic])
        stands_for[topic] -= covered
        left += what[covered:]
    return left[stands_for.total() :]


def differing(ours: Intervals, clean: Intervals) -> list[str]:
    """Where closed intervals are not, bit for bit, those of the same input delivered cleanly."""
    found = [f"{meter} has intervals on one side only" for meter in sorted(ours.keys() ^ clean.keys())]
    for meter in sorted(ours.keys() & clean.keys()):
        mine, theirs = ours[meter], clean[meter]
        if mine.until != theirs.until:
            found.append(f"{meter} is closed up to {mine.until}, cleanly {theirs.until}")
        found += [
            f"{meter} interval {number}: {mine.load_kw.get(number)} kW, cleanly {theirs.load_kw.get(number)} kW"
            for number in sorted(mine.load_kw.keys() | theirs.load_kw.keys())
            if mine.load_kw.get(number) != theirs.load_kw.get(number)
        ]
    return found
