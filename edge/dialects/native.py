"""Our own reading format: `{"ts", "value", "unit", "kind"?, "period_s"?}` or a list of such.

Each item of a list stands alone: bad ones become dead letters, good ones are kept. What a message leaves out, the
meter's binding may say.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from edge.forms import QUALITY_ARRIVAL_TIME, QUALITY_OK, Form, Forms
from shared.bindings import UNBOUND
from shared.clock import SECOND_US, parse_instant_us
from shared.errors import ReadingRefused
from shared.grid import KINDS, UNITS, Kind, Unit
from shared.params import MeterBinding

MAX_ITEMS: Final = 10_000
_MAX_PERIOD_S: Final = 86_400
MAX_PERIOD_US: Final = _MAX_PERIOD_S * SECOND_US
_LARGEST: Final = 1.7976931348623157e308
_INSTANT_AT_MOST: Final = 40  # characters of an instant worth remembering: decimals may go on for ever
_REMEMBERED: Final = 4096  # instants and forms whose reading is remembered; beyond it the memory is begun anew


class Reading(NamedTuple):
    """One reading as sent: `value` in its form's unit, `ts_us` the instant, or for energy the start of its period."""

    ts_us: int
    value: float
    form: int


class RefusedItem(NamedTuple):
    """An item of a payload that is no reading: its place in the list (None: the payload itself) and the reason."""

    item: int | None
    content: bytes
    reason: str


class Decoder:
    """Reads payloads. Never raises, whatever the bytes are.

    Meters say the same few units, and many the same instant: both are remembered by what was written, so that a
    reading costs a few look-ups.
    """

    def __init__(self, forms: Forms, *, default_period_us: int) -> None:
        self._forms = forms
        self._default_period_us = default_period_us
        self._seen_forms: dict[tuple[object, ...], int] = {}
        self._seen_instants: dict[str, int] = {}

    def decode(
        self, payload: bytes, arrived_us: int, binding: MeterBinding = UNBOUND
    ) -> tuple[list[Reading], list[RefusedItem]]:
        """The readings of a payload and what of it was refused.

        A reading without `ts` takes `arrived_us`; energy without `period_s` covers the binding's period, else the
        grid's step.
        """
        try:
            content = from_json(payload, cache_strings="keys")
        except ValueError as error:
            return [], [RefusedItem(None, payload, f"not JSON: {str(error)[:120]}")]
        if isinstance(content, list):
            return self._items(content, payload, arrived_us, binding)
        try:
            return [self._reading(content, arrived_us, binding)], []
        except ReadingRefused as reason:
            return [], [RefusedItem(None, payload, str(reason))]

    def _items(
        self, items: list[Any], payload: bytes, arrived_us: int, binding: MeterBinding
    ) -> tuple[list[Reading], list[RefusedItem]]:
        if not items:
            return [], [RefusedItem(None, payload, "an empty list holds no reading")]
        if len(items) > MAX_ITEMS:
            reason = f"{len(items)} readings in one message; at most {MAX_ITEMS} are taken"
            return [], [RefusedItem(None, payload, reason)]
        taken: list[Reading] = []
        refused: list[RefusedItem] = []
        for number, item in enumerate(items):
            try:
                taken.append(self._reading(item, arrived_us, binding))
            except ReadingRefused as reason:
                refused.append(RefusedItem(number, json.dumps(item).encode(), str(reason)))
        return taken, refused

    def _reading(self, item: Any, arrived_us: int, binding: MeterBinding) -> Reading:
        if not isinstance(item, dict):
            raise ReadingRefused(f"expected an object with ts, value and unit, got {type(item).__name__}")
        value = item.get("value")
        if type(value) is not float or not -_LARGEST <= value <= _LARGEST:
            value = _value(item)
        ts = item.get("ts")
        ts_us = self._seen_instants.get(ts) if type(ts) is str else None
        if ts_us is None:
            ts_us = arrived_us if ts is None else self._instant_us(ts)
        period_s = item.get("period_s")
        written = (item.get("unit"), item.get("kind"), period_s, type(period_s), ts is None, id(binding))
        try:
            form = self._seen_forms.get(written)
        except TypeError:  # a list or an object where a name belongs
            form = None
        if form is None:
            form = self._form(item, binding, written)
        return Reading(ts_us, value, form)

    def _instant_us(self, ts: object) -> int:
        try:
            ts_us = parse_instant_us(ts)
        except (ValueError, OverflowError) as error:
            raise ReadingRefused(str(error)) from error
        if isinstance(ts, str) and len(ts) <= _INSTANT_AT_MOST:
            if len(self._seen_instants) >= _REMEMBERED:
                self._seen_instants.clear()
            self._seen_instants[ts] = ts_us
        return ts_us

    def _form(self, item: dict[str, Any], binding: MeterBinding, written: tuple[object, ...]) -> int:
        unit_name, unit = _unit(item, binding)
        kind = _kind(item, unit_name, unit, binding)
        default_us = binding.period_us or self._default_period_us
        quality = QUALITY_ARRIVAL_TIME if item.get("ts") is None else QUALITY_OK
        form = self._forms.number(Form(unit_name, kind, _period_us(item, kind, default_us), quality))
        if len(self._seen_forms) >= _REMEMBERED:
            self._seen_forms.clear()
        self._seen_forms[written] = form
        return form


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


def _unit(item: dict[str, Any], binding: MeterBinding) -> tuple[str, Unit]:
    name = item.get("unit")
    if name is None:
        name = binding.unit
    if name is None:
        raise ReadingRefused("unit is missing")
    unit = UNITS.get(name) if isinstance(name, str) else None
    if unit is None:
        raise ReadingRefused(f"unit {name!r:.40} is unknown; expected one of {', '.join(UNITS)}")
    return name, unit


def _kind(item: dict[str, Any], unit_name: str, unit: Unit, binding: MeterBinding) -> Kind:
    kind = item.get("kind")
    if kind is None:
        kind = binding.kind_of(unit_name)
        if kind is None:
            raise ReadingRefused(f"kind is missing: {unit_name} may be energy or register")
        return kind
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
