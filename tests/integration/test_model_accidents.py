"""Power cuts, forgetful brokers, clocks that are wrong, models that fail late: the right model serves all the same."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge.kept import Kept
from shared.clock import iso, to_us, wall_now
from shared.manifest import CHUNK_BYTES, Manifest, pack
from shared.messages import Desired
from tests.bad_models import failing_model
from tests.conftest import Broker
from tests.faults import processes
from tests.integration.attacked_site import HISTORY_H, METER, Site, good
from tests.integration.edge_process import ROOT, SITE, Watcher, reading, wait_for
from tests.small_model import TRUSTED, in_a_month, manifest_of

TREES = 240  # of a model that comes in several chunks and takes a moment to try out
YEAR_S = 365 * 86_400


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    """A site that runs version 1."""
    found = Site.begin(broker, tmp_path / "edge")
    found.install(1)
    yield found
    found.end()


def large(version: int, seed: int = 2) -> tuple[Manifest, list[bytes]]:
    return good(version, seed, trees=TREES)


def models_folder(site: Site) -> Path:
    return site.edge.folder / "state" / "models"


def trial(site: Site) -> int | None:
    """The process that tries a model out, if there is one."""
    assert site.edge.process is not None
    for task in Path(f"/proc/{site.edge.process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            return int(pid)
    return None


# -- kills -------------------------------------------------------------------------------------------------------------

Reached = Callable[[Site, Manifest], bool]

STEPS: dict[str, Reached] = {
    "first_chunks_on_disk": lambda site, manifest: (models_folder(site) / f"{manifest.sha256}.chunks" / "0").exists(),
    "being_tried_out": lambda site, _: trial(site) is not None,
    "artifact_on_disk": lambda site, manifest: (models_folder(site) / f"{manifest.sha256}.onnx").exists(),
    "reported": lambda site, manifest: (
        site.watcher.of_topic("models/reported")[-1]["champion"]["version"] == manifest.version
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_edge_serves_the_right_model_and_misses_no_origin(site: Site, step: str) -> None:
    manifest, chunks = large(2)
    site.publish_chunks(manifest.sha256, chunks[:-1] if step == "first_chunks_on_disk" else chunks)
    site.desire(manifest)
    wait_for(lambda: STEPS[step](site, manifest), step, site.edge.log)
    site.edge.kill()
    site.edge.start()
    assert site.serving() in (1, 2)
    site.publish_chunks(manifest.sha256, chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


def test_killed_again_and_again_at_any_moment_of_a_swap_the_right_model_serves(site: Site) -> None:
    for version, delay_s in enumerate((0.0, 0.1, 0.3, 0.5, 0.7), start=2):
        manifest, chunks = large(version, seed=2 + version % 2)
        site.publish_chunks(manifest.sha256, chunks)
        site.desire(manifest)
        time.sleep(delay_s)
        site.edge.kill()
        site.edge.start()
        assert site.serving() in (version - 1, version)
        site.wait_for_champion(version)
        assert site.serving() == version
    assert not site.missed_origins()


def test_when_the_process_that_tries_a_model_out_is_killed_the_model_is_refused_and_the_next_is_taken(
    site: Site,
) -> None:
    manifest, chunks = large(2)
    site.publish_chunks(manifest.sha256, chunks)
    site.desire(manifest)
    wait_for(lambda: trial(site) is not None, "a trial", site.edge.log)
    pid = trial(site)
    assert pid is not None, "it was over before it could be killed"
    os.kill(pid, signal.SIGKILL)
    site.refusal(2, "crashed")
    assert site.serving() == 1
    site.desire(large(3)[0])
    site.wait_for_champion(3)
    assert not site.missed_origins()


def test_a_champion_that_ends_the_process_each_time_it_is_loaded_is_stepped_back_from(site: Site) -> None:
    site.install(2, seed=2, trees=TREES)
    site.edge.kill()
    for attempt in (1, 2, 3):
        while _attempts(site) < attempt:  # until the kill falls while it is being loaded
            _kill_while_loading(site, attempt)
    site.edge.start()
    assert site.serving() == 1
    assert "ended 3 times" in site.refusal(2, "failed_running")["detail"]
    assert not site.missed_origins()


def _kill_while_loading(site: Site, attempt: int) -> None:
    process = subprocess.Popen(
        site.edge.arguments("run"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        wait_for(lambda: _attempts(site) >= attempt or process.poll() is not None, "the champion to be loaded")
    finally:
        process.kill()
        process.wait(10)


def _attempts(site: Site) -> int:
    """How often the champion was begun and ended the process, as the state on disk has it."""
    file = site.edge.folder / "state" / "edge.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        ((fact,),) = database.execute("SELECT value FROM facts WHERE name = 'models'")
    return Kept.read(fact).attempts


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_when_a_model_is_to_be_saved_costs_no_forecast_and_no_model(site: Site) -> None:
    manifest, chunks = large(2)
    site.publish_chunks(manifest.sha256, chunks)
    site.desire(manifest)
    wait_for(lambda: trial(site) is not None, "a trial", site.edge.log)
    with _full_disk(site):
        wait_for(lambda: "models' files not as they should be" in site.edge.log.read_text(), "it to be told")
        wait_for(lambda: "commit failed" in site.edge.log.read_text(), "the commit to wait for room")
    site.wait_for_champion(2)
    assert site.serving() == 2  # from memory, unless it was saved meanwhile
    site.edge.kill()
    site.edge.start()
    assert site.serving() in (1, 2)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


@contextmanager
def _full_disk(site: Site) -> Iterator[None]:
    """No file of the edge may be written beyond its first bytes; its log may, which is small."""
    assert site.edge.process is not None
    pid = site.edge.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (CHUNK_BYTES // 2, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


# -- brokers -----------------------------------------------------------------------------------------------------------


def test_a_broker_that_restarts_in_the_middle_of_a_transfer_costs_nothing(site: Site, broker: Broker) -> None:
    manifest, chunks = large(2)
    site.publish_chunks(manifest.sha256, chunks[:-1])
    site.desire(manifest)
    wait_for(lambda: STEPS["first_chunks_on_disk"](site, manifest), "the first chunk", site.edge.log)
    broker.stop()
    broker.start()
    site.publish_chunks(manifest.sha256, chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


def test_a_broker_that_forgets_in_the_middle_of_a_transfer_is_told_again(site: Site, broker: Broker) -> None:
    manifest, chunks = large(2)
    site.publish_chunks(manifest.sha256, chunks[:-1])
    site.desire(manifest)
    wait_for(lambda: STEPS["first_chunks_on_disk"](site, manifest), "the first chunk", site.edge.log)
    broker.kill()
    broker.start()
    site.desire(manifest)  # as central does when it connects
    site.publish_chunks(manifest.sha256, chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


# -- one after the other -----------------------------------------------------------------------------------------------


def test_of_two_manifests_in_quick_succession_the_newer_serves(site: Site) -> None:
    second, third = large(2, seed=2), large(3, seed=3)
    for manifest, chunks in (second, third):
        site.publish_chunks(manifest.sha256, chunks)
        site.desire(manifest)
    site.wait_for_champion(3)
    assert site.serving() == 3
    assert site.watcher.of_topic("models/reported")[-1]["refused"] == []
    assert not site.missed_origins()


def test_a_model_that_fails_when_it_runs_is_stepped_back_from_within_the_round_and_never_comes_back(site: Site) -> None:
    artifact, golden = failing_model(column="carried_6h", limit=2.0)
    manifest = manifest_of(artifact, golden, 2, expires=in_a_month())
    site.publish_chunks(manifest.sha256, pack(artifact).chunks)
    site.desire(manifest)
    site.wait_for_champion(2)
    assert site.serving() == 2
    site.watcher.send(METER, [{**hour, "value": 1e9} for hour in _hours(site, 1)])
    forecast = site.watcher.wait(
        f"forecasts/{METER}", lambda seen: seen[-1]["model"]["version"] == 1, "the one before to serve"
    )[-1]
    assert forecast["rung"] == "champion"
    assert not site.missed_origins()
    refusal = site.refusal(2, "failed_running")
    assert "no finite number" in refusal["detail"]
    site.edge.kill()
    site.edge.start()
    assert site.serving() == 1
    site.refusal(2, "failed_running")
    assert not site.missed_origins()


def _hours(site: Site, count: int) -> list[dict[str, object]]:
    found = [reading(site.hour + step, 1.0) for step in range(count)]
    site.hour += count
    return found


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_s", [YEAR_S, -YEAR_S])
def test_with_a_clock_that_is_wrong_by_a_year_models_are_taken_by_their_version_alone_and_it_is_told(
    broker: Broker, tmp_path: Path, off_s: int
) -> None:
    skew = tmp_path / "off"
    skew.write_text("0")
    settings = (f"site={SITE}", "clock=wall", "mqtt.host=127.0.0.1", f"mqtt.port={broker.port}", TRUSTED)
    edge = processes.EdgeProcess(tmp_path / "edge", settings, skew)
    watcher = Watcher(broker.port)
    edge.start()
    try:
        now_us = to_us(wall_now())
        watcher.send(METER, [_power(now_us - hours * 3_600_000_000) for hours in range(HISTORY_H, 0, -1)])
        watcher.wait(f"forecasts/{METER}", bool, "a forecast")
        skew.write_text(str(off_s))
        watcher.wait("status", lambda seen: any("clock_suspect" in why for why in seen[-1]["reasons"]), "the doubt")
        manifest, chunks = good(5)
        _publish(watcher, manifest, chunks)
        watcher.wait("models/reported", lambda seen: (seen[-1]["champion"] or {}).get("version") == 5, "version 5")
        _publish(watcher, *good(4, seed=2))
        seen = watcher.wait("models/reported", lambda seen: bool(seen[-1]["refused"]), "a refusal")
        assert (seen[-1]["refused"][0]["reason"], seen[-1]["champion"]["version"]) == ("version_not_newer", 5)
    finally:
        edge.kill()
        watcher.connection.stop()


def _power(ts_us: int) -> dict[str, object]:
    return {"ts": iso(ts_us), "value": 1.0 + ts_us // 3_600_000_000 % 24, "unit": "kW"}


def _publish(watcher: Watcher, manifest: Manifest, chunks: list[bytes]) -> None:
    for number, chunk in enumerate(chunks):
        watcher.connection.publish(f"metercast/artifacts/{manifest.sha256}/{number}", chunk, retain=True)
    watcher.connection.publish(f"metercast/{SITE}/models/desired", Desired(champion=manifest).encode(), retain=True)
