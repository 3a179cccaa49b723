"""Noticing that forecasts have gone wrong: one ADWIN per meter on a daily statistic, and agreement of a site's meters.

The only home of river. Detectors assume independent input; 48-h errors of overlapping forecasts are anything but, and
raw ones give dozens of false alarms per meter-year. So each meter's statistic is one number a day:

    mean |error| of the champion at one lead over two days, divided by its median over the first REFERENCE_DAYS days

Two days, because what people begin to do every other night would else look like noise. The ratio is capped at CAP, so
that one wild day is no drift, and scaled by GAIN, because ADWIN's bound has a term for values in [0, 1] that makes it
blind to changes of a small unit within weeks. Rates of false alarms and delays are in tests/unit/test_central_drift.py.

Invariants: only the champion's own forecasts count, never a fallback's; a new champion starts all its site's detectors
afresh; a site drifts when `agreement` of its watched meters rose within `within` and have not fallen since; a score
that comes twice counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.clock import DAY_US, duration_us
from shared.params import DriftParams

if TYPE_CHECKING:
    from river.drift import ADWIN

REFERENCE_DAYS: Final = 7
SMOOTHED_DAYS: Final = 2
CAP: Final = 8.0
GAIN: Final = 10.0
GRACE_DAYS: Final = 10
SHORTEST_SIDE_DAYS: Final = 3
KEPT_DAYS: Final = 90  # in which the moment of a change is looked for
COUNTED_SHARE: Final = 0.5  # of a day's intervals that must be scored for the day to count
STATISTIC: Final = "two-day mean absolute error over its reference"


@dataclass(frozen=True, slots=True)
class DriftSeen:
    """A site's forecasts went wrong: which meters, since about when, seen when (all in event time)."""

    site: str
    meters: tuple[str, ...]
    since_us: int
    at_us: int
    statistic: str = STATISTIC


def adwin(delta: float) -> ADWIN:
    """A detector that looks for a change at every value."""
    from river.drift import ADWIN  # seconds, and 200 MiB: not before the first score of a champion

    return ADWIN(  # type: ignore[no-untyped-call]  # as below
        delta=delta, clock=1, grace_period=GRACE_DAYS, min_window_length=SHORTEST_SIDE_DAYS
    )


@dataclass(slots=True)
class MeterDetector:
    """The daily statistic of one meter and its ADWIN. `rose_us` is when it last rose, None after a fall."""

    detector: ADWIN
    days: list[float] = field(default_factory=list)
    scale: float = math.nan
    rose_us: int | None = None
    since_us: int = 0

    def add(self, error_kw: float, day_us: int) -> bool:
        """Take one day's mean absolute error, `day_us` being the day's end; whether the statistic rose or fell."""
        self.days.append(error_kw)
        if len(self.days) < REFERENCE_DAYS:
            return False
        if len(self.days) == REFERENCE_DAYS:
            self.scale = max(median(self.days), 1e-6)
            for count in range(1, REFERENCE_DAYS):
                self._update(self.days[max(0, count - SMOOTHED_DAYS) : count], day_us)
        self.days = self.days[-KEPT_DAYS:]
        return self._update(self.days[-SMOOTHED_DAYS:], day_us)

    def _update(self, errors_kw: Sequence[float], day_us: int) -> bool:
        ratio = sum(min(error / self.scale, CAP) for error in errors_kw) / len(errors_kw)
        before = self.detector.estimation
        self.detector.update(GAIN * ratio)  # type: ignore[no-untyped-call]  # river leaves it untyped
        if self.detector.drift_detected:
            rose = self.detector.estimation > before
            self.rose_us = day_us if rose else None
            self.since_us = day_us - changed_days_ago(self.days) * DAY_US
        return bool(self.detector.drift_detected)


def changed_days_ago(days: Sequence[float]) -> int:
    """How many of the latest days a step in the mean, fitted by least squares, sets apart from those before.

    ADWIN says that there was a change; its window says only roughly when.
    """
    total, best, ago, before = sum(days), -1.0, len(days), 0.0
    for count in range(1, len(days)):
        before += days[count - 1]
        apart = before / count - (total - before) / (len(days) - count)
        gain = apart * apart * count * (len(days) - count)
        if gain > best:
            best, ago = gain, len(days) - count
    return ago


@dataclass(slots=True)
class _Day:
    """A meter's errors on one day, NaN where an interval is not scored."""

    start_us: int
    errors_kw: NDArray[np.float64]

    @classmethod
    def begun(cls, start_us: int, step_us: int) -> _Day:
        """A day of which nothing is known."""
        return cls(start_us, np.full(DAY_US // step_us, np.nan))

    def add(self, valid_us: int, error_kw: float) -> None:
        """Take an interval's error; of an interval scored twice the last counts."""
        self.errors_kw[(valid_us - self.start_us) * len(self.errors_kw) // DAY_US] = error_kw

    def mean_kw(self, least: float) -> float | None:
        """The mean error, None when fewer than `least` intervals are scored."""
        known = self.errors_kw[~np.isnan(self.errors_kw)]
        return float(known.mean()) if len(known) >= max(least, 1) else None


@dataclass(slots=True)
class _Site:
    version: int = 0
    meters: dict[str, MeterDetector] = field(default_factory=dict)
    days: dict[str, _Day] = field(default_factory=dict)
    standing: DriftSeen | None = None


class DriftWatch:
    """All sites' detectors, fed with score rows in the order they were recorded."""

    def __init__(self, params: DriftParams, *, step_s: int) -> None:
        self._params = params
        self._lead = params.lead // timedelta(seconds=step_s)  # scores name their lead in steps
        self._step_us = step_s * 1_000_000
        self._least_count = COUNTED_SHARE * 86_400 / step_s
        self._sites: dict[str, _Site] = {}

    @property
    def standing(self) -> dict[str, DriftSeen]:
        """Sites whose forecasts are held to be wrong just now."""
        return {name: site.standing for name, site in self._sites.items() if site.standing is not None}

    def take(self, site: str, scores: Mapping[str, Sequence[Any]]) -> list[DriftSeen]:
        """Take a site's columns of scores (shared.messages.SCORE_COLUMNS); returns drifts seen for the first time.

        How the rows are batched makes no difference.
        """
        watched = self._sites.setdefault(site, _Site())
        seen: list[DriftSeen] = []
        names = ("lead", "role", "rung", "model_version", "meter_id", "valid_us", "y_kw", "forecast_kw")
        for lead, role, rung, version, meter, valid_us, y_kw, forecast_kw in zip(
            *(scores[name] for name in names), strict=True
        ):
            if lead != self._lead or role != "champion" or rung != "champion":
                continue
            if y_kw is None or forecast_kw is None or version is None or version < watched.version:
                continue
            if version > watched.version:
                self._sites[site] = watched = _Site(version)
            if self._add(watched, meter, valid_us, abs(y_kw - forecast_kw)):
                seen += self._judge(site, watched, valid_us)
        return seen

    def restart(self) -> None:
        """Forget what was seen: another champion is on its way to all sites."""
        for name, site in self._sites.items():
            self._sites[name] = _Site(site.version)

    def _add(self, site: _Site, meter: str, valid_us: int, error_kw: float) -> bool:
        """Add one error to its meter's day; whether that ended a day after which the meter rose or fell."""
        start_us = valid_us - valid_us % DAY_US
        day = site.days.get(meter)
        if day is not None and start_us < day.start_us:
            return False  # a late interval of a day that is judged already
        changed = False
        if day is None or start_us > day.start_us:
            mean_kw = day.mean_kw(self._least_count) if day is not None else None
            if day is not None and mean_kw is not None:
                changed = self._detector(site, meter).add(mean_kw, day.start_us + DAY_US)
            site.days[meter] = day = _Day.begun(start_us, self._step_us)
        day.add(valid_us, error_kw)
        return changed

    def _detector(self, site: _Site, meter: str) -> MeterDetector:
        if meter not in site.meters:
            site.meters[meter] = MeterDetector(adwin(self._params.delta))
        return site.meters[meter]

    def _judge(self, name: str, site: _Site, now_us: int) -> list[DriftSeen]:
        needed = max(1, math.ceil(self._params.agreement * len(site.meters)))
        risen = {meter: own for meter, own in site.meters.items() if own.rose_us is not None}
        if site.standing is not None:
            if len(risen) < needed:
                site.standing = None
            return []
        within_us = duration_us(self._params.within)
        recent = {meter: own for meter, own in risen.items() if now_us - (own.rose_us or 0) <= within_us}
        if len(recent) < needed:
            return []
        since_us = int(median(own.since_us for own in recent.values()))
        site.standing = DriftSeen(name, tuple(sorted(recent)), since_us, now_us)
        return [site.standing]
