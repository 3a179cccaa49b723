"""What a doctor finds, as people and scripts read it."""

import json

import pytest

from shared.findings import Finding, Grade, as_json, as_text, note, ok, to_mend

FINDINGS = [ok("broker", "accepts us"), to_mend("queue", "holds 100", "raise it"), note("persistence", "unknown")]


def test_found_texts_stand_in_one_column_with_their_mends_below() -> None:
    assert as_text(FINDINGS).splitlines() == [
        "ok    broker       accepts us",
        "MEND  queue        holds 100",
        "                   → raise it",
        "?     persistence  unknown",
        "",
        "1 to mend, 1 to know, 1 ok",
    ]


@pytest.mark.parametrize("colours", [False, True])
def test_no_line_is_wider_than_the_terminal(colours: bool) -> None:
    long = to_mend("queue", "word " * 60, "mend " * 60)
    lines = as_text([long, *FINDINGS], columns=80, colours=colours).splitlines()
    visible = [line.replace("\x1b[1;31m", "").replace("\x1b[33m", "").replace("\x1b[32m", "") for line in lines]
    assert max(len(line.replace("\x1b[0m", "")) for line in visible) <= 80
    assert sum(line.count("word") for line in visible) == 60


def test_scripts_read_grade_subject_found_and_mend() -> None:
    assert json.loads(as_json(FINDINGS)) == [
        {"grade": "ok", "subject": "broker", "found": "accepts us", "mend": ""},
        {"grade": "mend", "subject": "queue", "found": "holds 100", "mend": "raise it"},
        {"grade": "note", "subject": "persistence", "found": "unknown", "mend": ""},
    ]


def test_only_what_has_to_be_mended_is_not_good() -> None:
    assert [finding.good for finding in FINDINGS] == [True, False, True]


def test_what_has_to_be_mended_says_how_and_what_is_ok_asks_for_nothing() -> None:
    with pytest.raises(ValueError, match="without a mend"):
        Finding(Grade.MEND, "queue", "holds 100")
    with pytest.raises(ValueError, match="with a mend"):
        Finding(Grade.OK, "queue", "holds 100", "raise it")
