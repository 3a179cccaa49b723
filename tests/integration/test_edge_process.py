"""The edge as its users run it: a real process, a real Mosquitto."""

import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ExitCode
from shared.manifest import pack
from tests.integration.plant import SITE, Watcher, edge_at, origin, reading, running_edge
from tests.mosquitto import Broker
from tests.ports import free_port
from tests.processes import ROOT, EdgeProcess
from tests.small_model import in_a_month, manifest_of, small_manifest, small_model
from tests.waiting import PATIENCE_S, wait_for


@pytest.fixture
def edge(broker: Broker, tmp_path: Path) -> Iterator[EdgeProcess]:
    process = edge_at(broker.port, tmp_path / "edge")
    yield process
    process.kill()


def test_a_meter_that_publishes_gets_a_retained_forecast_and_the_status_says_online(
    edge: EdgeProcess, watcher: Watcher, broker: Broker
) -> None:
    edge.start()
    watcher.send("m1", reading(0, 1.5))
    (forecast,) = watcher.wait("forecasts/m1", lambda seen: len(seen) >= 1, "a forecast")
    assert forecast["origin"] == origin(1)
    assert forecast["quantiles"]["0.5"][0] == 1.5
    late_comer = Watcher(broker.port)
    late_comer.wait("forecasts/m1", lambda seen: len(seen) == 1, "the retained forecast")
    late_comer.stop()
    watcher.wait("status", lambda seen: seen[0]["state"] == "online", "online")
    assert edge.stop() == ExitCode.OK
    watcher.wait("status", lambda seen: seen[-1]["state"] == "offline", "offline after a clean stop")


def test_readings_published_while_the_edge_is_down_are_forecast_when_it_returns(
    edge: EdgeProcess, watcher: Watcher
) -> None:
    edge.start()
    watcher.send("m1", reading(0, 1.0))
    watcher.wait("forecasts/m1", lambda seen: len(seen) == 1, "the first forecast")
    edge.kill()
    watcher.wait("status", lambda seen: seen[-1]["state"] == "offline", "the will")
    for hour in range(1, 30):
        watcher.send("m1", reading(hour, float(hour)))
    edge.start()
    seen = watcher.wait("forecasts/m1", lambda seen: seen[-1]["origin"] == origin(30), "the last forecast")
    assert {forecast["origin"] for forecast in seen} == {origin(hour) for hour in range(1, 31)}


def test_invariant_4_killed_at_random_instants_the_edge_misses_no_origin_and_records_each_reading_once(
    edge: EdgeProcess, watcher: Watcher
) -> None:
    hours, chance = 60, random.Random(5)
    edge.start()
    for hour in range(hours):
        for meter in ("m1", "m2"):
            watcher.send(meter, reading(hour, hour + 0.25))
        if chance.random() < 0.06:
            edge.kill()
            edge.start()
    for meter in ("m1", "m2"):
        seen = watcher.wait(f"forecasts/{meter}", lambda seen: seen[-1]["origin"] == origin(hours), "the last forecast")
        assert {forecast["origin"] for forecast in seen} == {origin(hour) for hour in range(1, hours + 1)}
    edge.kill()
    assert _recorded(edge) == sorted((m, reading(h, 0)["ts"], h + 0.25) for m in ("m1", "m2") for h in range(hours))


def _recorded(edge: EdgeProcess) -> list[tuple[str, str, float]]:
    """The readings in the edge's outbox, which nobody has acknowledged."""
    from edge.store import Store
    from shared.clock import iso
    from shared.messages import Uplink

    store = Store(edge.state, origin(0))
    rows = []
    for seq, _size in store.outbox_index():
        columns = Uplink.decompress(store.outbox_body(seq) or b"", "outbox").kinds.get("readings")
        if columns:
            rows += list(zip(columns["meter_id"], map(iso, columns["ts_us"]), columns["value"], strict=True))
    store.close()
    return sorted(rows)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{broken", "not JSON"),
        (json.dumps({"ts": origin(0), "unit": "kW"}).encode(), "value is missing"),
        (json.dumps(reading(0, 1.0, unit="horsepower")).encode(), "unit 'horsepower' is unknown"),
        (json.dumps(reading(0, 1.0, ts="1999-01-01T00:00:00Z")).encode(), "older than grid.max_age"),
        (b"[" + b"0," * 5_000_000 + b"0]", "payload of 10000003 bytes"),
    ],
)
def test_bad_input_is_a_dead_letter_in_a_sentence_and_good_input_beside_it_is_served(
    edge: EdgeProcess, watcher: Watcher, broker: Broker, payload: bytes, reason: str
) -> None:
    _without_packet_limit(broker)
    edge.start()
    watcher.send("good", reading(0, 1.0))
    watcher.send("bad", payload)
    watcher.send("good", reading(1, 2.0))
    (letter,) = watcher.wait("deadletter", lambda seen: len(seen) >= 1, "the dead letter")
    assert reason in letter["reason"]
    assert letter["topic"] == f"metercast/{SITE}/readings/bad"
    watcher.wait("forecasts/good", lambda seen: len(seen) == 2, "both forecasts")
    assert edge.alive


def _without_packet_limit(broker: Broker) -> None:
    """Mosquitto may refuse large packets itself; here the edge is to answer."""
    broker.configuration = broker.configuration.replace("max_packet_size 2000000", "max_packet_size 20000000")
    broker.stop()
    broker.start()


def test_a_model_comes_over_the_wire_and_serves_without_a_missed_origin(edge: EdgeProcess, watcher: Watcher) -> None:
    manifest, chunks = small_manifest(version=4, expires=in_a_month())
    edge.start()
    for hour in range(100):
        watcher.send("m1", reading(hour, 1.0 + hour % 24))
        if hour == 80:
            watcher.offer(manifest, chunks)
            watcher.wait("models/reported", lambda seen: bool(seen[-1]["champion"]), "the swap")
    seen = watcher.wait("forecasts/m1", lambda seen: seen[-1]["origin"] == origin(100), "the last forecast")
    assert [forecast["origin"] for forecast in seen] == [origin(hour) for hour in range(1, 101)]
    assert seen[50]["rung"] != "champion"
    assert (seen[-1]["rung"], seen[-1]["model"]["version"]) == ("champion", 4)


def test_an_onnx_file_that_is_not_one_is_refused_with_its_reason_and_nothing_stops(
    edge: EdgeProcess, watcher: Watcher
) -> None:
    artifact = b"not a model " * 1000
    manifest = manifest_of(artifact, small_model()[1], 5, expires=in_a_month())
    edge.start()
    watcher.offer(manifest, pack(artifact).chunks)
    reported = watcher.wait("models/reported", lambda seen: bool(seen[-1]["refused"]), "the refusal")[-1]
    assert reported["refused"][0]["reason"] == "not_onnx"
    assert reported["champion"] is None
    watcher.send("m1", reading(0, 1.0))
    watcher.wait("forecasts/m1", lambda seen: len(seen) == 1, "a forecast all the same")


def test_with_the_demos_meters_and_two_models_memory_stays_below_150_mb_and_metrics_are_served(
    broker: Broker, tmp_path: Path, watcher: Watcher
) -> None:
    settings = ("edge.publish_shadow=true", "calendar.zone=Europe/London")
    with running_edge(broker.port, tmp_path / "edge", *settings) as edge:
        for meter in range(24):
            watcher.send(f"m{meter}", [reading(hour, 1.0 + hour % 24) for hour in range(24 * 4)])
        soon = in_a_month()
        old, new = (small_manifest(version, seed=version, trees=120, expires=soon) for version in (1, 2))
        watcher.offer(*old)
        watcher.wait("models/reported", lambda seen: bool(seen[-1]["champion"]), "the first model")
        watcher.offer(*new, challenger=old[0])
        watcher.wait("models/reported", lambda seen: versions(seen[-1]) == (2, 1), "both models")
        hours = range(24 * 4, 24 * 5)
        watcher.send_all((f"m{meter}", reading(hour, 1.0 + hour % 24)) for hour in hours for meter in range(24))
        watcher.wait("shadow/m23", lambda seen: seen[-1]["origin"] == origin(120), "shadow forecasts")
        text = edge.metrics()
        assert 'metercast_readings_total{result="accepted"} 2880.0' in text
        assert "metercast_meters 24.0" in text
        assert edge.resident_mb() < 150
        assert 'metercast_models_refused_total{reason="unsigned"} 0.0' in text
        assert "metercast_model_swaps_total 2.0" in text


def versions(reported: dict[str, Any]) -> tuple[int | None, int | None]:
    """Of the champion and the challenger."""
    champion, challenger = (reported[role] or {} for role in ("champion", "challenger"))
    return champion.get("version"), challenger.get("version")


def test_without_a_broker_the_edge_says_so_in_one_line_and_its_own_exit_code(tmp_path: Path) -> None:
    done = edge_at(free_port(), tmp_path / "edge").told("run")
    assert done.returncode == ExitCode.BROKER_UNREACHABLE
    assert done.stderr.splitlines()[-1].startswith("edge: mqtt.host 127.0.0.1:")


def test_an_unknown_key_ends_in_one_line_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("grid: {stepp: 1h}\n")
    command = [sys.executable, "-m", "edge", "run", "--params", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.strip() == f"edge: {file}: unknown key 'grid.stepp'; did you mean 'grid.step'?"


def test_a_taken_metrics_port_ends_in_one_line(broker: Broker, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = edge_at(broker.port, tmp_path / "edge", f"edge.metrics_port={port}").told("run")
    assert done.returncode == ExitCode.FAILED
    assert f"edge: metrics on 127.0.0.1:{port}" in done.stderr


def test_replay_publishes_a_file_as_its_meters_would_and_says_how_many(
    edge: EdgeProcess, watcher: Watcher, tmp_path: Path
) -> None:
    file = tmp_path / "readings.csv"
    lines = [f"m{meter},{reading(hour, 0)['ts']},{hour}.5" for meter in (1, 2) for hour in range(10)]
    file.write_text("meter_id,ts,value\n" + "\n".join(lines) + "\n")
    edge.start()
    done = edge.told("replay", str(file), "--unit", "kWh", "--kind", "energy", "--period", "1h", "--speed", "max")
    assert (done.returncode, done.stdout) == (ExitCode.OK, "20 readings published\n")
    watcher.wait("forecasts/m2", lambda seen: seen[-1]["origin"] == origin(10), "the last forecast")


def test_the_doctor_finds_a_sound_edge_and_one_without_a_broker(edge: EdgeProcess, tmp_path: Path) -> None:
    sound = edge.told("doctor")
    assert sound.returncode == ExitCode.OK
    assert "0 to mend" in sound.stdout
    ill = edge_at(free_port(), tmp_path / "lost").told("doctor")
    assert ill.returncode == ExitCode.FAILED
    assert ill.stdout.startswith("MEND  broker ")


def test_the_log_tells_when_the_edge_becomes_degraded_and_why(broker: Broker, watcher: Watcher, tmp_path: Path) -> None:
    with running_edge(broker.port, tmp_path / "edge", "edge.max_meters=1") as edge:
        wait_for(lambda: edge.times_said(" online reasons=restore wanted"), "the log to tell of it", edge.log)
        watcher.send("m1", reading(0, 1.0))
        watcher.send("m2", reading(0, 1.0))
        wait_for(lambda: edge.times_said(" degraded reasons="), "the log to tell of it", edge.log)
    told = [line for line in edge.log.read_text().splitlines() if "reasons=" in line]
    assert len(told) == 2
    assert " WARNING edge.runtime degraded reasons=edge.max_meters is reached" in told[1]


def test_a_second_edge_of_the_site_stops_with_its_own_exit_code_and_the_first_is_not_disturbed(
    edge: EdgeProcess, watcher: Watcher, broker: Broker, tmp_path: Path
) -> None:
    edge.start()
    watcher.wait("status", lambda seen: seen[-1]["state"] == "online", "the first to be online")
    done = edge_at(broker.port, tmp_path / "second").told("run")
    assert done.returncode == ExitCode.SITE_TAKEN
    assert done.stderr.splitlines()[-1].startswith(f"edge: site {SITE} is served by another edge")
    watcher.send("m1", reading(0, 1.0))
    watcher.wait("forecasts/m1", lambda seen: len(seen) == 1, "a forecast of the first")
    assert {status["state"] for status in watcher.of_topic("status")} == {"online"}


def test_an_edge_that_comes_back_to_a_younger_one_stops_and_the_younger_goes_on(
    edge: EdgeProcess, watcher: Watcher, broker: Broker, tmp_path: Path
) -> None:
    edge.start()
    watcher.wait("status", lambda seen: seen[-1]["state"] == "online", "the first to be online")
    edge.signal(signal.SIGSTOP)  # cut off, as by a network that fails
    ghost = Watcher(broker.port)
    offline = {**watcher.of_topic("status")[-1], "state": "offline"}  # as its will would say in the end
    ghost.publish(f"{SITE}/status", json.dumps(offline).encode(), retain=True)
    younger = edge_at(broker.port, tmp_path / "younger")
    younger.start()
    edge.signal(signal.SIGCONT)
    assert edge.ended() == ExitCode.SITE_TAKEN
    assert "is served by another edge" in edge.log.read_text()
    watcher.send("m1", reading(0, 1.0))
    watcher.wait("forecasts/m1", lambda seen: len(seen) >= 1, "a forecast of the younger")
    assert younger.stop() == ExitCode.OK
    ghost.stop()


def test_an_edge_starts_after_one_whose_clock_was_ahead_has_gone(edge: EdgeProcess, watcher: Watcher) -> None:
    edge.start()
    seen = watcher.wait("status", lambda seen: seen[-1]["state"] == "online", "the first to be online")
    assert edge.stop() == ExitCode.OK
    left = {**seen[-1], "state": "offline", "started_at": "2099-01-01T00:00:00Z"}
    watcher.publish(f"{SITE}/status", json.dumps(left).encode(), retain=True)
    edge.start()
    watcher.wait("status", lambda seen: seen[-1]["instance"] != left["instance"], "the second to say how it is")
    assert edge.stop() == ExitCode.OK


def test_forecasts_made_while_the_broker_is_away_are_confirmed_after_it_returns(
    edge: EdgeProcess, watcher: Watcher, broker: Broker
) -> None:
    edge.start()
    for round_ in range(3):
        for hour in range(10):
            for meter in range(20):
                watcher.connection.publish(
                    f"metercast/{SITE}/readings/m{meter}", json.dumps(reading(10 * round_ + hour, 1.0)).encode()
                )
        broker.stop()  # with a batch in hand
        broker.start()
        wait_for(lambda: watcher.connection.connected, "the watcher to be back")
    for meter in range(20):
        watcher.wait(f"forecasts/m{meter}", lambda seen: seen[-1]["origin"] == origin(30), "origin 30")


def test_the_broker_restarting_is_ridden_out(edge: EdgeProcess, watcher: Watcher, broker: Broker) -> None:
    edge.start()
    watcher.send("m1", reading(0, 1.0))
    watcher.wait("forecasts/m1", lambda seen: len(seen) == 1, "a forecast")
    broker.stop()
    broker.start()
    wait_for(lambda: watcher.connection.connected, "the watcher to be back")
    watcher.send("m1", reading(1, 2.0))
    watcher.wait("forecasts/m1", lambda seen: seen[-1]["origin"] == origin(2), "the next forecast")
