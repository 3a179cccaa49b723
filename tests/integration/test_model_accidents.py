"""Power cuts, forgetful brokers, clocks that are wrong, models that fail late: the right model serves all the same."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.kept import ATTEMPTS_AT_MOST, Kept
from shared.clock import iso, to_us, wall_now
from shared.manifest import CHUNK_BYTES, Manifest, pack
from tests.bad_models import HAZARDS, failing_model
from tests.children import children
from tests.integration.attacked_site import HISTORY_H, METER, Site, copied, good, wait_until_said
from tests.integration.plant import SITE, Watcher, reading
from tests.mosquitto import Broker
from tests.processes import EdgeProcess
from tests.small_model import TRUSTED, in_a_month, manifest_of
from tests.waiting import found, wait_for

TREES = 240  # of a model that comes in several chunks and takes a moment to try out
YEAR_S = 365 * 86_400


@pytest.fixture
def site(prepared_site: Path, tmp_path: Path) -> Iterator[Site]:
    """A site that runs version 1."""
    with copied(prepared_site, tmp_path / "site") as begun:
        yield begun


def large(version: int, seed: int = 2) -> tuple[Manifest, list[bytes]]:
    return good(version, seed, trees=TREES)


def trial(site: Site) -> int | None:
    """The process that tries a model out, if there is one."""
    return next(iter(children(site.edge.pid)), None)


def await_trial(site: Site) -> int:
    """The same, once there is one."""
    return found(lambda: trial(site), "a trial", site.edge.log)


def send_but_the_last_chunk(site: Site, manifest: Manifest, chunks: list[bytes]) -> None:
    """Desire a model of which a chunk is missing; returns when the edge has the first on its disk."""
    site.watcher.offer(manifest, chunks[:-1])
    wait_for(lambda: has_first_chunk(site, manifest), "the first chunk", site.edge.log)


def has_first_chunk(site: Site, manifest: Manifest) -> bool:
    return (site.edge.state / "models" / f"{manifest.sha256}.chunks" / "0").exists()


# -- kills -------------------------------------------------------------------------------------------------------------

Reached = Callable[[Site, Manifest], bool]

STEPS: dict[str, Reached] = {
    "first_chunks_on_disk": has_first_chunk,
    "being_tried_out": lambda site, _: trial(site) is not None,
    "artifact_on_disk": lambda site, manifest: (site.edge.state / "models" / f"{manifest.sha256}.onnx").exists(),
    "reported": lambda site, manifest: site.champion() == manifest.version,
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_edge_serves_the_right_model_and_misses_no_origin(site: Site, step: str) -> None:
    manifest, chunks = large(2)
    site.watcher.offer(manifest, chunks[:-1] if step == "first_chunks_on_disk" else chunks)
    wait_for(lambda: STEPS[step](site, manifest), step, site.edge.log)
    site.edge.kill()
    site.edge.start()
    assert site.serving() in (1, 2)
    site.watcher.publish_chunks(manifest.sha256, chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


def test_killed_again_and_again_at_any_moment_of_a_swap_the_right_model_serves(site: Site) -> None:
    for version, delay_s in enumerate((0.0, 0.1, 0.3, 0.5, 0.7), start=2):
        manifest, chunks = large(version, seed=2 + version % 2)
        site.watcher.offer(manifest, chunks)
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
    endless = HAZARDS["chained_products"]()  # so that it is not over before it can be killed
    manifest = manifest_of(endless.artifact, endless.golden, 2, expires=in_a_month())
    site.watcher.offer(manifest, pack(endless.artifact).chunks)
    os.kill(await_trial(site), signal.SIGKILL)
    site.refusal(2, "crashed")
    assert site.serving() == 1
    site.watcher.offer(*large(3))
    site.wait_for_champion(3)
    assert not site.missed_origins()


def test_a_champion_that_ends_the_process_each_time_it_is_loaded_is_stepped_back_from(site: Site) -> None:
    site.install(2, seed=2, trees=TREES)
    site.edge.kill()
    while attempts(site) < ATTEMPTS_AT_MOST:  # a kill may come too late, when it has been loaded
        kill_while_loading(site)
    site.edge.start()
    assert site.serving() == 1
    assert "ended 3 times" in site.refusal(2, "failed_running")["detail"]
    assert not site.missed_origins()


def test_a_new_model_that_ended_the_process_each_time_it_was_loaded_is_given_up(site: Site) -> None:
    manifest, chunks = good(2, seed=2)
    note = site.edge.state / "models" / f"{manifest.sha256}.loading"
    note.write_text(str(ATTEMPTS_AT_MOST))  # what the processes left
    site.watcher.offer(manifest, chunks)
    assert "ended 3 times" in site.refusal(2, "failed_running")["detail"]
    assert site.serving() == 1
    wait_for(lambda: not note.exists(), "the note to go", site.edge.log)


def kill_while_loading(site: Site) -> None:
    """Start the edge, and kill it once it has noted another attempt, or has got beyond it."""
    before, begun = attempts(site), site.edge.times_said("edge runs")
    site.edge.spawn()
    wait_for(
        lambda: attempts(site) > before or site.edge.times_said("edge runs") > begun,
        "the champion to be loaded", site.edge.log, every_s=0.001,
    )  # fmt: skip
    site.edge.kill()


def attempts(site: Site) -> int:
    """How often the champion was begun and ended the process, as the state on disk has it."""
    with closing(sqlite3.connect(f"file:{site.edge.state / 'edge.sqlite'}?mode=ro", uri=True)) as database:
        ((fact,),) = database.execute("SELECT value FROM facts WHERE name = 'models'")
    return Kept.read(fact).attempts


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_when_a_model_is_to_be_saved_costs_no_forecast_and_no_model(site: Site) -> None:
    site.watcher.offer(*large(2))
    os.kill(pid := await_trial(site), signal.SIGSTOP)  # so that it is not over before the disk is full
    with site.edge.disk_full(CHUNK_BYTES // 2):  # of the edge's files only its log is that small
        os.kill(pid, signal.SIGCONT)
        wait_until_said(site, "models' files not as they should be")
        wait_until_said(site, "commit failed")
    site.wait_for_champion(2)
    assert site.serving() == 2  # from memory, unless it was saved meanwhile
    site.edge.kill()
    site.edge.start()
    assert site.serving() in (1, 2)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


# -- brokers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [False, True], ids=["keeps what it has", "forgets all"])
def test_a_broker_that_restarts_in_the_middle_of_a_transfer_costs_nothing(site: Site, forgets: bool) -> None:
    manifest, chunks = large(2)
    send_but_the_last_chunk(site, manifest, chunks)
    if forgets:
        site.broker.kill()
        (site.broker.folder / "mosquitto.db").unlink()
    else:
        site.broker.stop()
    site.broker.start()
    if forgets:
        site.watcher.desire(manifest)  # as central does when it connects
    site.watcher.publish_chunks(manifest.sha256, chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    assert not site.missed_origins()


# -- one after the other -----------------------------------------------------------------------------------------------


def test_of_two_manifests_in_quick_succession_the_newer_serves(site: Site) -> None:
    second, third = large(2, seed=2), large(3, seed=3)
    for manifest, chunks in (second, third):
        site.watcher.offer(manifest, chunks)
    site.wait_for_champion(3)
    assert site.serving() == 3
    assert site.watcher.of_topic("models/reported")[-1]["refused"] == []
    assert not site.missed_origins()


def test_a_model_that_fails_when_it_runs_is_stepped_back_from_within_the_round_and_never_comes_back(site: Site) -> None:
    artifact, golden = failing_model(column="carried_6h", limit=2.0)
    manifest = manifest_of(artifact, golden, 2, expires=in_a_month())
    site.watcher.offer(manifest, pack(artifact).chunks)
    site.wait_for_champion(2)
    assert site.serving() == 2
    site.watcher.send(METER, reading(site.hour, 1e9))
    site.hour += 1
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


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_s", [YEAR_S, -YEAR_S])
def test_with_a_clock_that_is_wrong_by_a_year_models_are_taken_by_their_version_alone_and_it_is_told(
    broker: Broker, tmp_path: Path, off_s: int
) -> None:
    skew = tmp_path / "off"
    skew.write_text("0")
    settings = (f"site={SITE}", "clock=wall", "mqtt.host=127.0.0.1", f"mqtt.port={broker.port}", TRUSTED)
    edge, watcher = EdgeProcess(tmp_path / "edge", settings, skew), Watcher(broker.port)
    edge.start()
    try:
        now_us = to_us(wall_now())
        watcher.send(METER, [power(now_us - hours * 3_600_000_000) for hours in range(HISTORY_H, 0, -1)])
        watcher.wait(f"forecasts/{METER}", bool, "a forecast")
        skew.write_text(str(off_s))
        watcher.wait("status", lambda seen: any("clock_suspect" in why for why in seen[-1]["reasons"]), "the doubt")
        watcher.offer(*good(5))
        watcher.wait("models/reported", lambda seen: (seen[-1]["champion"] or {}).get("version") == 5, "version 5")
        watcher.offer(*good(4, seed=2))
        seen = watcher.wait("models/reported", lambda seen: bool(seen[-1]["refused"]), "a refusal")
        assert (seen[-1]["refused"][0]["reason"], seen[-1]["champion"]["version"]) == ("version_not_newer", 5)
    finally:
        edge.kill()
        watcher.stop()


def power(ts_us: int) -> dict[str, object]:
    return {"ts": iso(ts_us), "value": 1.0 + ts_us // 3_600_000_000 % 24, "unit": "kW"}
