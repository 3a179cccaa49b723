"""What keeps the edge small: what it does not import, sessions without their ONNX nodes, a heap that gives back."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge import holidays_aside
from edge.holidays_aside import FIRST_YEAR, LAST_YEAR, learn_holidays
from edge.sessions import interface_of, open_compact, open_session
from shared import calendars, heap
from shared.calendars import Calendar
from shared.durable import sync
from shared.errors import ModelRefused
from shared.features import FEATURES
from shared.holiday_days import holiday_days
from tests.small_model import small_model

ROOT = Path(__file__).parents[2]
DESCRIPTORS = Path("/proc/self/fd")
A_ROUND = """
import sys
from collections.abc import Iterator
from pathlib import Path
import edge.cli, edge.runtime
from bench.edge_state import readings_of
from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node
from edge.effects import Commit, Publish, ReadingsArrived, Tick
from edge.starter import shipped
from edge.store import Store
from shared.params import Params
folder = Path(sys.argv[1])
store = Store(folder, "2026-01-05T00:00:00Z")
params = Params.model_validate({"site": "small", "clock": "event"})
node = build_node(params, store, ArtifactFolder(folder), starter=shipped(step_s=3600))
told = ReadingsArrived(tuple(readings_of(node.topics, meter, 490_000, 400) for meter in range(2)))
effects = node.handle(told, 1_767_571_200_000_000)
while node.busy:
    effects += node.handle(Tick(caught_up=True), 1_767_571_200_000_000)
for effect in effects:
    if isinstance(effect, Commit):
        store.commit(effect.changes, node.site)
assert any(b'"starter"' in effect.payload for effect in effects if isinstance(effect, Publish))
print(*sys.modules)
"""

MEASURED = """
import ctypes, sys
from edge.sessions import open_compact, open_session
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]
look = ctypes.CDLL(None).mallinfo2
look.restype = Info
artifact = sys.stdin.buffer.read()
def taken(make):
    before = look()
    session = make(artifact)
    after = look()
    return (after.h + after.e) - (before.h + before.e)
taken(open_session), taken(open_compact)  # what onnxruntime sets up once
print(taken(open_session), taken(open_compact))
"""


@pytest.fixture
def _told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calendars that were told no holidays yet, and forget them again."""
    monkeypatch.setattr(calendars, "_told", {})
    calendars._holiday_days.cache_clear()
    yield
    calendars._holiday_days.cache_clear()


def outputs(session: onnxruntime.InferenceSession) -> bytes:
    """What a session makes of the same rows, missing values among them."""
    rows = np.random.default_rng(1).normal(size=(50, len(FEATURES))).astype(np.float32)
    rows[::7] = np.nan
    (name,) = (one.name for one in session.get_inputs())
    made: bytes = session.run(None, {name: rows})[0].tobytes()
    return made


def test_a_compact_session_computes_the_same_bits_and_says_the_same_of_itself() -> None:
    artifact, _golden = small_model()
    plain, compact = open_session(artifact), open_compact(artifact)
    assert outputs(compact) == outputs(plain)
    assert interface_of(compact) == interface_of(plain)


@pytest.mark.skipif(not hasattr(heap._of_the_c_library("mallinfo2"), "restype"), reason="measured by glibc")
def test_a_compact_session_takes_less_than_half_of_the_memory() -> None:
    artifact, _golden = small_model(trees=60)
    command = [sys.executable, "-c", MEASURED]
    done = subprocess.run(command, input=artifact, cwd=ROOT, capture_output=True, check=True)
    plain, compact = map(int, done.stdout.split())
    assert compact < plain / 2


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counted in /proc")
def test_a_compact_session_leaves_no_file_open_whether_it_can_be_made_or_not() -> None:
    artifact, _golden = small_model()
    before = len(list(DESCRIPTORS.iterdir()))
    session = open_compact(artifact)
    for broken in (b"", b"no model", artifact[: len(artifact) // 2]):
        with pytest.raises(ModelRefused, match="not a model onnxruntime can load"):
            open_compact(broken)
    assert len(list(DESCRIPTORS.iterdir())) == before
    assert session.get_inputs()


def test_without_files_in_memory_it_is_a_plain_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    artifact, _golden = small_model()
    assert outputs(open_compact(artifact)) == outputs(open_session(artifact))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing")
def test_where_a_file_in_memory_is_denied_or_takes_nothing_it_is_a_plain_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact, _golden = small_model()

    def denied(_name: str) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for made in (denied, lambda _name: os.open("/dev/full", os.O_RDWR)):
        monkeypatch.setattr("os.memfd_create", made, raising=False)
        assert outputs(open_compact(artifact)) == outputs(open_session(artifact))
        assert caplog.messages == ["model takes more memory than it should"]
        caplog.clear()


def test_an_edge_without_a_country_imports_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", A_ROUND, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"edge.node", "onnxruntime"} <= loaded
    seldom = {"holidays", "dateutil", "onnx", "pandas", "numpy.ma", "cryptography.hazmat.primitives.serialization"}
    assert not seldom & loaded


@pytest.mark.usefixtures("_told")
@pytest.mark.parametrize("country", ["GB", "GB-SCT", "US"])
def test_holidays_that_another_process_told_are_those_of_the_library(country: str) -> None:
    assert learn_holidays(country)
    told = {year: calendars._told[country, year].tolist() for year in range(FIRST_YEAR, LAST_YEAR + 1)}
    assert told == {year: holiday_days(country, year) for year in told}


@pytest.mark.usefixtures("_told")
def test_years_that_were_not_told_are_looked_up_here() -> None:
    calendars.know_holidays("GB", {2020: [1]})
    assert calendars._holiday_days("GB", 2020).tolist() == [1]
    assert calendars._holiday_days("GB", 1980).tolist() == holiday_days("GB", 1980)


@pytest.mark.usefixtures("_told")
@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "print('[3]')", "--")])
def test_a_process_that_tells_nothing_costs_memory_and_no_holiday(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(holidays_aside, "_COMMAND", command)
    with caplog.at_level(logging.INFO):
        assert not learn_holidays("GB")
    assert "holidays are looked up here" in caplog.text
    assert Calendar("Europe/London", "GB").local(np.array([1_577_836_800_000_000])).holiday.tolist() == [True]


@pytest.mark.usefixtures("_told")
def test_an_unknown_country_is_still_named_by_the_calendar() -> None:
    assert not learn_holidays("XX")
    with pytest.raises(ValueError, match="unknown country for holidays: 'XX'"):
        Calendar("UTC", "XX")


def test_the_heap_can_be_tidied_wherever_the_c_library_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    heap.return_freed_memory()
    monkeypatch.setattr(heap, "_of_the_c_library", lambda _name: None)
    heap.keep_little()
    heap.return_freed_memory()


def test_what_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "gone")
