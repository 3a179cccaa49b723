"""Bindings: what the parameters know of meters beyond their messages."""

from pathlib import Path

import pytest

from shared import params_file
from shared.bindings import UNBOUND, Bindings
from shared.errors import ParamsError
from shared.grid import UNLIMITED, Kind, MeterLimits
from shared.params import MeterBinding, Params

FILE = """
meters:
  - {meter: "plug-*", unit: W, kind: power, max_kw: 3.6}
  - {meter: main, site: north, kind: register, register_max_kwh: 100000, min_kw: 0, max_kw: 40}
  - {meter: main, kind: energy, period: 15min}
"""


@pytest.fixture
def chosen(tmp_path: Path) -> Params:
    file = tmp_path / "params.yaml"
    file.write_text(FILE)
    return params_file.load(file)


def test_the_first_binding_that_matches_site_and_meter_counts(chosen: Params) -> None:
    bindings = Bindings(chosen.meters)
    assert bindings.of("north", "plug-7") is chosen.meters[0]
    assert bindings.of("north", "main") is chosen.meters[1]
    assert bindings.of("south", "main") is chosen.meters[2]


def test_a_meter_that_no_binding_matches_is_unbound_and_unlimited(chosen: Params) -> None:
    for bindings in (Bindings(), Bindings(chosen.meters)):
        assert bindings.of("north", "Main") is UNBOUND
    assert UNBOUND.limits == UNLIMITED
    assert (UNBOUND.unit, UNBOUND.kind, UNBOUND.period_us) == (None, None, None)


def test_a_binding_says_what_is_possible_at_its_meters(chosen: Params) -> None:
    assert chosen.meters[0].limits == MeterLimits(max_kw=3.6)
    assert chosen.meters[1].limits == MeterLimits(register_max_kwh=100_000.0, min_kw=0.0, max_kw=40.0)
    assert chosen.meters[2].period_us == 15 * 60_000_000


@pytest.mark.parametrize(
    ("bound", "unit", "kind"),
    [
        ("register", "kWh", "register"),
        ("energy", "Wh", "energy"),
        ("register", "W", "power"),  # watts are a power, whatever the meter's other values are
        (None, "MW", "power"),
        (None, "kWh", None),
        ("power", "kWh", None),
    ],
)
def test_a_kind_is_declared_by_the_unit_or_the_binding_and_never_guessed(
    bound: Kind | None, unit: str, kind: Kind | None
) -> None:
    assert MeterBinding(meter="*", kind=bound).kind_of(unit) == kind


def test_the_list_can_be_set_whole_and_from_the_environment() -> None:
    text = '[{meter: "plug-*", unit: W, max_kw: 3}]'
    by_option = params_file.load(overrides=[f"meters={text}"]).meters
    by_environment = params_file.load(environment={"METERCAST_METERS": text}).meters
    assert by_option == by_environment == (MeterBinding(meter="plug-*", unit="W", max_kw=3.0),)


def test_bindings_survive_being_handed_to_another_process(chosen: Params) -> None:
    assert chosen.meters[0].limits.max_kw == 3.6  # what is worked out must not travel
    assert Params.model_validate(chosen.model_dump(mode="json", by_alias=True)) == chosen


@pytest.mark.parametrize(
    ("binding", "line"),
    [
        ("{meter: a, knd: power}", "unknown key 'meters.0.knd'; did you mean 'meters.0.kind'?"),
        ("{unit: W}", "meters.0.meter: "),
        ("{meter: a, unit: kWh}", "meters.0: kind is missing: kWh may be energy or register"),
        ("{meter: a, unit: kW, kind: energy}", "meters.0: kind energy does not go with unit kW"),
        ("{meter: a, unit: kw}", "meters.0.unit: "),
        ("{meter: a, kind: gas}", "meters.0.kind: "),
        ("{meter: a, period: 15}", "meters.0.period: 15 has no unit"),
        ("{meter: a, period: 36h}", "meters.0: period 36h is not within 1s and 24h"),
        ("{meter: a, register_max_kwh: 0}", "meters.0.register_max_kwh: "),
        ("{meter: a, min_kw: 3, max_kw: 1}", "meters.0: min_kw 3 is not below max_kw 1"),
        ("{meter: a, max_kw: .inf}", "meters.0.max_kw: "),
        ("{meter: home/readings/a}", "meters.0.meter: "),
        ("a", "meters.0: expected keys and values"),
    ],
)
def test_a_mistake_in_a_binding_is_one_line_that_names_its_place(tmp_path: Path, binding: str, line: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"meters: [{binding}]")
    with pytest.raises(ParamsError) as caught:
        params_file.load(file)
    assert str(caught.value).startswith(f"{file}: {line}")
    assert "\n" not in str(caught.value)


def test_the_place_of_a_mistake_is_its_place_in_the_list() -> None:
    with pytest.raises(ParamsError, match=r"'meters\.2\.max_kv'; did you mean 'meters\.2\.max_kw'\?"):
        params_file.load(overrides=["meters=[{meter: a}, {meter: b}, {meter: c, max_kv: 1}]"])


def test_a_key_of_one_binding_cannot_be_set_by_itself() -> None:
    with pytest.raises(ParamsError, match=r"^--set meters\.0\.kind=power: unknown key"):
        params_file.load(overrides=["meters.0.kind=power"])


def test_the_schema_tells_what_a_binding_may_hold() -> None:
    table, text = params_file.as_markdown(), params_file.as_yaml()
    for name, field in MeterBinding.model_fields.items():
        assert f"| `meters.N.{name}` |" in table
        assert f" {name}: {field.description}\n" in text
