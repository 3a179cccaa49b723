"""`edge backfill` as its users run it: a file in, messages on the meters' backfill topics of a real Mosquitto."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge.cli import main
from shared.clock import HOUR_US, iso, parse_instant_us
from shared.errors import ExitCode
from tests.integration.plant import SITE, START_US, Watcher, edge_at
from tests.mosquitto import Broker
from tests.ports import free_port
from tests.processes import told_here

HOURS = 30 * 24


def _history(folder: Path, lines: list[tuple[str, int, float]]) -> Path:
    file = folder / "history.csv"
    text = "".join(f"{meter},{iso(ts_us)},{value}\n" for meter, ts_us, value in lines)
    file.write_text(f"meter_id,ts,value\n{text}")
    return file


def _backfill(folder: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return edge_at(port, folder).told("backfill", *arguments)


def _messages(watcher: Watcher, meter: str, count: int) -> list[list[dict[str, Any]]]:
    """The messages on a meter's backfill topic, once there are `count`: each is a list of readings."""
    messages: list[Any] = watcher.wait(f"backfill/{meter}", lambda seen: len(seen) == count, f"{count} messages")
    return messages


def test_a_files_history_arrives_on_the_backfill_topics_in_order_and_whole(
    broker: Broker, watcher: Watcher, tmp_path: Path
) -> None:
    lines = [(meter, START_US + n * HOUR_US // 2, n / 4) for n in range(2 * HOURS) for meter in ("m2", "m1")]
    file = _history(tmp_path, lines)
    done = _backfill(tmp_path, broker.port, str(file), "--unit", "kWh", "--kind", "energy", "--period", "30min")
    assert (done.returncode, done.stdout) == (ExitCode.OK, "2880 readings of 2 meters published in 4 messages\n")
    assert f"no edge has served site {SITE} on this broker yet" in done.stderr
    assert "2880/2880 readings" in done.stderr
    for meter in ("m1", "m2"):
        first, second = _messages(watcher, meter, 2)
        assert first[-2:] == second[:2]
        items = [*first, *second[2:]]
        sent = [(ts_us, value) for name, ts_us, value in lines if name == meter]
        assert [(item["ts"] * 1_000_000, item["value"]) for item in items] == sent
        assert {(item["unit"], item["kind"], item["period_s"]) for item in items} == {("kWh", "energy", 1800.0)}


def test_only_what_lies_between_from_and_to_is_loaded(broker: Broker, watcher: Watcher, tmp_path: Path) -> None:
    watcher.publish(f"{SITE}/status", b"{}", retain=True)
    file = _history(tmp_path, [("m1", START_US + n * HOUR_US, 1.0) for n in range(10)])
    more = ("--from", iso(START_US + 2 * HOUR_US), "--to", iso(START_US + 5 * HOUR_US), "--rate", "max")
    done = _backfill(tmp_path, broker.port, str(file), *more)
    assert done.stdout == "3 readings of 1 meters published in 1 messages\n"
    assert "no edge has served" not in done.stderr
    (items,) = _messages(watcher, "m1", 1)
    assert [item["ts"] * 1_000_000 for item in items] == [START_US + n * HOUR_US for n in (2, 3, 4)]


@pytest.mark.parametrize(
    ("content", "arguments", "complaint"),
    [
        ("meter_id,ts\n", (), "column value is missing"),
        ("meter_id,ts,value\nm1,2026-01-05T00:00:00Z,1\n", ("--unit", "kWh"), "--kind is needed"),
        (
            "meter_id,ts,value\nm1,2026-01-05T00:00:00Z,1\n",
            ("--kind", "energy"),
            "--kind energy does not go with --unit kW",
        ),
        ("meter_id,ts,value\na/b,2026-01-05T00:00:00Z,1\n", (), "meter_id 'a/b' is not"),
        ("meter_id,ts,value\n", (), "no readings between --from and --to"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_line_and_nothing_is_published(
    tmp_path: Path, content: str, arguments: tuple[str, ...], complaint: str
) -> None:
    file = tmp_path / "history.csv"
    file.write_text(content)
    done = told_here(main, edge_at(free_port(), tmp_path).words("backfill", str(file), *arguments))
    assert done.returncode == ExitCode.FAILED
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interval_that_no_message_can_hold_is_told_before_anything_is_published(tmp_path: Path) -> None:
    start_us = parse_instant_us("2026-01-05T00:00:00Z")
    lines = [("m1", start_us + n * 100_000, 0.123456789 + n) for n in range(36_000)]
    done = told_here(main, edge_at(free_port(), tmp_path).words("backfill", str(_history(tmp_path, lines))))
    assert done.returncode == ExitCode.FAILED
    assert "m1 has 36000 readings within one interval of grid.step" in done.stderr


def test_without_a_broker_it_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    file = _history(tmp_path, [("m1", START_US, 1.0)])
    assert _backfill(tmp_path, free_port(), str(file)).returncode == ExitCode.BROKER_UNREACHABLE


def test_parquet_is_read_as_csv_is(broker: Broker, watcher: Watcher, tmp_path: Path) -> None:
    import pandas as pd

    file = tmp_path / "history.parquet"
    ts = pd.to_datetime([START_US, START_US + HOUR_US], unit="us", utc=True)
    pd.DataFrame({"meter_id": ["m1", "m1"], "ts": ts, "value": [1.0, 2.0]}).to_parquet(file)
    assert _backfill(tmp_path, broker.port, str(file)).returncode == ExitCode.OK
    (items,) = _messages(watcher, "m1", 1)
    assert items == [{"ts": START_US // 1_000_000 + 3600 * n, "value": 1.0 + n, "unit": "kW"} for n in (0, 1)]
