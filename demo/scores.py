"""How good the forecasts of a run were, computed from what was on the wire and what came true; nothing is taken from
edge or central.

MASE as CONTRACTS §6 defines it: a forecast's mean absolute error over its 48 leads, divided by the mean |y_t −
y_{t−24h}| of all data before its origin; then the mean over origins, then over meters. A forecast with under half of
its truth counts for nothing.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from demo.archive import HIGH, LEADS, LOW, MEDIAN, ForecastArchive
from shared.metrics import mean_of

DAY: Final = 24
WEEK: Final = 168
MIN_SCALED_DAYS: Final = 7  # of data before an origin, so that its scale means something

Floats = NDArray[np.float64]


def truth_by_lead(kw: Floats) -> Floats:
    """Turn hourly truth `[meters, hours]` into `[meters, hours + 1, 48]`: what came true at each lead."""
    padded = np.concatenate([kw, np.full((kw.shape[0], LEADS), np.nan)], axis=1)
    return sliding_window_view(padded, LEADS, axis=1)


def seasonal_naive(kw: Floats) -> Floats:
    """Return the value one week before each lead of each origin, `[meters, hours + 1, 48]`; every lead is under a week,
    so all are known.
    """
    shifted = np.concatenate([np.full((kw.shape[0], WEEK), np.nan), kw], axis=1)[:, : kw.shape[1]]
    return truth_by_lead(shifted)


def scales(kw: Floats) -> Floats:
    """Return the mean |y_t − y_{t−24h}| before each origin, `[meters, hours + 1]`; NaN in the first week."""
    steps = np.full((kw.shape[0], kw.shape[1] + 1), np.nan)
    steps[:, DAY + 1 :] = np.abs(kw[:, DAY:] - kw[:, :-DAY])
    known = np.isfinite(steps)
    mean = np.where(known, steps, 0).cumsum(axis=1) / np.maximum(known.cumsum(axis=1), 1)
    mean[:, : MIN_SCALED_DAYS * DAY] = np.nan
    return np.where(mean > 0, mean, np.nan)


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What came true over a run, in the shapes that scores need."""

    kw: Floats
    truth: Floats
    naive: Floats
    scale: Floats

    @staticmethod
    def of(kw: Floats) -> "Hindsight":
        """Derive everything from hourly truth `[meters, hours]` in kW."""
        return Hindsight(kw, truth_by_lead(kw), seasonal_naive(kw), scales(kw))

    def scaled_errors(self, forecast: NDArray[np.floating], leads: int = LEADS) -> Floats:
        """MAE over scale of each forecast, `[meters, origins]`, from medians `[meters, origins, 48]`, judged on its
        first `leads`.
        """
        errors = np.abs(np.asarray(forecast, float) - self.truth)[:, :, :leads]
        enough = np.isfinite(errors).sum(axis=2) >= leads / 2
        return np.where(enough, mean_of(errors) / self.scale, np.nan)


def mase(scaled: Floats, chosen: NDArray[np.bool_]) -> float:
    """Mean of scaled errors `[meters, origins]` over the chosen origins, then over meters; NaN when there are none."""
    return float(mean_of(mean_of(np.where(chosen, scaled, np.nan))))


def coverage(archive: ForecastArchive, truth: Floats, chosen: NDArray[np.bool_]) -> float:
    """Fraction of what came true that lay within the outer quantiles of the chosen forecasts `[meters, origins]`."""
    values, came = archive.values[chosen], truth[chosen]
    known = np.isfinite(came) & np.isfinite(values[:, :, MEDIAN])
    inside = (values[:, :, LOW] <= came) & (came <= values[:, :, HIGH])
    return float(inside[known].mean()) if known.any() else float("nan")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Old model, new model and seasonal naive on the same (meter, origin): where both models forecast and all came
    true.
    """

    old_version: int
    new_version: int
    origins: int
    mase_old: float
    mase_new: float
    mase_naive: float


@dataclass(frozen=True, slots=True)
class Medians:
    """The medians of one model version wherever it forecast, served or in shadow: `[meters, origins, 48]`, NaN
    elsewhere.
    """

    version: int
    values: NDArray[np.float32]

    @staticmethod
    def of(version: int, *archives: ForecastArchive) -> "Medians":
        """Collect them from the streams."""
        values = np.full(archives[0].values.shape[:3], np.nan, np.float32)
        for archive in archives:
            here = archive.version == version
            values[here] = archive.values[:, :, :, MEDIAN][here]
        return Medians(version, values)

    def from_origin(self, first: int) -> "Medians":
        """The same without the origins before `first`."""
        values = self.values.copy()
        values[:, :first] = np.nan
        return Medians(self.version, values)


def compare(old: Medians, new: Medians, hindsight: Hindsight, meters: NDArray[np.bool_], before: int) -> Comparison:
    """Score both models on the (meter, origin) that both forecast and whose 48 h ended by interval `before`."""
    by_model = [hindsight.scaled_errors(values) for values in (old.values, new.values, hindsight.naive)]
    chosen = np.isfinite(by_model).all(axis=0) & meters[:, None]
    chosen[:, max(0, before - LEADS + 1) :] = False
    mases = [mase(scaled, chosen) for scaled in by_model]
    return Comparison(old.version, new.version, int(chosen.any(axis=0).sum()), *mases)
