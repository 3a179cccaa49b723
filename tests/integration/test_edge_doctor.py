"""The edge's doctor beside real brokers with and without limits, and one that speaks only an older MQTT."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from edge.cli import main
from edge.doctor import broker, clocks, parking
from edge.doctor.asked import Asked
from edge.doctor.examination import examine
from shared.clock import SECOND_US, iso, to_us, wall_now
from shared.errors import BrokerUnreachable, ExitCode
from shared.findings import Finding, Grade
from shared.messages import Acked
from shared.mqtt import Connection, Granted
from shared.params import MqttParams, Params
from tests.mosquitto import configured, running
from tests.ports import free_port
from tests.unit.edge_harness import EdgeAtDesk, reading
from tests.waiting import PATIENCE_S, wait_for

BRIEF = Asked(listen=timedelta(0), park=300)
IN_HASTE_S = (0.6, 6.0, 60.0)
V5_CONNECT, CONNACK_3_1_1 = 5, b"\x20\x02\x00\x00"


@contextmanager
def mosquitto_with(folder: Path, *options: str) -> Iterator[int]:
    """A Mosquitto of these options and else its own defaults; yields its port."""
    with running(folder, configured(*options)) as broker:
        yield broker.port


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[int]:
    """A broker that answers a CONNECT of an MQTT version with these bytes, and hangs up after none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    caller, _address = server.accept()
                except OSError:
                    return
                with caller, suppress(OSError):
                    packet = caller.recv(1024)
                    caller.sendall(reply := answer(packet[8]))
                    if reply:
                        caller.recv(1024)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)


def ahead(skew_s: float) -> str:
    """The wall clock of somebody whose clock is so many seconds ahead."""
    return iso(to_us(wall_now()) + round(skew_s * SECOND_US))


def live_readings() -> dict[str, dict[str, Any]]:
    """What meters with different clocks send now."""
    return {
        "good": {"ts": ahead(0), "value": 1, "unit": "kW"},
        "energy": {"ts": ahead(-1800), "value": 1, "unit": "kWh", "kind": "energy", "period_s": 1800},
        "fast": {"ts": ahead(300), "value": 1, "unit": "kW"},
        "mute": {"value": 1, "unit": "kW"},
        "broken": {"ts": ahead(900), "value": "much"},
    }


@contextmanager
def meters_at(port: int) -> Iterator[None]:
    """Meters with different clocks that send all the time, beside an old reading that was retained."""
    connection = Connection(MqttParams(host="127.0.0.1", port=port), client_id="meters", lasting=False)
    connection.start()
    old = {"ts": ahead(-9000), "value": 1, "unit": "kW"}
    kept = connection.publish("metercast/home/readings/old", json.dumps(old).encode(), retain=True)
    wait_for(lambda: kept.done, "the broker to take a reading")
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.05):
            for meter, content in live_readings().items():
                connection.publish(f"metercast/home/readings/{meter}", json.dumps(content).encode())

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()
        connection.stop()


def params_for(port: int, tmp_path: Path, **more: Any) -> Params:
    mqtt = {"host": "127.0.0.1", "port": port, **more.pop("mqtt", {})}
    return Params.model_validate({"mqtt": mqtt, "edge": {"state_dir": tmp_path / "state", "batch": 200}, **more})


def examined(params: Params, asked: Asked = BRIEF) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(params, asked, tell=lambda _doing: None)}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For brokers that say yes, however busy the machine is."""
    for module in (broker, parking, clocks):
        monkeypatch.setattr(module, "PATIENCE_S", PATIENCE_S)


class Told(Protocol):
    """Gives the finding about a subject."""

    def __call__(self, params: Params, expected: str, subject: str = "broker") -> Finding: ...


@pytest.fixture
def told_in_haste(monkeypatch: pytest.MonkeyPatch) -> Told:
    """For brokers that will never say yes: a finding, after no more patience than it takes to find what is expected."""

    def told(params: Params, expected: str, subject: str = "broker") -> Finding:
        for patience_s in IN_HASTE_S:
            monkeypatch.setattr(broker, "PATIENCE_S", patience_s)
            monkeypatch.setattr(parking, "PATIENCE_S", patience_s)
            finding = examined(params)[subject]
            if expected in finding.found:
                break
        assert expected in finding.found
        return finding

    return told


def test_the_queue_limit_of_a_broker_is_found_by_parking_more_than_it_keeps(tmp_path: Path) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous true", "max_queued_messages 100") as port:
        found = examined(params_for(port, tmp_path))
    assert found["queue"].grade is Grade.NOTE  # no meter is known yet
    assert found["queue"].found.startswith("100 of 300 parked messages came back")
    assert found["receive maximum"].grade is Grade.NOTE


def test_a_broker_without_limits_gives_all_back_and_a_whole_batch_unacknowledged(tmp_path: Path) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous true", "max_queued_messages 0") as port:
        params, found = params_for(port, tmp_path), dict[str, Finding]()

        def its_version_is_told() -> bool:  # unless that comes too late for a doctor who does not wait for it
            found.update(examined(params, Asked(listen=timedelta(0), park=2_500)))
            return " (mosquitto version 2" in found["broker"].found

        wait_for(its_version_is_told, "the broker to tell its version")
    assert found["broker"].found.startswith(f"127.0.0.1:{port} accepts us over MQTT 5 (mosquitto version 2")
    assert found["queue"].found.startswith("all 2,500 parked messages came back")
    assert found["receive maximum"].found.startswith("2,000 came before the first acknowledgement")
    assert [str(one) for one in found.values() if one.grade is Grade.MEND] == []


def test_nothing_of_the_doctor_stays_in_the_broker(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    saved = ("persistence true", f"persistence_location {folder}/", "max_queued_messages 100")
    with mosquitto_with(folder, "allow_anonymous true", *saved) as port:
        keeper = Connection(MqttParams(host="127.0.0.1", port=port), client_id="keeper", filters=["kept"])
        keeper.start()
        examined(params_for(port, tmp_path))
        keeper.stop()
    assert b"keeper" in (folder / "mosquitto.db").read_bytes()
    assert b"doctor" not in (folder / "mosquitto.db").read_bytes()


def test_limits_the_broker_announces_are_told(tmp_path: Path) -> None:
    limits = ("max_packet_size 100000", "retain_available false", "max_inflight_messages 5")
    with mosquitto_with(tmp_path / "b", "allow_anonymous true", *limits) as port:
        found = examined(params_for(port, tmp_path))
    assert found["packet size"].grade is Grade.MEND
    assert found["abilities"].found == "without retained messages"
    assert found["publications"].found.startswith("the broker takes 5 unacknowledged of ours")


def test_a_broker_that_wants_an_account_is_told_from_one_that_is_away(tmp_path: Path, told_in_haste: Told) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous false") as port:
        refused = told_in_haste(params_for(port, tmp_path), "refuses us without a user name: Not authorized")
    away = told_in_haste(params_for(port, tmp_path), "Connection refused")
    assert "mqtt.username" in refused.mend
    assert away.mend.startswith("start the broker")


@pytest.mark.parametrize(
    "to_v5", [b"\x20\x03\x00\x84\x00", b"\x20\x02\x00\x01", b""], ids=["0x84", "refusal of 3.1.1", "hangs up"]
)
def test_a_broker_that_speaks_only_mqtt_3_1_1_is_named_so(to_v5: bytes, tmp_path: Path, told_in_haste: Told) -> None:
    with answering(lambda version: to_v5 if version == V5_CONNECT else CONNACK_3_1_1) as port:
        found = told_in_haste(params_for(port, tmp_path), f"127.0.0.1:{port} speaks MQTT 3.1.1 and not 5: ")
    assert found.grade is Grade.MEND


def test_something_that_is_no_broker_is_not_taken_for_an_old_one(tmp_path: Path, told_in_haste: Told) -> None:
    with answering(lambda _version: b"") as port:
        found = told_in_haste(params_for(port, tmp_path), "something listens there")
    assert "mqtt.tls.ca" in found.mend


def test_what_a_broker_grants_is_read_from_its_connack() -> None:
    properties = (
        b"\x11\x00\x00\x0e\x10" + b"\x21\x00\x07" + b"\x24\x01" + b"\x25\x00" + b"\x27\x00\x01\x00\x00" + b"\x28\x00"
    )
    connack = bytes([0x20, 3 + len(properties), 1, 0, len(properties)]) + properties
    with answering(lambda _version: connack) as port:
        connection = Connection(MqttParams(host="127.0.0.1", port=port), client_id="c")
        assert connection.granted is None
        connection.start(PATIENCE_S)
        connection.stop()
    assert connection.granted == Granted(
        reason_code=0,
        reason="Success",
        session_present=True,
        session_expiry_s=3600,
        receive_maximum=7,
        max_packet_bytes=65_536,
        max_qos=1,
        retain=False,
        wildcards=False,
    )


def test_a_refusal_is_an_answer_too() -> None:
    with answering(lambda _version: b"\x20\x03\x00\x86\x00") as port:
        for patience_s in IN_HASTE_S:
            connection = Connection(MqttParams(host="127.0.0.1", port=port), client_id="c")
            with pytest.raises(BrokerUnreachable):
                connection.start(patience_s)
            if connection.granted is not None:
                break
    assert connection.granted is not None
    assert (connection.granted.reason_code, connection.granted.receive_maximum) == (0x86, 65_535)


def test_where_a_user_name_is_the_client_id_the_edges_session_survives_the_doctor(tmp_path: Path) -> None:
    options = ("allow_anonymous true", "use_username_as_clientid true")
    with mosquitto_with(tmp_path / "b", *options) as port:
        params = params_for(port, tmp_path, mqtt={"username": "edge"})
        edge_was_there_and_left(params)
        meter = Connection(MqttParams(host="127.0.0.1", port=port, username="meter"), client_id="any", lasting=False)
        meter.start()
        waiting = meter.publish("t", b"waits")
        wait_for(lambda: waiting.done, "the broker to take a message")
        meter.stop()
        found = examined(params)
        edge = Connection(params.mqtt, client_id="any")
        edge.start()
        assert [message.payload for message in edge.receive(1, PATIENCE_S)] == [b"waits"]
        edge.stop()
    assert found["broker"].grade is Grade.MEND
    assert "use_username_as_clientid" in found["broker"].mend
    assert "queue" not in found


def edge_was_there_and_left(params: Params) -> None:
    edge = Connection(params.mqtt, client_id="any", filters=["t"])
    edge.start()
    told = edge.publish("t", b"first")
    wait_for(lambda: told.done, "the broker to take a message")
    edge.acknowledge(edge.receive(1, PATIENCE_S))
    edge.stop()


def test_a_topic_the_account_may_not_use_leaves_the_queue_unknown(tmp_path: Path, told_in_haste: Told) -> None:
    (tmp_path / "acl").write_text("topic read metercast/#\ntopic read $SYS/#\n")
    with mosquitto_with(tmp_path / "b", "allow_anonymous true", f"acl_file {tmp_path / 'acl'}") as port:
        found = told_in_haste(params_for(port, tmp_path), "unknown: what we publish on ", "queue")
    assert found.grade is Grade.NOTE
    assert found.mend == "let this account publish and subscribe to metercast/home/doctor/+"


def test_a_queue_that_is_too_short_for_the_known_meters_is_to_mend_with_the_arithmetic(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "state")
    desk.send(*((f"m{number}", reading(0, 1.0)) for number in range(5)))
    desk.store.close()
    with mosquitto_with(tmp_path / "b", "allow_anonymous true", "max_queued_messages 100") as port:
        found = examined(params_for(port, tmp_path, site="desk"))
    assert found["queue"].grade is Grade.MEND
    assert found["queue"].found.endswith("; 5 meters at a reading a minute send 300 in an hour's outage")
    assert found["queue"].mend == "set the broker's max_queued_messages to 300 or more"


def test_a_live_meters_skew_is_its_own_and_what_is_retained_is_not_heard(tmp_path: Path) -> None:
    heard = []

    def all_meters_are_heard() -> bool:
        heard.append(clocks.listen(params, client_id="listener", for_s=0.5, now_us=lambda: to_us(wall_now())))
        return heard[-1].unstamped == {"mute"} and heard[-1].skew_s.keys() >= {"good", "energy", "fast"}

    with mosquitto_with(tmp_path / "b", "allow_anonymous true") as port, meters_at(port):
        params = params_for(port, tmp_path)
        wait_for(all_meters_are_heard, "meters to be heard")
    assert heard[-1].messages > 3
    assert heard[-1].skew_s == {
        "good": pytest.approx(0, abs=60),
        "energy": pytest.approx(0, abs=60),
        "fast": pytest.approx(300, abs=60),
    }


def test_the_examination_names_meters_and_central_whose_clocks_are_ahead(tmp_path: Path) -> None:
    clock: list[tuple[Grade, str]] = []

    def meters_are_heard() -> bool:
        found = examine(params, Asked(listen=timedelta(seconds=0.5), park=1), tell=lambda _doing: None)
        clock[:] = [(one.grade, one.found) for one in found if one.subject in {"central's clock", "live readings"}]
        return len(clock) == 3

    with mosquitto_with(tmp_path / "b", "allow_anonymous true") as port, meters_at(port):
        params = params_for(port, tmp_path)
        central = Connection(MqttParams(host="127.0.0.1", port=port), client_id="central", lasting=False)
        central.start()
        told = central.publish(
            "metercast/home/uplink/acked", Acked(epoch="e", seq=1, at=ahead(500)).encode(), retain=True
        )
        wait_for(lambda: told.done, "the broker to take an ack")
        central.stop()
        wait_for(meters_are_heard, "meters to be heard")
    assert [grade for grade, _found in clock] == [Grade.MEND, Grade.MEND, Grade.NOTE]
    assert re.match(r"[1-8] min ahead", clock[0][1])
    assert clock[1][1].startswith("1 of 3 meters ahead of this clock: fast is ")


def test_under_the_event_clock_no_clock_is_compared(tmp_path: Path) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous true") as port:
        found = examined(params_for(port, tmp_path, clock="event"))
    assert found["clocks"].grade is Grade.NOTE
    assert {"central's clock", "recorded readings", "live readings"} & set(found) == set()


def words(port: int, tmp_path: Path, *more: str) -> list[str]:
    settings = ("mqtt.host=127.0.0.1", f"mqtt.port={port}", f"edge.state_dir={tmp_path / 'state'}")
    return ["doctor", *(word for pair in settings for word in ("--set", pair)), "--listen", "0s", *more]


def test_scripts_get_json_alone_on_standard_output_and_progress_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous true") as port:
        assert main(words(port, tmp_path, "--json", "--park", "10")) == ExitCode.OK
    told = capsys.readouterr()
    assert {finding["grade"] for finding in json.loads(told.out)} == {"ok", "note"}
    assert "edge: parking 10 messages at the broker" in told.err.splitlines()


def test_what_is_to_mend_makes_the_command_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(free_port(), tmp_path)) == ExitCode.FAILED
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 to mend, ")


def test_a_wrong_broker_configuration_is_one_sentence_before_anything_is_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("site: home\n")
    assert main(words(free_port(), tmp_path, "--broker-conf", str(file))) == ExitCode.FAILED
    sentence = f"edge: --broker-conf {file}: line 1: 'site:' is no option of a mosquitto.conf"
    assert capsys.readouterr() == ("", sentence + "\n")


def test_the_brokers_own_configuration_answers_what_no_client_can_see(tmp_path: Path) -> None:
    with mosquitto_with(tmp_path / "b", "allow_anonymous true") as port:
        unknown = examined(params_for(port, tmp_path))["persistence"]
        conf = tmp_path / "b" / "mosquitto.conf"
        known = examined(params_for(port, tmp_path), Asked(broker_conf=conf, listen=timedelta(0), park=1))
    assert (unknown.grade, known["persistence"].grade) == (Grade.NOTE, Grade.MEND)
    assert known["max_queued_messages"].found.startswith("1,000; ")


@pytest.mark.parametrize("number", ["0", "100001", "many", "²"])
def test_how_many_to_park_is_bounded(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--park", number])
    assert ended.value.code == ExitCode.USAGE
    assert "expected a number from 1 to 100000" in capsys.readouterr().err
