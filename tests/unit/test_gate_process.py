"""The gate's child seen from outside: what it gave up, how it ends, and that the edge's size and hurry are its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.gate import Budget, Wanted, prove
from edge.inference import load
from edge.proving.confinement import NICENESS
from shared.errors import ModelRefused
from shared.refusals import Cause
from tests.bad_models import HAZARDS
from tests.small_model import SAID_QUANTILES, manifest_of, small_model
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
WANTED = Wanted(3600, 48, SAID_QUANTILES)
ENDLESS = Budget(rows=40_000, seconds=60.0, memory_bytes=1_000_000_000)  # chained products take more than that
AN_EDGE = """
import sys
from pathlib import Path
from edge.gate import Budget, Wanted, prove
from shared.manifest import Manifest
folder = Path(sys.argv[1])
manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
wanted = Wanted(manifest.step_s, manifest.horizon_steps, tuple(manifest.quantiles))
prove((folder / "model.onnx").read_bytes(), manifest, wanted, Budget(40_000, 60.0, 1_000_000_000))
"""


def _child_of(parent: int) -> int | None:
    """The process that `parent` tries a model out in, once it sees the artifact: it opens nothing more."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            above = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            called = (folder / "cmdline").read_bytes()
            if above == parent and b"edge.proving" in called and _limit(int(folder.name), "Max open files") < 100:
                return int(folder.name)
    return None


def _limit(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return float(line.removeprefix(name).split()[0].replace("unlimited", "inf"))


def _soon(what: Callable[[], int | None], seconds: float = PATIENCE_S) -> int:
    """What it gives, once it gives something."""
    deadline_s = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.01)
    return found


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def _trying_out() -> Iterator[tuple[int, list[ModelRefused]]]:
    """A child at work on a model that takes a minute, and what becomes of it; it is killed at the end."""
    hazard, refusals = HAZARDS["chained_products"](), list[ModelRefused]()

    def try_it() -> None:
        try:
            prove(hazard.artifact, manifest_of(hazard.artifact, hazard.golden), WANTED, ENDLESS)
        except ModelRefused as refused:
            refusals.append(refused)

    thread = threading.Thread(target=try_it)
    thread.start()
    child = _soon(lambda: _child_of(os.getpid()))
    try:
        yield child, refusals
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        thread.join()


def test_it_gives_up_what_it_does_not_need_before_it_sees_the_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERCAST_MQTT_PASSWORD_FILE", "secret")
    with _trying_out() as (child, _):
        assert os.getsid(child) == child
        assert os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
        assert _limit(child, "Max core file size") == _limit(child, "Max file size") == 0
        assert _limit(child, "Max address space") < 2**31
        assert _limit(child, "Max cpu time") < 3 * ENDLESS.seconds
        assert Path(f"/proc/{child}/cwd").readlink() == Path("/")
        assert Path(f"/proc/{child}/oom_score_adj").read_text(encoding="ascii") == "1000\n"
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"PYTHONPATH" in environment
        assert b"METERCAST" not in environment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_one_that_dies_is_a_refusal_that_names_the_signal(number: signal.Signals) -> None:
    with _trying_out() as (child, refusals):
        os.kill(child, number)
        _soon(lambda: len(refusals))
    assert refusals[0].cause == Cause.CRASHED
    assert number.name in str(refusals[0])


def test_it_ends_when_the_edge_is_killed(tmp_path: Path) -> None:
    hazard = HAZARDS["chained_products"]()
    (tmp_path / "model.onnx").write_bytes(hazard.artifact)
    manifest = manifest_of(hazard.artifact, hazard.golden)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json(by_alias=True), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", AN_EDGE, str(tmp_path)], env=environment) as edge:
        child = _soon(lambda: _child_of(edge.pid))
        edge.kill()
    try:
        _soon(lambda: _is_gone(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_what_the_edge_holds_does_not_count_as_the_models() -> None:
    artifact, golden = small_model()
    held = np.ones(100_000_000)  # 800 MB
    proof = prove(artifact, manifest_of(artifact, golden), WANTED, Budget(1_000, 2.0, 100_000_000))
    assert proof.memory_bytes < 60_000_000 < held.nbytes


def test_a_run_that_takes_too_long_is_stopped_and_the_next_one_is_not() -> None:
    hazard = HAZARDS["chained_products"]()
    slow = load(hazard.artifact, manifest_of(hazard.artifact, hazard.golden), WANTED, seconds=60)
    rows = np.zeros((2_000, len(hazard.golden.inputs[0])), dtype=np.float32)
    began_s = time.thread_time()
    with pytest.raises(ModelRefused, match=r"took more than 0\.2 s") as refused:
        replace(slow, seconds=0.2).run(rows)
    assert refused.value.cause == Cause.FAILED_RUNNING
    assert time.thread_time() - began_s < 20, "to its end it takes minutes"
    assert slow.run(rows[:1]).shape == (1, len(SAID_QUANTILES))


def test_a_run_on_other_rows_than_the_model_takes_is_refused() -> None:
    artifact, golden = small_model()
    model = load(artifact, manifest_of(artifact, golden), WANTED)
    with pytest.raises(ModelRefused) as refused:
        model.run(np.zeros((4, 3), dtype=np.float32))
    assert refused.value.cause == Cause.FAILED_RUNNING
