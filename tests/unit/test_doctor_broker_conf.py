"""What the doctor reads in a mosquitto.conf."""

from pathlib import Path

import pytest

from edge.doctor.broker_conf import BrokerConf, judge, read
from edge.doctor.demand import Demand
from shared.errors import DataFileError
from shared.findings import Finding, Grade

SHIPPED = Path(__file__).parents[2] / "mosquitto"


def conf(tmp_path: Path, *lines: str) -> BrokerConf:
    file = tmp_path / "mosquitto.conf"
    file.write_text("\n".join(lines))
    return read(file)


def findings(tmp_path: Path, *lines: str, meters: int = 10) -> dict[str, Finding]:
    return {finding.subject: finding for finding in judge(conf(tmp_path, *lines), Demand(meters))}


def test_an_empty_file_is_judged_by_what_mosquitto_does_then(tmp_path: Path) -> None:
    found = findings(tmp_path, "# nothing", "", meters=17)
    assert {subject for subject, one in found.items() if not one.good} == {"persistence", "max_queued_messages"}
    assert "17 meters at a reading a minute send 1,020 in an hour's outage" in found["max_queued_messages"].found
    assert found["max_queued_messages"].mend == "set it to 1020 or more"


def test_the_edge_broker_we_ship_has_nothing_to_mend_for_a_thousand_meters() -> None:
    assert [str(one) for one in judge(read(SHIPPED / "edge.conf"), Demand(1000)) if one.grade is not Grade.OK] == []


@pytest.mark.parametrize(
    ("lines", "subject", "grade"),
    [
        (["persistence true", "persistence_location /data/"], "persistence", Grade.OK),
        (["persistence true"], "persistence", Grade.NOTE),
        (["persistence false"], "persistence", Grade.MEND),
        (["plugin /usr/lib/mosquitto_persist_sqlite.so"], "persistence", Grade.OK),
        (["plugin_load store /usr/lib/mosquitto_persist_sqlite.so"], "persistence", Grade.OK),
        (["persistence true", "plugin /usr/lib/mosquitto_persist_sqlite.so"], "persistence", Grade.MEND),
        (["plugin /usr/lib/mosquitto_dynamic_security.so"], "persistence", Grade.MEND),
        (["persistence true", "autosave_interval 10"], "autosave_interval", Grade.OK),
        (["persistence true"], "autosave_interval", Grade.MEND),
        (["persistence true", "autosave_interval 0"], "autosave_interval", Grade.MEND),
        (["persistence true", "autosave_on_changes true"], "autosave_interval", Grade.OK),
        (["max_queued_messages 0"], "max_queued_messages", Grade.OK),
        (["max_queued_messages 600"], "max_queued_messages", Grade.OK),
        (["max_queued_messages 599"], "max_queued_messages", Grade.MEND),
        (["max_queued_bytes 1000"], "max_queued_bytes", Grade.MEND),
        (["max_queued_bytes 1000000"], "max_queued_bytes", Grade.OK),
        (["max_packet_size 100000"], "max_packet_size", Grade.MEND),
        (["max_packet_size 2000000"], "max_packet_size", Grade.OK),
        (["include_dir /etc/mosquitto/conf.d"], "include_dir", Grade.NOTE),
    ],
)
def test_each_option_has_its_grade_for_ten_meters(lines: list[str], subject: str, grade: Grade, tmp_path: Path) -> None:
    assert findings(tmp_path, *lines)[subject].grade is grade


def test_a_queue_is_neither_good_nor_wrong_while_no_meter_is_known(tmp_path: Path) -> None:
    assert findings(tmp_path, meters=0)["max_queued_messages"].grade is Grade.NOTE


def test_the_last_value_of_an_option_counts(tmp_path: Path) -> None:
    assert conf(tmp_path, "max_queued_messages 5", "  max_queued_messages   7").max_queued_messages == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"site: home\n", "line 1: 'site:' is no option of a mosquitto.conf"),
        (b"listener 1883\nmax_queued_messages many\n", "max_queued_messages 'many': expected a whole number"),
        (b"persistence yes\n", "persistence 'yes': expected true or false"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_a_sentence(text: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_bytes(text)
    with pytest.raises(DataFileError) as refused:
        read(file)
    assert str(refused.value) == f"--broker-conf {file}: {sentence}"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no-such-file: No such file or directory"):
        read(tmp_path / "no-such-file")
