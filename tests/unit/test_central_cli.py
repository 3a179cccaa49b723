"""The commands of central: what is given before a nested command counts as what is given after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from central.cli import _parser, load_params, main
from central.doctor import examine
from shared.errors import ExitCode
from shared.params import Params


@pytest.mark.parametrize(
    "words",
    [
        ["models", "--set", "site=a", "--set", "mqtt.root=r", "list"],
        ["models", "list", "--set", "site=a", "--set", "mqtt.root=r"],
        ["models", "--set", "site=b", "--set", "mqtt.root=r", "list", "--set", "site=a"],
        ["models", "--set", "site=a", "--set", "mqtt.root=r", "promote", "1"],
        ["models", "--set", "site=a", "--set", "mqtt.root=r"],
    ],
)
def test_settings_count_on_both_sides_of_a_nested_command(words: list[str]) -> None:
    params = load_params(_parser().parse_args(words))
    assert (params.site, params.mqtt.root) == ("a", "r")


@pytest.mark.parametrize("words", [["--json", "list"], ["list", "--json"], ["--json"]])
def test_json_is_asked_for_on_either_side(words: list[str]) -> None:
    assert _parser().parse_args(["models", *words]).json


def test_an_export_of_nothing_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == ExitCode.USAGE
    assert "give --readings OUT or --dead-letters OUT" in capsys.readouterr().err


def test_the_file_and_the_log_level_given_first_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("site: from-file\n")
    words = ["models", "--params", str(file), "--log-level", "error", "--nice", "prepare"]
    args = _parser().parse_args(words)
    assert (load_params(args).site, args.log_level, args.nice) == ("from-file", "error", True)


def test_without_options_every_command_has_its_defaults() -> None:
    args = _parser().parse_args(["models", "list"])
    assert (args.json, args.nice, args.log_level, load_params(args).site) == (False, False, "info", "home")


def test_what_the_doctor_finds_wrong_comes_with_its_mend(tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("")
    settings = {"mqtt": {"port": 9}, "training": {"scope": "site"}, "central": {"work_dir": str(place)}}
    findings = examine(Params.model_validate(settings))
    assert [finding.subject for finding in findings if not finding.good][:4] == [
        "parameters",
        "broker",
        "work folder",
        "record",
    ]
    assert all(finding.mend for finding in findings if not finding.good)
    assert "→ start the broker" in str(findings[1])


def test_a_country_without_holidays_is_one_line_and_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--set", "calendar.country=ZZ"]) == ExitCode.USAGE
    assert capsys.readouterr().err.strip() == "central: calendar.country: unknown country for holidays: 'ZZ'"
