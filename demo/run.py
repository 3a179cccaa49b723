"""The run itself: broker, central, edge, weeks of history, the first model, live weeks with the change, the retrained
model.

Edge and central are started with the commands a user would type; nothing of them is imported.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pandas as pd

from demo.broker import start_broker
from demo.observer import SERVED, Observer
from demo.pacing import Pace
from demo.processes import Child, make_key
from demo.retrain import Retrain
from demo.scenario import hourly_kw, last_origins
from demo.scores import Hindsight
from demo.stage import ROOT, Stage
from demo.story import Story
from demo.summary import Outcome, Recorded, read_export, read_models, resident_mb
from shared.clock import to_us

UP_WITHIN_S: Final = 40.0
HISTORY_WITHIN_S: Final = 150.0
FIRST_MODEL_WITHIN_S: Final = 150.0
LIVE_WITHIN_S: Final = 360.0
DRAIN_WITHIN_S: Final = 60.0
EXPORT_WITHIN_S: Final = 60.0
QUIET_S: Final = 1.0  # nothing came for so long: what is complete is complete
GIVEN_UP_S: Final = 10.0  # nothing came for so long: what is missing stays missing


def play(stage: Stage) -> Outcome:
    """Play the whole demo on the stage. Raises DemoFailed with the reason and the tail of a log."""
    open_stage(stage)
    replay_history(stage)
    await_first_model(stage)
    retrain = replay_live(stage)
    stage.progress.step("replay stopped; the edge and the record catch up")
    drain(stage)
    recorded = read_record_back(stage)
    stage.progress.step(f"the record holds {recorded.readings:,} readings and {recorded.dead_letters} dead letters")
    return conclude(stage, retrain, recorded)


def open_stage(stage: Stage) -> None:
    """Start broker, central and edge, which trusts central's new key; wait until the edge says that it is online."""
    stage.children["mosquitto"] = start_broker(stage.port, stage.out / "state" / "broker", stage.out / "logs")
    stage.listener.start()
    trusted = make_key(["central", "keys", "new", "--json", *_central_settings(stage)], ROOT)
    stage.launch("central", ["central", "run", *_central_settings(stage)])
    stage.launch("edge", ["edge", "run", *_edge_settings(stage, trusted)])
    online = lambda: stage.observer.status.get("state") == "online"  # noqa: E731 (one word beats a nested def)
    stage.wait_until(online, UP_WITHIN_S, doing="starting", by="edge")
    stage.progress.step(f"broker on port {stage.port}, edge and central are up; {len(stage.observer.meters)} meters")


def _edge_settings(stage: Stage, trusted: str) -> list[str]:
    state = stage.out / "state" / "edge"
    metrics = f"edge.metrics_port={stage.metrics_port}"
    keys = f"keys.trusted={json.dumps([trusted])}"
    return stage.settings(f"edge.state_dir={state}", metrics, keys, "edge.publish_shadow=true")


def _central_settings(stage: Stage) -> list[str]:
    work = stage.out / "state" / "central"
    history = stage.scenario.live_from - stage.scenario.start
    return stage.settings(
        f"central.work_dir={work}",
        f"central.record_uri={work / 'record'}",
        "central.metrics_port=0",
        f"training.min_history={(history * 3 // 4).days}d",  # the first training overlaps with the rest of the replay
        "training.every=365d",  # the schedule stays out of it: what retrains here is drift
        "training.window=42d",  # short, so that the new nights soon weigh something
        "training.rows=50000",
    )


def replay_history(stage: Stage) -> None:
    """Replay the history as fast as it goes, and wait until the edge has forecast from its last hour."""
    scenario = stage.scenario
    weeks = (scenario.live_from - scenario.start).days // 7
    stage.progress.step(f"replaying {weeks} weeks of history as fast as it goes")
    replay = _replay(stage, "replay-history", "max", scenario.start, scenario.live_from)
    almost = scenario.live_from - timedelta(hours=1)  # the last interval of a meter with a gap may close later
    stage.wait_until(lambda: not replay.running and stage.now >= almost, HISTORY_WITHIN_S, doing="history", by="edge")
    replay.wait(0)
    stage.retire("replay-history")
    stage.progress.step(f"history is in, {stage.observer.counts.forecasts:,} forecasts are out")


def _replay(stage: Stage, name: str, speed: str, since: datetime, until: datetime) -> Child:
    energy = ["--kind", "energy", "--unit", "kWh", "--period", "30min"]
    when = ["--speed", speed, "--from", since.isoformat(), "--to", until.isoformat()]
    return stage.launch(name, ["edge", "replay", str(stage.replay_file), *energy, *when, *stage.settings()])


def await_first_model(stage: Stage) -> None:
    """Wait until central has trained and pushed a first model and the edge runs it."""
    stage.wait_until(lambda: bool(stage.observer.serving), FIRST_MODEL_WITHIN_S, doing="first model", by="central")
    version = stage.observer.serving[0].version
    stage.progress.step(f"model v{version}: trained, pushed over MQTT, checked, and running at the edge")


def replay_live(stage: Stage) -> Retrain | None:
    """Replay live weeks until the retrained model has served long enough to be judged, or the readings end."""
    scenario, day_s = stage.scenario, stage.options.day_s
    stage.progress.step(f"live from {scenario.live_from:%a %-d %b}, a day every {day_s:g} s")
    replay = _replay(stage, "replay-live", "max", scenario.live_from, scenario.end)
    story = Story(stage)
    pace = Pace(replay, stage.observer, day_s, to_us(scenario.live_from), training=story.awaits_model)

    def over() -> bool:
        pace.keep()
        return story.told() or not replay.running

    stage.wait_until(over, LIVE_WITHIN_S, doing="live", by="central")
    if not replay.running:
        replay.wait(0)
    stage.retire("replay-live")
    return story.retrain


def drain(stage: Stage) -> None:
    """Wait until every meter's last forecast is out and the edge's outbox is empty, or nothing moves any more."""
    quiet = Quiet(stage.observer)

    def settled() -> bool:
        missed = stage.observer.archives[SERVED].missed(_due(stage))
        complete = missed == 0 and not stage.observer.status.get("outbox")
        return quiet.for_s() > (QUIET_S if complete else GIVEN_UP_S)

    stage.wait_until(settled, DRAIN_WITHIN_S, doing="catching up", by="edge")


@dataclass(slots=True)
class Quiet:
    """How long no forecast and no reading has come."""

    observer: Observer
    _last: tuple[int, int] = (0, 0)
    _since: float = field(default_factory=time.monotonic)

    def for_s(self) -> float:
        """Seconds since anything came."""
        seen = (self.observer.counts.forecasts, self.observer.counts.readings_messages)
        if seen != self._last:
            self._last, self._since = seen, time.monotonic()
        return time.monotonic() - self._since


def sent_readings(stage: Stage) -> pd.DataFrame:
    """Return the readings that were really published, meter by meter, before the replay was stopped."""
    newest = dict(zip(stage.observer.meters, stage.observer.newest_us.tolist(), strict=True))
    ts_us = (stage.readings.ts - pd.Timestamp(0, tz="UTC")) // timedelta(microseconds=1)
    return stage.readings[ts_us <= stage.readings.meter_id.map(newest)]


def _due(stage: Stage) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return last_origins(sent_readings(stage), stage.scenario, stage.observer.meters)


def read_record_back(stage: Stage) -> Recorded:
    """Export the record while central runs, until it holds what was published or time is up."""
    readings, dead = stage.out / "recorded.parquet", stage.out / "dead_letters.parquet"
    argv = ["central", "export", "--readings", str(readings), "--dead-letters", str(dead), *_central_settings(stage)]
    give_up = time.monotonic() + EXPORT_WITHIN_S
    while True:
        stage.launch("central-export", argv).wait(EXPORT_WITHIN_S)
        stage.retire("central-export")
        recorded = read_export(readings, dead)
        missing = stage.observer.readings_published - recorded.readings - recorded.dead_letters
        if missing <= 0 or time.monotonic() > give_up:
            return recorded
        stage.progress.now(f"record: {missing:,} readings still under way")
        time.sleep(1)


def conclude(stage: Stage, retrain: Retrain | None, recorded: Recorded) -> Outcome:
    """Gather what the run showed."""
    observer, scenario = stage.observer, stage.scenario
    models = [sys.executable, "-m", "central", "models", "--json", *_central_settings(stage)]
    return Outcome(
        observer=observer,
        hindsight=Hindsight.of(hourly_kw(sent_readings(stage), scenario, observer.meters)),
        changed=np.isin(observer.meters, scenario.changed(observer.meters)),
        last_origins=_due(stage),
        retrain=retrain,
        recorded=recorded,
        seconds=stage.progress.seconds,
        edge_memory=resident_mb(stage.children["edge"].process.pid),
        trained=read_models(models, ROOT),
    )
