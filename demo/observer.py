"""The demo's witness: one subscriber to everything, which counts and keeps what both sides said on the wire.

Nothing here asks edge or central how they did; every figure is what an outsider saw. Fed by the network thread, read
by the main one.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.archive import LEADS, MODEL_RUNGS, QUANTILES, ForecastArchive
from demo.scenario import Scenario
from shared.clock import HOUR_US, parse_instant_us
from shared.topics import SiteTopics

SERVED, SHADOW = "forecasts", "shadow"


@dataclass(frozen=True, slots=True)
class ModelPushed:
    """A champion named on models/desired: its manifest, and when in event time and in seconds of the run."""

    version: int
    manifest: dict[str, Any]
    event_us: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class ModelServing:
    """A champion named on models/reported: the edge runs it from about then on."""

    version: int
    event_us: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class DriftSeen:
    """One message on the drift topic, and when in event time central says it was seen."""

    event_us: int
    wall_s: float
    message: dict[str, Any]


@dataclass(slots=True)
class Counts:
    """Messages seen, by what they were."""

    readings_messages: int = 0
    forecasts: int = 0
    fallbacks: int = 0
    shadow: int = 0
    unreadable: int = 0
    revisions: int = 0


@dataclass(slots=True)
class Observer:
    """Counts and keeps what passes on the site's topics.

    Invariants: `take` never raises on what a broker delivers; event time never goes back.
    """

    scenario: Scenario
    topics: SiteTopics
    meters: list[str]
    counts: Counts = field(default_factory=Counts)
    dead_letters: dict[str, tuple[int, str]] = field(default_factory=dict)  # id → (how many readings, reason)
    drift: list[DriftSeen] = field(default_factory=list)
    pushed: list[ModelPushed] = field(default_factory=list)
    serving: list[ModelServing] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # sha256 → reason
    status: dict[str, Any] = field(default_factory=dict)
    event_us: int = 0
    newest_us: NDArray[np.int64] = field(init=False)  # each meter's newest reading inside the scenario, -1 for none
    archives: dict[str, ForecastArchive] = field(init=False)
    _identities: set[tuple[str, object]] = field(default_factory=set)
    _index: dict[str, int] = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Make room for the forecasts of both streams."""
        self._index = {meter: number for number, meter in enumerate(self.meters)}
        self.newest_us = np.full(len(self.meters), -1, np.int64)
        self.archives = {stream: ForecastArchive(self.meters, self.scenario.hours + 1) for stream in (SERVED, SHADOW)}

    @property
    def readings_published(self) -> int:
        """Distinct identities (meter, ts) that the broker was given; an unreadable payload counts as one."""
        with self._lock:
            return len(self._identities)

    @property
    def dead_letter_readings(self) -> int:
        """Readings in dead letters, each id once."""
        with self._lock:
            return sum(count for count, _ in self.dead_letters.values())

    @property
    def published_until_us(self) -> int:
        """The newest reading inside the scenario that any meter has published, -1 for none."""
        return int(self.newest_us.max(initial=-1))

    def take(self, topic: str, payload: bytes, wall_s: float) -> None:
        """Count one message, delivered `wall_s` seconds after the demo began."""
        kind, _, rest = topic.removeprefix(f"{self.topics.root}/{self.topics.site}/").partition("/")
        with self._lock:
            if kind == "readings":
                self._on_readings(rest, payload)
                return
            message = _read_object(payload)
            if message is None:
                self.counts.unreadable += bool(payload)
                return
            try:
                self._on_message(f"{kind}/{rest}" if kind == "models" else kind, rest, message, wall_s)
            except (KeyError, TypeError, ValueError):
                self.counts.unreadable += 1

    def _on_message(self, kind: str, rest: str, message: dict[str, Any], wall_s: float) -> None:
        match kind:
            case "forecasts" | "shadow":
                self._on_forecast(kind, rest, message)
            case "deadletter":
                self.dead_letters[str(message["id"])] = (int(message.get("count", 1)), str(message["reason"]))
            case "drift":
                self.drift.append(DriftSeen(_instant_us(message["at"], self.event_us), wall_s, message))
            case "models/desired":
                self._on_desired(message, wall_s)
            case "models/reported":
                self._on_reported(message, wall_s)
            case "status":
                self.status = message

    def _on_readings(self, meter: str, payload: bytes) -> None:
        self.counts.readings_messages += 1
        try:
            content = json.loads(payload)
        except ValueError:
            self._identities.add((meter, hashlib.sha256(payload).hexdigest()))
            return
        for reading in content if isinstance(content, list) else [content]:
            identity = _identity_ts(reading)
            self._identities.add((meter, identity))
            if isinstance(identity, int) and meter in self._index and self.scenario.holds(identity):
                number = self._index[meter]
                self.newest_us[number] = max(self.newest_us[number], identity)

    def _on_forecast(self, stream: str, meter: str, message: dict[str, Any]) -> None:
        origin_us = parse_instant_us(message["origin"])
        quantiles = _quantiles(message["quantiles"])
        origin = (origin_us - self.scenario.start_us) // HOUR_US
        if stream == SERVED:
            self.counts.forecasts += 1
            self.counts.fallbacks += message["rung"] not in MODEL_RUNGS
            self.counts.revisions += bool(message.get("revision"))
            self.event_us = max(self.event_us, origin_us)
        else:
            self.counts.shadow += 1
        if meter in self._index and 0 <= origin <= self.scenario.hours:
            trained_here = message["rung"] != "starter"  # whose version 1 is another
            version = int((message.get("model") or {}).get("version", 0)) if trained_here else 0
            self.archives[stream].put(self._index[meter], origin, quantiles, str(message["rung"]), version)

    def _on_desired(self, message: dict[str, Any], wall_s: float) -> None:
        manifest = message.get("champion")
        if manifest and (version := _version(manifest)) not in [push.version for push in self.pushed]:
            self.pushed.append(ModelPushed(version, manifest, self.event_us, wall_s))

    def _on_reported(self, message: dict[str, Any], wall_s: float) -> None:
        for refusal in message.get("refused") or []:
            self.refused[str(refusal["sha256"])] = str(refusal["reason"])
        champion = message.get("champion")
        if champion and (version := _version(champion)) not in [model.version for model in self.serving]:
            self.serving.append(ModelServing(version, self.event_us, wall_s))


def _read_object(payload: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(payload)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _instant_us(text: object, otherwise: int) -> int:
    try:
        return parse_instant_us(text)
    except ValueError:
        return otherwise


def _version(model: dict[str, Any]) -> int:
    version = int(model["version"])
    if version < 1:
        raise ValueError("a champion's version starts at 1")
    return version


def _identity_ts(reading: object) -> object:
    ts = reading.get("ts") if isinstance(reading, dict) else None
    try:
        return parse_instant_us(ts)
    except ValueError:
        return json.dumps(reading, sort_keys=True)


def _quantiles(columns: dict[str, list[float]]) -> NDArray[np.float32]:
    """Return `[48, 3]` of the three quantiles; ValueError when one is missing or has another length."""
    values = np.array([columns[name] for name in QUANTILES], np.float32).T
    if values.shape != (LEADS, len(QUANTILES)):
        raise ValueError(f"expected {LEADS} numbers in each of {QUANTILES}")
    return values
