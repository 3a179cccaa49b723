"""Which forecasts the picture shows: a typical household among the changed, at a typical evening before and after the
retrain.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from demo.archive import HIGH, LEADS, ForecastArchive
from demo.observer import SERVED
from demo.scenario import CHARGING_HOURS, ZONE, Scenario, is_charging_night
from demo.scores import Floats, Medians
from demo.summary import Outcome

HISTORY: Final = timedelta(hours=72)
EVENING: Final = 18  # local hour of the origins shown
SETTLED: Final = timedelta(
    days=4
)  # after the change: the old model has the new nights in its window, and still misses them


@dataclass(frozen=True, slots=True)
class Fan:
    """One forecast with 72 h before it: `truth_kw` `[72 + 48]`, `quantiles` `[48, 3]`, and local starts of charging
    nights.
    """

    title: str
    begins: datetime
    truth_kw: Floats
    quantiles: NDArray[np.float32]
    charging: list[datetime]
    after: bool

    def top_kw(self) -> float:
        """The highest value drawn."""
        return float(np.nanmax([*self.truth_kw, *self.quantiles[:, HIGH]]))


def choose_fans(outcome: Outcome) -> list[Fan]:
    """Return the fan before and the one after the retrain; without a retrain, the last evening's alone; none without
    forecasts.
    """
    served = outcome.observer.archives[SERVED]
    scenario = outcome.observer.scenario
    settled = scenario.hour_of(scenario.change_at + SETTLED)
    if outcome.retrain is None:
        meter = int(np.flatnonzero(outcome.changed)[0])
        evenings = _evenings(scenario, 0, outcome.until - LEADS + 1)
        last = [origin for origin in evenings if served.messages[meter, origin]][-1:]
        return [_fan(outcome, meter, origin, "Last evening", after=False) for origin in last]
    old, new = outcome.retrain.old_version, outcome.retrain.push.version
    meter = typical_meter(outcome)
    return [
        *_typical(outcome, meter, old, range(settled, outcome.retrain.origin), f"Before: model v{old}", after=False),
        *_typical(
            outcome, meter, new, range(outcome.retrain.origin, outcome.until), f"After: model v{new}", after=True
        ),
    ]


def typical_meter(outcome: Outcome) -> int:
    """Return the changed meter whose gain from the retrain is the median one."""
    assert outcome.retrain is not None, "without a retrain there is no gain"
    archives = outcome.observer.archives.values()
    scores = [
        outcome.hindsight.scaled_errors(Medians.of(version, *archives).from_origin(outcome.retrain.origin).values)
        for version in (outcome.retrain.old_version, outcome.retrain.push.version)
    ]
    gain = np.where(outcome.changed[:, None], scores[0] - scores[1], np.nan)
    known = np.isfinite(gain)
    mean = np.where(known, gain, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    changed = np.flatnonzero(outcome.changed)
    return int(changed[np.argsort(mean[changed])[len(changed) // 2]])


def _typical(outcome: Outcome, meter: int, version: int, origins: range, name: str, *, after: bool) -> list[Fan]:
    """Return the fan, in a list, of the evening with the median error among those this version served; empty without
    one.
    """
    served: ForecastArchive = outcome.observer.archives[SERVED]
    scaled = outcome.hindsight.scaled_errors(Medians.of(version, served).values)[meter]
    evenings = _evenings(outcome.observer.scenario, origins.start, min(origins.stop, outcome.until - LEADS + 1))
    known = [origin for origin in evenings if np.isfinite(scaled[origin])]
    if not known:
        return []
    middle = sorted(known, key=lambda origin: float(scaled[origin]))[len(known) // 2]
    return [_fan(outcome, meter, middle, name, after=after)]


def _evenings(scenario: Scenario, first: int, last: int) -> list[int]:
    hours = pd.date_range(scenario.start, periods=max(last, 0), freq="h").tz_convert(ZONE)
    return [number for number in range(max(first, 0), last) if hours[number].hour == EVENING]


def _fan(outcome: Outcome, meter: int, origin: int, name: str, *, after: bool) -> Fan:
    scenario, observer = outcome.observer.scenario, outcome.observer
    at = scenario.start + timedelta(hours=origin)
    local = at.astimezone(ZoneInfo(ZONE))
    back = HISTORY // timedelta(hours=1)
    return Fan(
        title=f"{name}, 48 h from {local:%A %-d %B, %H:%M}  ({observer.meters[meter]})",
        begins=at - HISTORY,
        truth_kw=outcome.hindsight.kw[meter, origin - back : origin + LEADS],
        quantiles=observer.archives[SERVED].values[meter, origin],
        charging=_charging(outcome, meter, at - HISTORY, at + timedelta(hours=LEADS)),
        after=after,
    )


def _charging(outcome: Outcome, meter: int, since: datetime, until: datetime) -> list[datetime]:
    """Return the local starts of the nights between two instants on which this meter's car was charged."""
    scenario, meters = outcome.observer.scenario, outcome.observer.meters
    if not outcome.changed[meter]:
        return []
    parity = scenario.changed(meters).index(meters[meter]) % 2
    nights = pd.date_range(since.date(), until.date(), freq="D", tz=ZONE) + timedelta(hours=CHARGING_HOURS[0])
    return [
        night.to_pydatetime()
        for night in nights
        if night >= max(since, scenario.change_at) and night < until and is_charging_night(night.date(), parity)
    ]
