"""Intervals that come from elsewhere: a meter's history loaded by hand, or what central gives an edge without a state.

Invariant: only intervals that are missing are filled; what the meter itself has settled, its watermark and its open
interval stay as they are. A meter that has nothing yet begins where its history ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edge.dialects.native import Reading
from edge.meters import Meter
from edge.site import SiteState
from shared.clock import parse_instant_us
from shared.errors import MessageRefused
from shared.grid import MOST_KW, Flag, Intervals, intervals_of_many
from shared.messages import Restore, RestoredMeter
from shared.topics import is_id

Begin = Callable[[Meter, int], None]
Filled = list[tuple[int, int, int]]


def backfill(site: SiteState, by_meter: Mapping[str, list[Reading]], begin: Begin) -> Filled:
    """Fill intervals from readings that stand alone; returns (row, first, count) of what may have changed."""
    filled: Filled = []
    for name, readings in by_meter.items():
        meter = site.meters.by_name.get(name) or site.add_meter(name)
        scratch = Meter(name, meter.row, meter.binding)
        for reading in readings:
            scratch.keep(reading, site.forms)
        first = scratch.ts_us[0] // site.step_us
        first = max(first, scratch.settled_us // site.step_us - site.window.width)
        count = scratch.settled_us // site.step_us - first
        if count > 0:
            (made,) = intervals_of_many([site.meters.span(scratch, first, count)], site.meters.rules)
            filled += _fill(site, meter, first, made, begin)
    return filled


def restore(site: SiteState, message: Restore, topic: str, begin: Begin, *, max_meters: int) -> Filled:
    """Fill intervals from central's record; meters beyond `max_meters` are left out. Raises MessageRefused."""
    if message.step_s * 1_000_000 != site.step_us:
        raise MessageRefused(f"{topic}: step_s {message.step_s} is not ours, {site.step_us // 1_000_000}")
    parsed = {name: _intervals(site, held, name, f"{topic}: {name:.80}") for name, held in message.meters.items()}
    filled: Filled = []
    for name, (first, made) in parsed.items():
        meter = site.meters.by_name.get(name)
        if meter is None and site.rows >= max_meters:
            continue
        filled += _fill(site, meter or site.add_meter(name), first, made, begin)
    return filled


def _intervals(site: SiteState, held: RestoredMeter, name: str, source: str) -> tuple[int, Intervals]:
    try:
        first_us = parse_instant_us(held.first)
    except ValueError as error:
        raise MessageRefused(f"{source}: first: {error}") from error
    if not is_id(name):
        raise MessageRefused(f"{source}: no id of a meter")
    if first_us % site.step_us:
        raise MessageRefused(f"{source}: first {held.first:.40} is not on the grid")
    load_kw = np.array([np.nan if load is None else load for load in held.load_kw], dtype=np.float64)[
        -site.window.width :
    ]
    load_kw[np.abs(load_kw) > MOST_KW] = np.nan
    missing = np.isnan(load_kw)
    flags = np.where(missing, Flag.GAP, 0).astype(np.uint8)
    first = first_us // site.step_us + len(held.load_kw) - len(load_kw)
    return first, Intervals(load_kw, 1.0 - missing, flags)


def _fill(site: SiteState, meter: Meter, first: int, made: Intervals, begin: Begin) -> Filled:
    """Fill a meter's missing intervals; returns the closed ones among them, the only ones that can have changed."""
    count = len(made.load_kw)
    if not count:
        return []
    if not site.meters.is_open(meter):
        site.window.closed[meter.row] = first + count
        # Heard of until then: it is silent only when it has been so for long after that.
        meter.latest_us = max(meter.latest_us, (first + count) * site.step_us - 1)
        begin(meter, first + count)
    if not site.window.fill(meter.row, first, made):
        return []
    closed = int(site.window.closed[meter.row])
    held = max(first, closed - site.window.width), min(first + count, closed)
    return [(meter.row, held[0], held[1] - held[0])]
