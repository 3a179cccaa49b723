"""What the demo replays: which weeks, which households change and how, and which readings are wrong on purpose.

The planted change is an electric car: from one day on, a third of the households charge on every second night. A
model that only scales with the level of its window cannot absorb that, and seasonal naive of 168 h is wrong by
construction: seven nights is an odd number.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.clock import HOUR_US, iso, to_us

HOUSEHOLDS: Final = Path(__file__).parent / "data" / "london_households.parquet"
ZONE: Final = "Europe/London"
PERIOD: Final = timedelta(minutes=30)
CHARGING_HOURS: Final = (1, 2, 3, 4)  # 01:00 to 05:00 local
CHARGING_KW: Final = 3.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run of the demo in event time. All instants are aware UTC midnights.

    Invariants: start < live_from < change_at < end.
    """

    start: datetime = datetime(2013, 3, 4, tzinfo=UTC)
    live_from: datetime = datetime(2013, 4, 29, tzinfo=UTC)
    change_at: datetime = datetime(2013, 5, 13, tzinfo=UTC)
    end: datetime = datetime(2013, 9, 16, tzinfo=UTC)
    score_for: timedelta = timedelta(days=16)  # two weeks of origins whose 48 h all came true
    meters: int = 24
    every: int = 3  # every third household changes
    site: str = "london"

    def __post_init__(self) -> None:
        """Refuse instants out of order."""
        if not self.start < self.live_from < self.change_at < self.end:
            raise ValueError("scenario: expected start < live_from < change_at < end")

    @property
    def start_us(self) -> int:
        """The first interval's start."""
        return to_us(self.start)

    @property
    def hours(self) -> int:
        """Intervals from start to end."""
        return (to_us(self.end) - self.start_us) // HOUR_US

    def hour_of(self, instant: datetime) -> int:
        """Index of the interval that starts at `instant`."""
        return (to_us(instant) - self.start_us) // HOUR_US

    def holds(self, instant_us: int) -> bool:
        """Whether an instant lies inside the scenario."""
        return self.start_us <= instant_us < to_us(self.end)

    def changed(self, meters: Sequence[str]) -> list[str]:
        """The households that get a car: every third by id, which says nothing of their size."""
        return list(meters[1 :: self.every])


def quick() -> Scenario:
    """A smaller run for a first look: half of the households, five weeks of history."""
    return Scenario(start=datetime(2013, 3, 25, tzinfo=UTC), meters=12)


def read_households(scenario: Scenario, path: Path = HOUSEHOLDS) -> pd.DataFrame:
    """Return meter_id, ts (UTC), value (kWh per half-hour) of the scenario's households and weeks, sorted by time."""
    readings = pd.read_parquet(path)
    meters = sorted(readings.meter_id.unique())
    kept = meters[:: max(1, len(meters) // scenario.meters)][: scenario.meters]
    inside = readings.ts.between(scenario.start, scenario.end, inclusive="left") & readings.meter_id.isin(kept)
    return readings[inside].sort_values(["ts", "meter_id"], ignore_index=True)


def is_charging_night(day: date, parity: int) -> bool:
    """Whether a car of this parity is charged in the small hours of a local day."""
    return day.toordinal() % 2 == parity


def plant_charging(readings: pd.DataFrame, scenario: Scenario) -> pd.DataFrame:
    """Return the readings with a car charging in the changed households, every second local night from `change_at`."""
    meters = sorted(readings.meter_id.unique())
    parity = {meter: number % 2 for number, meter in enumerate(scenario.changed(meters))}
    local = readings.ts.dt.tz_convert(ZONE)
    odd = {day: int(is_charging_night(day, 1)) for day in local.dt.date.unique()}
    charging = (
        local.dt.hour.isin(CHARGING_HOURS)
        & (readings.ts >= scenario.change_at)
        & (local.dt.date.map(odd) == readings.meter_id.map(parity))
    )
    added_kwh = CHARGING_KW * (PERIOD / timedelta(hours=1))
    return readings.assign(value=(readings.value + added_kwh * charging).round(3))


def hourly_kw(readings: pd.DataFrame, scenario: Scenario, meters: Sequence[str]) -> NDArray[np.float64]:
    """Return what came true, `[meters, hours]` in kW: both half-hours summed, NaN where one is missing."""
    hour = (readings.ts - scenario.start) // timedelta(hours=1)
    cells = readings.assign(hour=hour).groupby(["meter_id", "hour"])["value"].agg(["sum", "size"])
    kw = cells["sum"].where(cells["size"] == 2).unstack("hour")
    return kw.reindex(index=list(meters), columns=range(scenario.hours)).to_numpy(float)


def last_origins(readings: pd.DataFrame, scenario: Scenario, meters: Sequence[str]) -> NDArray[np.int64]:
    """Return for each meter the index of the newest origin its own readings entitle it to, -1 without any."""
    covered = readings.groupby("meter_id")["ts"].max() + PERIOD
    hours = (covered - scenario.start) // timedelta(hours=1)
    return hours.reindex(list(meters), fill_value=-1).to_numpy().astype(np.int64)


def wrong_payloads(now: datetime) -> list[bytes]:
    """Return payloads a meter might send by mistake, each an identity of its own that no good reading shares.

    All but the broken JSON name a time of `now` plus an odd minute, or a year far off.
    """
    odd = iter(iso(to_us(now + timedelta(minutes=minute))) for minute in range(7, 60, 6))
    energy = {"unit": "kWh", "kind": "energy", "period_s": 1800}
    wrong: list[object] = [
        {**energy, "ts": next(odd), "value": 0.2, "unit": "furlong"},
        {**energy, "ts": next(odd)},
        {**energy, "ts": next(odd), "value": "n/a"},
        {**energy, "ts": next(odd), "value": None},
        {**energy, "ts": "1990-01-01T00:00:00Z", "value": 0.2},
        {**energy, "ts": "2031-01-01T00:00:00Z", "value": 0.2},
        [{**energy, "ts": next(odd), "value": 0.2, "unit": "therm"}, {**energy, "ts": next(odd), "value": True}],
    ]
    return [*(json.dumps(item).encode() for item in wrong), b'{"ts": "2013-05-01T00:0']
