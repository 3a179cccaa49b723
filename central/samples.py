"""From panels to training rows: which windows and leads are drawn, how some are spoilt, and what each row weighs.

Invariant: `training_rows` yields no target that had not ended by the cutoff.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.covariates import Covariates, covariate_columns_of
from central.dataset import Panel
from shared.calendars import Calendar
from shared.clock import DAY_US
from shared.covariates import COLUMNS_OF_A_NAME, with_columns
from shared.features import FEATURES, feature_matrix, to_target, window_steps

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MIN_SEEN: Final = 24  # finite values a window must hold to be a training sample
_MOST_SCALES: Final = 20.0  # a target beyond is of a window that shows nothing, zeros perhaps: it may not rule a leaf
_BLOCK: Final = 512  # windows whose features are computed at once


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows: `x` float32 [R, F], `target` float64 [R] (normalised), `weight` float64 [R] (mean one).

    `origin_us` int64 [R] is where each row's window ended.
    """

    x: NDArray[np.float32]
    target: Floats
    weight: Floats
    origin_us: Ints

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.target)

    def part(self, kept: NDArray[np.bool_] | Ints) -> Rows:
        """Return the rows of a mask [R] or of indices, their weights as they are."""
        return Rows(self.x[kept], self.target[kept], self.weight[kept], self.origin_us[kept])


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several panels as one, their weights as they are."""
    columns = ((one.x, one.target, one.weight, one.origin_us) for one in parts)
    x, target, weight, origin_us = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Rows(x, target, weight, origin_us)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How training rows are drawn.

    Each sample is a window of one meter at one origin with some of its leads. `dropout` is the chance that a window is
    spoilt the way real ones are: shortened history, a gap, or a stale tail (an equal chance each, possibly together).
    `covariate_dropout` is the chance that a sample knows none of its covariates, and as much that it lacks a certain
    one. `half_life_days` weights rows by the age of their origin; None weights all alike. `meter_balance` (0 … 1) gives
    meters of long history less weight for each row, at 1 all meters the same in sum. `peak_weight` (0 … 1) lets rows of
    low load count for less, at 1 in proportion to |load| over the meter's highest hundredth, not under a tenth.
    """

    rows_cap: int = 100_000
    leads_per_sample: int = 8
    horizon_steps: int = 48
    dropout: float = 0.3
    half_life_days: float | None = None
    covariate_dropout: float = 0.25
    meter_balance: float = 0.0
    peak_weight: float = 0.0


def training_rows(
    panel: Panel, *, until_us: int, rng: np.random.Generator, sampling: Sampling, calendar: Calendar
) -> Rows:
    """Draw up to `rows_cap` rows whose targets had ended by `until_us`. Raises ValueError when there are none.

    Leads are drawn per sample without replacement; rows with missing truth are dropped. Targets are cut off at
    _MOST_SCALES: no quantile that is learnt lies there, but a window of zeros makes targets of a million scales, and
    the leaf they fall in an interval of a gigawatt.
    """
    known = panel.until(until_us)
    meters, origins_us = _draw_samples(known, rng, sampling)
    leads = _draw_leads(len(meters), rng, sampling)
    blocks = [
        _block_rows(known, meters[part], origins_us[part], leads[part], rng, sampling, calendar)
        for part in _parts(len(meters))
    ]
    x = np.concatenate([block[0] for block in blocks]) if blocks else np.empty((0, len(FEATURES)), dtype=np.float32)
    if not len(x):
        raise ValueError("no training rows: no meter has a day of history followed by a known interval")
    target = np.concatenate([block[1] for block in blocks])
    origins_us, meters, load_kw = (np.concatenate([block[i] for block in blocks]) for i in (2, 3, 4))
    weight = (
        _age_weight((until_us - origins_us) / DAY_US, sampling.half_life_days)
        * _balance_weight(meters, sampling.meter_balance)
        * _peak_weight(meters, load_kw, sampling.peak_weight)
    )
    return Rows(x, target, weight / weight.mean(), origins_us)


def split_by_time(rows: Rows, *, share: float, gap_us: int) -> tuple[Rows, Rows]:
    """Return (earlier, latest) rows: the latest `share` of origins, and those whose targets had ended before them.

    `gap_us` is the longest horizon: no target of the earlier rows lies at or after the first of the latest origins.
    """
    first_us = int(np.quantile(rows.origin_us, 1.0 - share, method="lower"))
    return rows.part(rows.origin_us + gap_us <= first_us), rows.part(rows.origin_us >= first_us)


def _age_weight(age_days: Floats, half_life_days: float | None) -> Floats:
    weight: Floats = np.ones(len(age_days)) if half_life_days is None else 0.5 ** (age_days / half_life_days)
    return weight


def _balance_weight(meters: Ints, balance: float) -> Floats:
    """Return rows' weights: the count of their meter's rows to the power of −balance."""
    weight: Floats = np.bincount(meters)[meters].astype(np.float64) ** -balance
    return weight


def _peak_weight(meters: Ints, load_kw: Floats, peak_weight: float) -> Floats:
    """Return 1 − p + p·clip(|load| / the meter's 99th percentile of it, .1, 1), OpenSTEF's weight at p = 1."""
    if peak_weight == 0.0:
        return np.ones(len(load_kw))
    size = np.abs(load_kw)
    high = np.zeros(int(meters.max()) + 1)
    for meter in np.unique(meters):
        high[meter] = np.quantile(size[meters == meter], 0.99)
    top = high[meters]
    relative = np.divide(size, top, out=np.ones(len(size)), where=top > 0)
    weight: Floats = 1.0 - peak_weight + peak_weight * np.clip(relative, 0.1, 1.0)
    return weight


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _draw_samples(known: Panel, rng: np.random.Generator, sampling: Sampling) -> tuple[Ints, Ints]:
    """Draw (meter, origin) pairs that have some history behind and at least one known interval ahead."""
    seen = np.isfinite(known.load_kw)
    before = np.concatenate([np.zeros((len(seen), 1), dtype=np.int64), np.cumsum(seen, axis=1)], axis=1)
    columns = np.arange(seen.shape[1] + 1)
    behind = before - before[:, np.maximum(columns - window_steps(known.step_s), 0)]
    ahead = before[:, np.minimum(columns + sampling.horizon_steps, seen.shape[1])] - before
    meters, origins = np.nonzero((behind >= _MIN_SEEN) & (ahead > 0))
    wanted = -(-sampling.rows_cap // sampling.leads_per_sample)
    if len(meters) > wanted:
        chosen = np.sort(rng.choice(len(meters), size=wanted, replace=False))
        meters, origins = meters[chosen], origins[chosen]
    return meters.astype(np.int64), known.start_us + origins.astype(np.int64) * known.step_us


def _draw_leads(samples: int, rng: np.random.Generator, sampling: Sampling) -> Ints:
    """Return distinct leads [S, leads_per_sample] of 1 … horizon, ascending within a sample."""
    each = min(sampling.leads_per_sample, sampling.horizon_steps)
    drawn = np.argsort(rng.random((samples, sampling.horizon_steps)), axis=1)[:, :each] + 1
    return np.sort(drawn, axis=1).astype(np.int64)


def _block_rows(
    known: Panel,
    meters: Ints,
    origins_us: Ints,
    leads: Ints,
    rng: np.random.Generator,
    sampling: Sampling,
    calendar: Calendar,
) -> tuple[NDArray[np.float32], Floats, Ints, Ints, Floats]:
    """Return x, target, origin, meter and load (kW) of a block's rows that have truth and a usable window."""
    windows = spoil(known.windows(meters, origins_us), rng, sampling.dropout, steps_per_day=DAY_US // known.step_us)
    matrix = feature_matrix(windows, origins_us, leads, step_s=known.step_s, calendar=calendar)
    x = with_columns(matrix.x, _covariate_columns(known.covariates_of(meters), origins_us, leads, rng, sampling))
    load_kw = known.truth(meters, origins_us, leads)
    target = np.clip(to_target(load_kw, matrix), -_MOST_SCALES, _MOST_SCALES)
    kept = np.isfinite(target)
    origin_us, meter = (np.repeat(column, leads.shape[1])[kept] for column in (origins_us, meters))
    return x[kept], target[kept], origin_us, meter, load_kw.reshape(-1)[kept]


def _covariate_columns(
    covariates: Covariates | None, origins_us: Ints, leads: Ints, rng: np.random.Generator, sampling: Sampling
) -> NDArray[np.float32]:
    """Return the covariates' columns [N, L, C] with some made unknown, so that the model learns to go without them."""
    names = covariates.names if covariates is not None else ()
    columns = covariate_columns_of(covariates, names, origins_us, leads)
    if not names:
        return columns
    chance = sampling.covariate_dropout
    lost = (rng.random((len(origins_us), 1)) < chance) | (rng.random((len(origins_us), len(names))) < chance)
    return np.where(np.repeat(lost, COLUMNS_OF_A_NAME, axis=1)[:, None, :], np.float32(np.nan), columns)


def spoil(
    windows: NDArray[np.float32], rng: np.random.Generator, chance: float, *, steps_per_day: int
) -> NDArray[np.float32]:
    """Return windows of which a share lost early history, a stretch, or the latest values, as real ones do.

    The model then has met every feature missing (it would read NaN as 0 otherwise) and learns to go without.
    """
    count, width = windows.shape
    steps = np.arange(width)
    spoilt = rng.random((3, count, 1)) < chance / 2
    start = width - (steps_per_day * rng.uniform(2, 28, (count, 1))).astype(np.int64)
    gap_start = rng.integers(0, width, (count, 1))
    gap_end = gap_start + (steps_per_day * rng.exponential(2.0, (count, 1))).astype(np.int64) + 1
    tail = (
        width - (steps_per_day * 10.0 ** rng.uniform(-1.4, 1.0, (count, 1))).astype(np.int64) - 1
    )  # an hour to ten days
    lost = (
        (spoilt[0] & (steps < start))
        | (spoilt[1] & (steps >= gap_start) & (steps < gap_end))
        | (spoilt[2] & (steps >= tail))
    )
    return np.where(lost, np.float32(np.nan), windows)
