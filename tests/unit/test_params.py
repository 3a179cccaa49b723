"""Parameters: defaults, what beats what, and one line for every mistake."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from shared import params_file
from shared.errors import ParamsError
from shared.params import Params

ROOT = Path(__file__).parents[2]


def _load(text: str, folder: Path, **more: object) -> Params:
    file = folder / "params.yaml"
    file.write_text(text)
    return params_file.load(file, **more)  # type: ignore[arg-type]


def test_the_file_in_the_repository_is_the_schema_with_its_defaults() -> None:
    assert (ROOT / "params.yaml").read_text() == params_file.as_yaml()
    assert params_file.load(ROOT / "params.yaml") == params_file.load(overrides=["site=home"])


def test_every_key_has_a_description_and_stands_in_the_table() -> None:
    table = params_file.as_markdown()
    for key in params_file.known_keys():
        assert key.description, key.name
        assert f"`{key.name}`" in table


def test_set_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "mqtt: {port: 1}\nsite: from-file\n"
    environment = {"METERCAST_MQTT_PORT": "2", "METERCAST_EDGE_STATE_DIR": "/from/environment", "HOME": "/x"}
    chosen = _load(text, tmp_path, environment=environment, overrides=["mqtt.port=3"])
    assert (chosen.mqtt.port, chosen.site, chosen.grid.step) == (3, "from-file", timedelta(hours=1))
    assert chosen.edge.state_dir == Path("/from/environment")


@pytest.mark.parametrize(
    ("pair", "value"),
    [("site=001", "001"), ("site=true", "true"), ("site=1e3", "1e3"), ("calendar.country=NO", "NO")],
)
def test_a_value_takes_its_keys_type_so_text_stays_text(pair: str, value: str) -> None:
    chosen = params_file.load(overrides=[pair])
    assert value in (chosen.site, chosen.calendar.country)


def test_lists_can_be_set_with_commas() -> None:
    assert params_file.load(overrides=["forecast.quantiles=0.05,0.5,0.95"]).forecast.quantiles == (0.05, 0.5, 0.95)


def test_every_choice_is_named_where_its_parameter_is_explained() -> None:
    for key in params_file.known_keys():
        for choice in get_args(key.type) if get_origin(key.type) is Literal else ():
            assert str(choice) in key.description, key.name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("grid: {stap: 1h}", "unknown key 'grid.stap'; did you mean 'grid.step'?"),
        ("surprise: 1", "unknown key 'surprise'"),
        ("grid: {step: 2h}", "grid.step: expected 15min, 30min or 1h"),
        ("grid: {lateness: 90}", "grid.lateness: 90 has no unit"),
        ("site: 001", "site: 1 is not text; put it in quotes"),
        ("site: artifacts", "site: expected 1 to 64"),
        ("calendar: {zone: Europe/Lundon}", "'Europe/Lundon' is no IANA time zone"),
        ("drift: {lead: 3h}", "drift.lead: expected 1h, 6h, 24h or 48h"),
        ("drift: {lead: 24}", "drift.lead: 24 has no unit"),
        ("forecast: {quantiles: [0.9, 0.1]}", "forecast: quantiles must ascend"),
        ("edge: {batch: 5000}", "mqtt.receive_maximum 2000 is below edge.batch 5000"),
        ("grid: {max_age: 99999999999d}", "grid.max_age: '99999999999d' is longer than any duration"),
        ("edge: {state_dir: ~nouser/x}", "edge.state_dir: ~nouser/x"),
        ("- a list", "expected keys and values at the top"),
        ("a: [", "not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_what_was_expected(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ParamsError) as caught:
        _load(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "params.yaml"))
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize("pair", ["grid.step", "grid.stepp=1h", "grid=1", "mqtt.port=x", "mqtt.port=0"])
def test_a_wrong_set_is_one_line_that_names_it(pair: str) -> None:
    with pytest.raises(ParamsError, match=f"--set.*{pair.partition('=')[0].split('.')[0]}"):
        params_file.load(overrides=[pair])


def test_a_broken_list_is_one_line_that_names_its_key() -> None:
    with pytest.raises(ParamsError, match=r"^forecast\.quantiles: '\[' is no list$"):
        params_file.load(overrides=["forecast.quantiles=["])


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: no such file"):
        params_file.load(Path("nowhere.yaml"))


def test_max_ahead_follows_the_clock_unless_it_is_given() -> None:
    assert params_file.load(overrides=["clock=wall"]).max_ahead == timedelta(hours=1)
    assert params_file.load(overrides=["clock=event"]).max_ahead == timedelta(days=400)
    assert params_file.load(overrides=["clock=event", "grid.max_ahead=2h"]).max_ahead == timedelta(hours=2)
