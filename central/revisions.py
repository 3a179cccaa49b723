"""What intervals were known as at earlier origins: the part of a panel that late readings and corrections rewrote.

Invariant: what `Revisions.known` says of an interval at an origin is, bit for bit, what the readings known at that
origin make of it. Only what differs from the last word is kept, so a record without late readings costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BITS: Final = 21  # of a key for each of meter, column and origin: 59 years of quarter hours
_LATEST: Final = (1 << _BITS) - 1


@dataclass(frozen=True, slots=True)
class Versions:
    """Every reading that any instant ever had, ascending in meter (its row in the panel), `ts_us` and `seen`.

    `seen` is the grid number (instant / step) of the first origin that knows it; it may change the intervals of the
    grid numbers `first` … `last`.
    """

    meter: Ints
    ts_us: Ints
    seen: Ints
    first: Ints
    last: Ints


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` intervals of a meter from grid number `first` on, and the `rows` of Versions that were known of them."""

    meter: int
    first: int
    count: int
    rows: Ints


@dataclass(frozen=True, slots=True)
class Revisions:
    """Earlier words on intervals of a panel [M, T], which holds the last ones.

    `settled` int32 [M, T] is the column of the first origin that knows the last word, 0 where all do. `key` ascends;
    it packs meter, column and the column of the first origin at which `load_kw` no longer was the word.
    """

    settled: NDArray[np.int32]
    key: Ints
    load_kw: Floats

    def known(self, last_kw: Floats, meters: Ints, columns: Ints, origins: Ints) -> Floats:
        """Return the load known at `origins` (columns) of cells whose last word is `last_kw`; all broadcast."""
        meters, columns, origins = np.broadcast_arrays(meters, columns, origins)
        inside = (columns >= 0) & (columns < self.settled.shape[1])
        changed = inside & (self.settled[meters, np.where(inside, columns, 0)] > origins)
        if not changed.any():
            return last_kw
        at = np.searchsorted(self.key, _key(meters[changed], columns[changed], origins[changed]), side="right")
        known_kw = last_kw.copy()
        known_kw[changed] = self.load_kw[at]
        return known_kw

    def until(self, column: int) -> Revisions:
        """Return those of the panel cut at `column`."""
        return Revisions(self.settled[:, :column], self.key, self.load_kw)

    def forgotten_from(self, ends: Ints) -> Revisions:
        """Return those of the panel as it stood at each meter's column of `ends` [M]: no later word is one."""
        ended = np.arange(self.settled.shape[1]) < ends[:, None]
        settled = np.where(ended, np.minimum(self.settled, ends[:, None]), 0).astype(np.int32)
        return Revisions(settled, self.key, self.load_kw)


def revisions_of(
    versions: Versions,
    last_kw: Floats,
    loads: Callable[[list[Stretch]], Floats],
    *,
    start_us: int,
    step_us: int,
    margin_us: int,
) -> Revisions | None:
    """Return what the panel `last_kw` [M, T] that starts at `start_us` was known as before; None when it always was so.

    `loads` returns the loads of stretches, one after the other; a stretch's rows are those within `margin_us` of it.
    """
    start = start_us // step_us
    found = list(_stretches(versions, start, start + last_kw.shape[1], step_us, margin_us))
    if not found:
        return None
    stretches = [stretch for stretch, _ in found]
    count = np.array([stretch.count for stretch in stretches])
    nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    meter = np.repeat([stretch.meter for stretch in stretches], count)
    column = np.repeat([stretch.first - start for stretch in stretches], count) + nth
    until = np.repeat(np.minimum([seen - start for _, seen in found], _LATEST), count)
    return _sparse(last_kw, meter, column, until, loads(stretches))


def _stretches(versions: Versions, start: int, end: int, step_us: int, margin_us: int) -> Iterator[tuple[Stretch, int]]:
    """Yield what was known just before late readings came, with the number of the origin that knows those first."""
    for late in _groups(versions, start, end):
        first, last = int(versions.first[late].min()), int(min(versions.last[late].max(), versions.seen[late[0]] - 2))
        first, last = max(first, start), min(last, end - 1)
        if first <= last:
            meter, seen = int(versions.meter[late[0]]), int(versions.seen[late[0]])
            low, high = np.searchsorted(versions.meter, [meter, meter + 1])
            near = [first * step_us - margin_us, (last + 1) * step_us + margin_us]
            begin, stop = low + np.searchsorted(versions.ts_us[low:high], near)
            yield Stretch(meter, first, last - first + 1, _last_known(versions, int(begin), int(stop), seen)), seen


def _groups(versions: Versions, start: int, end: int) -> list[Ints]:
    """Return rows that came late: those of one meter and origin together whose intervals adjoin."""
    late = np.flatnonzero((versions.seen > versions.first + 1) & (versions.last >= start) & (versions.first < end))
    late = late[np.lexsort((versions.first[late], versions.seen[late], versions.meter[late]))]
    meter, seen = versions.meter[late], versions.seen[late]
    apart = versions.first[late][1:] > versions.last[late][:-1] + 1
    breaks = np.flatnonzero((meter[1:] != meter[:-1]) | (seen[1:] != seen[:-1]) | apart) + 1
    return np.split(late, breaks) if len(late) else []


def _last_known(versions: Versions, begin: int, stop: int, seen: int) -> Ints:
    """Return the rows of `begin` … `stop` that origins before `seen` knew, of one instant the last."""
    rows = begin + np.flatnonzero(versions.seen[begin:stop] < seen)
    ts_us = versions.ts_us[rows]
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = ts_us[1:] != ts_us[:-1]
    return rows[last]


def _sparse(last_kw: Floats, meter: Ints, column: Ints, until: Ints, load_kw: Floats) -> Revisions | None:
    """Return the words that differ from the next on the same interval."""
    key = _key(meter, column, until)
    order = np.argsort(key, kind="stable")
    key, meter, column, until, load_kw = key[order], meter[order], column[order], until[order], load_kw[order]
    following = last_kw[meter, column]
    same_cell = key[1:] >> _BITS == key[:-1] >> _BITS
    following[:-1][same_cell] = load_kw[1:][same_cell]
    kept = ~((load_kw == following) | (np.isnan(load_kw) & np.isnan(following)))
    if not kept.any():
        return None
    settled = np.zeros(last_kw.shape, dtype=np.int32)
    np.maximum.at(settled, (meter[kept], column[kept]), until[kept].astype(np.int32))
    return Revisions(settled, key[kept], load_kw[kept])


def _key(meter: Ints, column: Ints, origin: Ints) -> Ints:
    return (meter.astype(np.int64) << _BITS | column) << _BITS | origin
