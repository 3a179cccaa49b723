"""Every bench runs from end to end at toy size and writes what CONTRACTS §8 says. No number is judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import BENCHES, main
from bench.contestants import PEERS
from bench.figures import BARE_PAHO_5, Figure, table
from bench.swapping import Seen, worst_around
from bench.wire import PUBLISH, publish_packet, split, topic_and_payload
from shared.clock import HOUR_US, iso

TOY = {
    "ingest": ["--readings", "500", "--meters", "10", "--runs", "1", "--peers", "paho"],
    "memory": ["--meters", "50"],
    "restart": ["--meters", "5", "--weeks", "1", "--runs", "1", "--trees", "10"],
    "close": ["--meters", "5", "--weeks", "1", "--closings", "2", "--trees", "10"],
    "forecasting": ["--meters", "5", "--weeks", "4", "--rounds", "2", "--trees", "10", "--peers", "mlforecast"],
    "swap": ["--meters", "5", "--weeks", "1", "--swaps", "2", "--trees", "10", "--rate", "50"],
    "rollout": ["--sites", "2", "--meters", "2", "--weeks", "1", "--trees", "10"],
    "record": ["--readings", "2000", "--runs", "1"],
}


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_runs_at_toy_size_and_writes_each_of_its_figures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, *TOY[name], "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for figure in BENCHES[name].measures:
        rows = json.loads((tmp_path / f"{figure}.json").read_text())
        assert figure in told
        for row in rows:
            assert row.keys() == {"name", "value", "unit", "against", "ratio", "runs", "conditions"}
            assert row["name"] == figure
            assert row["value"] == 0 if figure == "swaps_missed_forecasts" else row["value"] > 0
            assert row["runs"] >= 1
    if name == "forecasting" and (PEERS / ".installed").exists():
        rows = json.loads((tmp_path / "forecasts_per_core.json").read_text())
        assert [row["conditions"]["against_trees"] for row in rows] == [10, 30]
        assert all(row["ratio"] > 0 for row in rows)
    if name == "ingest":
        _require_the_peer_of_the_contract_first(json.loads((tmp_path / "ingest_committed.json").read_text()))


def _require_the_peer_of_the_contract_first(rows: list[dict[str, Any]]) -> None:
    first, second = rows
    assert first["against"].startswith(BARE_PAHO_5)
    assert second["against"].startswith("bare paho, MQTT 3.1.1")
    assert first["ratio"] == pytest.approx(first["value"] / first["conditions"]["against_value"], rel=0.01)
    assert first["conditions"]["readings"] == 500


def test_a_delay_counts_for_a_swap_when_any_of_it_lies_around_the_swap() -> None:
    sent_s, came_s = np.array([1.0, 2.0, 5.0, 6.0]), np.array([1.1, 5.4, 5.3, 6.9])
    assert worst_around(sent_s, came_s, 5.5) == pytest.approx(3.4)
    assert worst_around(sent_s, came_s, 6.0) == pytest.approx(0.9)
    assert worst_around(sent_s, came_s, 9.0) == 0.0


def test_a_forecast_of_another_hour_or_meter_is_not_the_one_owed() -> None:
    seen = Seen(sent_s={("m1", 7): 1.0, ("m2", 7): 1.1})
    for meter, origin in (("m1", 7), ("m3", 8), ("m2", 9)):
        forecast = {"meter": meter, "origin": iso(origin * HOUR_US), "rung": "champion"}
        seen.take(
            f"metercast/bench/forecasts/{meter}", json.dumps(forecast).encode(), "metercast/bench/models/reported"
        )
    assert seen.missed == 2
    forecast = {"meter": "m1", "origin": iso(8 * HOUR_US), "rung": "champion"}
    seen.take("metercast/bench/forecasts/m1", json.dumps(forecast).encode(), "metercast/bench/models/reported")
    assert seen.missed == 1


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.3, "NOT REACHED"), (0.7, "reached"), (0.95, "reached, and the aim too")]
)
def test_the_table_says_whether_a_limit_was_reached(ratio: float, verdict: str) -> None:
    line = table([Figure("ingest_committed", 1.0, "readings/s", 1, BARE_PAHO_5, ratio)]).splitlines()[1]
    assert line.endswith(verdict)
    assert "ratio ≥ 0.6" in line


@pytest.mark.parametrize("size", [0, 100, 127, 128, 20_000, 300_000])
def test_a_packet_made_by_hand_is_read_back_whatever_its_length(size: int) -> None:
    packet = publish_packet("metercast/home/readings/m1", b"x" * size, mid=258)
    packets, used = split(packet + packet + packet[:-1])
    assert (len(packets), used) == (2, 2 * len(packet))
    kind, body = packets[1]
    assert kind == PUBLISH
    assert topic_and_payload(body) == ("metercast/home/readings/m1", b"\x01\x02" + b"x" * size)
