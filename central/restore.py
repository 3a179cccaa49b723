"""What the record knows of a site's closed intervals, in parts that fit a message: for an edge that lost its disk.

Invariants: an interval is told only once its meter has closed it, by shared/grid.py on the same grid as at the edge;
the number of parts is known before the first is made; memory is bounded by READINGS_AT_ONCE, not by the site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from central.record import Record
from shared.bindings import Bindings
from shared.clock import DAY_US, SECOND_US, duration_us, iso
from shared.features import WINDOW_DAYS, window_steps
from shared.grid import KINDS, UNITS, GridRules
from shared.messages import MAX_UPLINK_BYTES, Restore, RestoredMeter
from shared.params import LONGEST_PERIOD, GridParams
from shared.topics import is_id

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

READINGS_AT_ONCE: Final = 500_000
_NUMBER_BYTES: Final = 25  # the longest a float64 gets in JSON, with its comma
_METER_BYTES: Final = 200  # the longest id, an instant and names
_PART_BYTES: Final = 2000  # everything around the meters, and what gzip adds to what it cannot shrink


def meters_a_part(step_s: int) -> int:
    """So many that a part stays within MAX_UPLINK_BYTES even if gzip does nothing for it."""
    return max(1, (MAX_UPLINK_BYTES - _PART_BYTES) // (window_steps(step_s) * _NUMBER_BYTES + _METER_BYTES))


def restore_parts(record: Record, site: str, epoch: str, *, grid: GridParams, bindings: Bindings) -> Iterator[Restore]:
    """The last window of every meter of a site up to its newest reading, for the edge of this epoch.

    Of a site that the record does not know there is one empty part, so that its edge stops asking. Raises RecordError.
    """
    since_us = _window_us(record.newest_us(site) or 0, grid)
    counts = record.reading_counts(site, since_us=since_us)
    meters = sorted(meter for meter in counts if is_id(meter))
    margin_us = max(DAY_US, duration_us(grid.max_gap), duration_us(grid.hold))  # what reaches into the first interval
    read = partial(record.readings, site=site, since_us=max(0, since_us - margin_us))
    restored = partial(closed_intervals, since_us=since_us, grid=grid, bindings=bindings)
    known = _known(blocks(meters, counts), read, restored)
    step_s = duration_us(grid.step) // SECOND_US
    size = meters_a_part(step_s)
    parts = max(1, -(-len(meters) // size))
    for part in range(1, parts + 1):
        own = {meter: intervals for meter, intervals in islice(known, size) if intervals is not None}
        yield Restore(site=site, epoch=epoch, part=part, parts=parts, step_s=step_s, meters=own)


def _window_us(newest_us: int, grid: GridParams) -> int:
    """Where the features' window begins that ends with the interval of the newest reading."""
    step_us = duration_us(grid.step)
    return max(0, (newest_us // step_us + 1) * step_us - WINDOW_DAYS * DAY_US)


def _known(
    blocks: Iterable[list[str]],
    read: Callable[..., pa.Table],
    restored: Callable[[pd.DataFrame], dict[str, RestoredMeter]],
) -> Iterator[tuple[str, RestoredMeter | None]]:
    """Each meter of the blocks, in order, with what is known of it."""
    for block in blocks:
        rows = read(meters=block).drop_columns(["quality", "received_at"])
        found = restored(rows.to_pandas())
        yield from ((meter, found.get(meter)) for meter in block)


def blocks(meters: Iterable[str], counts: Mapping[str, int]) -> Iterator[list[str]]:
    """Meters in order, in blocks of at most READINGS_AT_ONCE readings or of one meter."""
    block: list[str] = []
    size = 0
    for meter in meters:
        if block and size + counts[meter] > READINGS_AT_ONCE:
            yield block
            block, size = [], 0
        block.append(meter)
        size += counts[meter]
    if block:
        yield block


def closed_intervals(
    rows: pd.DataFrame, *, since_us: int, grid: GridParams, bindings: Bindings
) -> dict[str, RestoredMeter]:
    """Closed intervals from `since_us` on of rows of one site; meters of which there are none are left out."""
    from central.record_panel import panel_from_record  # half a second that a start should not wait for

    rows = rows[_usable(rows)]
    if not len(rows):
        return {}
    rules = GridRules.of(step=grid.step, hold=grid.hold, max_gap=grid.max_gap)
    panel = panel_from_record(rows, rules, bindings=bindings)
    settled = _settled_until_us(rows)
    starts_us = panel.start_us + np.arange(panel.load_kw.shape[1], dtype=np.int64) * panel.step_us
    found = {}
    for name, load_kw in zip(panel.meters, panel.load_kw, strict=True):
        meter = name.rpartition("/")[2]
        closed = (starts_us >= since_us) & (starts_us + panel.step_us <= settled[meter])
        restored = _restored(starts_us, np.where(closed, load_kw, np.nan))
        if restored is not None:
            found[meter] = restored
    return found


def _usable(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows the grid can take: no edge of ours sends others, but a record takes what comes."""
    of_unit = rows["unit"].isin(list(UNITS)) & rows["kind"].isin(KINDS)
    return of_unit & rows["period_s"].fillna(0.0).between(0.0, LONGEST_PERIOD.total_seconds())


def _settled_until_us(rows: pd.DataFrame) -> dict[str, int]:
    """Up to when each meter's latest reading settles it, as `shared.grid.covered_until_us` has it."""
    period_us = (rows["period_s"].fillna(0.0) * 1e6).round().astype("int64").where(rows["kind"] == "energy", 0)
    until_us = rows["ts"].dt.as_unit("us").astype("int64") + period_us
    return {str(meter): int(last) for meter, last in until_us.groupby(rows["meter_id"]).max().items()}


def _restored(starts_us: NDArray[np.int64], load_kw: NDArray[np.float64]) -> RestoredMeter | None:
    """Loads from the first to the last that is known, None when none is."""
    known = np.flatnonzero(np.isfinite(load_kw))
    if not len(known):
        return None
    first, last = int(known[0]), int(known[-1])
    loads = [value if np.isfinite(value) else None for value in load_kw[first : last + 1].tolist()]
    return RestoredMeter(first=iso(int(starts_us[first])), load_kw=loads)
