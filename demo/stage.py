"""The stage: what is running, where its files lie, and that all of it stops at the end."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from demo.archive import CHAMPION, QUANTILES
from demo.broker import free_port
from demo.listener import Listener
from demo.observer import SERVED, Observer
from demo.processes import Child, start
from demo.progress import Progress
from demo.scenario import ZONE, Scenario, plant_charging, read_households
from shared.clock import HOUR_US, to_datetime
from shared.topics import SiteTopics

ROOT: Final = Path(__file__).resolve().parent.parent
POLL_S: Final = 0.05
LASTING: Final = ("mosquitto", "central", "edge")
OURS: Final = (
    "logs",
    "state",
    "summary.json",
    "loop.png",
    "readings.parquet",
    "recorded.parquet",
    "dead_letters.parquet",
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: the scenario, the folder for what comes out, and the seconds that a live day takes."""

    scenario: Scenario
    out: Path
    day_s: float = 1.2


@dataclass(slots=True)
class Stage:
    """The running parts. Invariant: whatever was launched is stopped by `stop`, newest first."""

    options: Options
    progress: Progress
    port: int
    metrics_port: int
    topics: SiteTopics
    observer: Observer
    listener: Listener
    readings: pd.DataFrame
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def scenario(self) -> Scenario:
        """The scenario that is played."""
        return self.options.scenario

    @property
    def out(self) -> Path:
        """Folder for what comes out, absolute."""
        return self.options.out.resolve()

    @property
    def replay_file(self) -> Path:
        """The readings with the planted change, as Parquet."""
        return self.out / "readings.parquet"

    @property
    def now(self) -> datetime:
        """Event time as the edge's forecasts tell it."""
        return to_datetime(max(self.observer.event_us, self.scenario.start_us))

    def settings(self, *more: str) -> list[str]:
        """Command-line settings that every process shares, and `more`, each `key=value`."""
        common = (
            f"site={self.scenario.site}",
            "mqtt.host=127.0.0.1",
            f"mqtt.port={self.port}",
            "clock=event",
            f"calendar.zone={ZONE}",
            "calendar.country=GB",
            f"forecast.quantiles={','.join(QUANTILES)}",
        )
        return [part for setting in (*common, *more) for part in ("--set", setting)]

    def launch(self, name: str, argv: Sequence[str]) -> Child:
        """Start `python -m argv` from the project's root under `name`."""
        child = start(name, [sys.executable, "-m", *argv], self.out / "logs", ROOT)
        self.children[name] = child
        return child

    def retire(self, name: str) -> None:
        """Stop one process."""
        self.children.pop(name).stop()

    def require_up(self) -> None:
        """Raise DemoFailed when one of the lasting processes has ended; replays and exports may."""
        for name in LASTING:
            if name in self.children:
                self.children[name].require_running()

    def wait_until(self, reached: Callable[[], bool], within_s: float, *, doing: str, by: str) -> None:
        """Poll until `reached`, showing progress; raise DemoFailed, naming the process `by`, when time is up or one
        died.
        """
        give_up = time.monotonic() + within_s
        while not reached():
            self.require_up()
            if time.monotonic() > give_up:
                raise self.children[by].failed(f"{doing}: not within {within_s:.0f} s")
            self.progress.now(f"{doing}  {self.standing()}")
            time.sleep(POLL_S)

    def standing(self) -> str:
        """One line on where the run stands."""
        observer = self.observer
        served = observer.archives[SERVED]
        newest = (observer.event_us - self.scenario.start_us) // HOUR_US
        column = min(max(0, newest - 1), served.origins - 1)  # of the newest origin some forecasts are still to come
        by_model = int(np.count_nonzero(served.rung[:, column] == CHAMPION))
        version = observer.serving[-1].version if observer.serving else 0
        who = f"v{version} serves {by_model} of {len(observer.meters)} meters" if version else "starter and fallback"
        return (
            f"{self.now:%a %-d %b %H:00}  {who}  {observer.counts.forecasts:,} forecasts  "
            f"{len(observer.drift)} drift  {len(observer.dead_letters)} dead letters"
        )

    def stop(self) -> None:
        """Stop everything, newest first."""
        self.listener.stop()
        for name in reversed(list(self.children)):
            self.retire(name)


@contextmanager
def staged(options: Options, progress: Progress) -> Iterator[Stage]:
    """Prepare folder and readings; at the end stop whatever was started on the stage."""
    _clear(options.out)
    scenario = options.scenario
    readings = plant_charging(read_households(scenario), scenario)
    topics = SiteTopics("metercast", scenario.site)
    observer = Observer(scenario, topics, sorted(readings.meter_id.unique()))
    begun = time.monotonic() - progress.seconds
    port = free_port()
    listener = Listener(port, topics, lambda topic, payload: observer.take(topic, payload, time.monotonic() - begun))
    stage = Stage(options, progress, port, free_port(), topics, observer, listener, readings)
    readings.to_parquet(stage.replay_file, index=False)
    try:
        yield stage
    finally:
        stage.stop()


def _clear(out: Path) -> None:
    """Remove what an earlier run left in `out`, and nothing that is not ours."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / name for name in OURS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / "logs").mkdir()
