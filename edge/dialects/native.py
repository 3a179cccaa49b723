"""Our own reading format: `{"ts", "value", "unit", "kind"?, "period_s"?}` or a list of such.

Each item of a list stands alone: bad ones become dead letters, good ones are kept.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from shared.clock import SECOND_US, parse_instant_us
from shared.errors import ReadingRefused
from shared.grid import KINDS, UNITS, Kind, Unit

QUALITY_OK: Final = "ok"
QUALITY_ARRIVAL_TIME: Final = "arrival_time"
MAX_ITEMS: Final = 10_000
_MAX_PERIOD_S: Final = 86_400
MAX_PERIOD_US: Final = _MAX_PERIOD_S * SECOND_US


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading as sent: `value` in `unit`, `ts_us` the instant, or for energy the start of its period."""

    meter: str
    ts_us: int
    value: float
    unit: str
    kind: Kind
    period_us: int
    quality: str

    @property
    def kilo_value(self) -> float:
        """The value in kW or kWh."""
        return self.value * UNITS[self.unit].to_kilo


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item of a payload that is no reading: its place in the list (None: the payload itself) and the reason."""

    item: int | None
    content: bytes
    reason: str


def decode(
    meter: str, payload: bytes, *, arrived_us: int, default_period_us: int
) -> tuple[list[Reading], list[RefusedItem]]:
    """The readings of a payload and what of it was refused. Never raises, whatever the bytes are.

    A reading without `ts` takes `arrived_us`; energy without `period_s` covers `default_period_us` (the grid's step).
    """
    try:
        content = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        return [], [RefusedItem(None, payload, f"not JSON: {str(error)[:120]}")]
    listed = isinstance(content, list)
    items = content if listed else [content]
    if not items:
        return [], [RefusedItem(None, payload, "an empty list holds no reading")]
    if len(items) > MAX_ITEMS:
        return [], [RefusedItem(None, payload, f"{len(items)} readings in one message; at most {MAX_ITEMS} are taken")]
    taken: list[Reading] = []
    refused: list[RefusedItem] = []
    for number, item in enumerate(items):
        try:
            taken.append(_reading(meter, item, arrived_us, default_period_us))
        except ReadingRefused as reason:
            raw = json.dumps(item).encode() if listed else payload
            refused.append(RefusedItem(number if listed else None, raw, str(reason)))
    return taken, refused


def _reading(meter: str, item: Any, arrived_us: int, default_period_us: int) -> Reading:
    if not isinstance(item, dict):
        raise ReadingRefused(f"expected an object with ts, value and unit, got {type(item).__name__}")
    value = _value(item)
    unit_name, unit = _unit(item)
    kind = _kind(item, unit_name, unit)
    try:
        ts_us = arrived_us if item.get("ts") is None else parse_instant_us(item["ts"])
    except (ValueError, OverflowError) as error:
        raise ReadingRefused(str(error)) from error
    quality = QUALITY_ARRIVAL_TIME if item.get("ts") is None else QUALITY_OK
    return Reading(meter, ts_us, value, unit_name, kind, _period_us(item, kind, default_period_us), quality)


def _value(item: dict[str, Any]) -> float:
    if "value" not in item:
        raise ReadingRefused("value is missing")
    value = item["value"]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ReadingRefused(f"value is {type(value).__name__}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ReadingRefused("value is not finite")
    return number


def _unit(item: dict[str, Any]) -> tuple[str, Unit]:
    name = item.get("unit")
    if name is None:
        raise ReadingRefused("unit is missing")
    unit = UNITS.get(name) if isinstance(name, str) else None
    if unit is None:
        raise ReadingRefused(f"unit {name!r:.40} is unknown; expected one of {', '.join(UNITS)}")
    return name, unit


def _kind(item: dict[str, Any], unit_name: str, unit: Unit) -> Kind:
    kind = item.get("kind")
    if kind is None:
        if len(unit.kinds) > 1:
            raise ReadingRefused(f"kind is missing: {unit_name} may be energy or register")
        return unit.kinds[0]
    if kind not in KINDS:
        raise ReadingRefused(f"kind {kind!r:.40} is unknown; expected power, energy or register")
    if kind not in unit.kinds:
        raise ReadingRefused(f"kind {kind} does not go with unit {unit_name}")
    return kind  # type: ignore[no-any-return]  # one of KINDS, seen above


def _period_us(item: dict[str, Any], kind: Kind, default_us: int) -> int:
    if kind != "energy":
        return 0
    period_s = item.get("period_s")
    if period_s is None:
        return default_us
    if isinstance(period_s, bool) or not isinstance(period_s, (int, float)) or not 1 <= period_s <= _MAX_PERIOD_S:
        raise ReadingRefused(f"period_s {period_s!r:.40} is not within 1 and {_MAX_PERIOD_S}")
    return round(period_s * SECOND_US)
