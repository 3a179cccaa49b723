"""What happens while the live weeks go by: the planned mistakes, and a sentence for the person who watches."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import pandas as pd

from demo.retrain import Retrain, drift_after_change, find_retrain
from demo.scenario import PERIOD, wrong_payloads
from demo.stage import Stage
from shared.clock import HOUR_US

MISTAKES_AFTER: Final = timedelta(days=3)
REPEATED: Final = timedelta(days=1)  # of readings are sent a second time, to be counted once


@dataclass(slots=True)
class Story:
    """Says each thing once, when it is due, and knows when all has been told."""

    stage: Stage
    retrain: Retrain | None = None
    _said: set[str] = field(default_factory=set)

    def told(self) -> bool:
        """Say what is new; whether readings are out for as long as the retrained model is to be judged."""
        stage, scenario = self.stage, self.stage.scenario
        self._once("mistakes", stage.now >= scenario.live_from + MISTAKES_AFTER, self._make_mistakes)
        self._once("change", stage.now >= scenario.change_at, self._say_change)
        self._once("drift", drift_after_change(stage.observer.drift, scenario) is not None, self._say_drift)
        self.retrain = self.retrain or find_retrain(stage.observer)
        self._once("swap", self.retrain is not None, self._say_swap)
        return self.retrain is not None and self._published_since(self.retrain) >= scenario.score_for

    def awaits_model(self) -> bool:
        """Whether drift was seen in the change and no model has answered it yet."""
        return "drift" in self._said and self.retrain is None

    def _published_since(self, retrain: Retrain) -> timedelta:
        # What is published counts, not what is forecast: an edge that lags behind the replay catches up afterwards.
        swap_us = self.stage.scenario.start_us + retrain.origin * HOUR_US
        return timedelta(microseconds=self.stage.observer.published_until_us - swap_us)

    def _once(self, what: str, due: bool, act: Callable[[], None]) -> None:
        if due and what not in self._said:
            self._said.add(what)
            act()

    def _say(self, text: str) -> None:
        self.stage.progress.step(f"{self.stage.now:%a %-d %b}: {text}")

    def _make_mistakes(self) -> None:
        hour = self.stage.now.replace(minute=0)
        wrong = [(self.stage.observer.meters[0], payload) for payload in wrong_payloads(hour)]
        repeated = sent_again(self.stage.readings, hour - REPEATED, hour)
        for meter, payload in wrong + repeated:
            self.stage.listener.publish_reading(meter, payload)
        self._say(f"{len(wrong)} wrong messages and {len(repeated)} repeated readings thrown in")

    def _say_change(self) -> None:
        changed = len(self.stage.scenario.changed(self.stage.observer.meters))
        self._say(f"from now on {changed} households charge a car every second night")

    def _say_drift(self) -> None:
        message = self.stage.observer.drift[-1].message
        self._say(f"drift in {len(message['meters'])} meters: {message['decision']}")

    def _say_swap(self) -> None:
        assert self.retrain is not None, "said once there is one"
        days = self.stage.scenario.score_for.days
        self._say(f"model v{self.retrain.push.version} took over; {days} days more to judge it")


def sent_again(readings: pd.DataFrame, since: datetime, until: datetime) -> list[tuple[str, bytes]]:
    """Return (meter, payload) of the readings of a stretch of time, as they were sent before."""
    stretch = readings[(readings.ts >= since) & (readings.ts < until)]
    energy = {"unit": "kWh", "kind": "energy", "period_s": int(PERIOD.total_seconds())}
    return [
        (str(meter), json.dumps({"ts": ts.isoformat(), "value": float(value), **energy}).encode())
        for meter, ts, value in stretch[["meter_id", "ts", "value"]].itertuples(index=False)
    ]
