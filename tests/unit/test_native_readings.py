"""The native dialect: whatever arrives, it is readings or refusals, never an error."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.dialects.native import Decoder
from edge.forms import Forms
from shared.grid import GridRules

HOUR_US = 3_600_000_000
ARRIVED_US = 1_767_607_207_000_000
FORMS = Forms(GridRules(HOUR_US, HOUR_US, 6 * HOUR_US))
DECODER = Decoder(FORMS, default_period_us=HOUR_US)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["ts", "value", "unit", "kind", "period_s", "x"]), inner)
    ),
    max_leaves=12,
)


def _decode(content: object):  # type: ignore[no-untyped-def]
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return DECODER.decode(payload, ARRIVED_US)


@given(st.binary() | JSON)
def test_whatever_arrives_is_readings_or_reasons(content: object) -> None:
    readings, refused = _decode(content)
    assert all(item.reason and "\n" not in item.reason for item in refused)
    assert readings or refused or content == []


def test_kw_is_power_and_kwh_must_say_what_it_is() -> None:
    (power,), _ = _decode({"ts": 1767607207, "value": 1, "unit": "kW"})
    assert (FORMS[power.form].kind, FORMS[power.form].period_us) == ("power", 0)
    _, (refused,) = _decode({"ts": 1767607207, "value": 1, "unit": "kWh"})
    assert refused.reason == "kind is missing: kWh may be energy or register"


def test_energy_without_a_period_covers_one_step() -> None:
    (energy,), _ = _decode({"ts": 1767607207, "value": 1, "unit": "Wh", "kind": "energy"})
    form = FORMS[energy.form]
    assert (form.period_us, energy.value * form.to_kilo) == (HOUR_US, 0.001)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"kind": "energy"}, "does not go with unit kW"),
        ({"kind": "volts"}, "kind 'volts' is unknown"),
        ({"value": "1.5"}, "value is str, expected a number"),
        ({"value": True}, "value is bool"),
        ({"value": 10**400}, "not finite"),
        ({"unit": "kWh", "kind": "energy", "period_s": 0}, "period_s 0"),
        ({"unit": ["kW"]}, "unit"),
        ({"ts": "2026-02-30T00:00:00Z"}, "not an ISO 8601 instant"),
    ],
)
def test_each_mistake_has_its_own_sentence(more: dict[str, object], reason: str) -> None:
    readings, (refused,) = _decode({"ts": 1767607207, "value": 1.0, "unit": "kW", **more})
    assert not readings
    assert reason in refused.reason


def test_an_instant_written_with_decimals_without_end_is_read_and_not_remembered() -> None:
    decoder = Decoder(FORMS, default_period_us=HOUR_US)
    text = '{"ts":"2026-01-05T10:00:07.%sZ","value":1,"unit":"kW"}'
    tracemalloc.start()
    for number in range(50):
        ((reading,), _refused) = decoder.decode((text % (f"{number}" + "0" * 100_000)).encode(), ARRIVED_US)
        assert reading.ts_us // 1_000_000 == 1_767_607_207
    assert tracemalloc.get_traced_memory()[0] < 1_000_000
    tracemalloc.stop()
