"""Closed intervals by two roads: from a stopped edge's state, and from a fresh edge that got the same input cleanly.

Only this module knows how an edge's state is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node
from edge.effects import Commit, ReadingsArrived, Tick
from edge.node import Node
from edge.store import Store
from edge.window import NEVER
from shared.clock import iso
from shared.packets import Incoming
from shared.params import Params
from tests.faults.checker import Closed, Intervals
from tests.faults.meters import Publication

_BATCH: Final = 500


def held_by(state: Path, scratch: Path, params: Params, meters: Iterable[str], wall_us: int) -> Intervals:
    """The intervals in a copy of the state folder, after what was still due has been closed."""
    shutil.copytree(state, scratch)
    return _closed(scratch, params, [], meters, wall_us)


def delivered_cleanly(
    scratch: Path, params: Params, publications: Iterable[Publication], meters: Iterable[str], wall_us: int
) -> Intervals:
    """The intervals of a fresh edge to which each message came once, in the order of time."""
    in_order = sorted(dict.fromkeys(publications), key=lambda one: (one.readings[-1].ts_us, one.meter, one.payload))
    return _closed(scratch, params, in_order, meters, wall_us)


def _closed(
    folder: Path, params: Params, publications: Sequence[Publication], meters: Iterable[str], wall_us: int
) -> Intervals:
    store = Store(folder, iso(wall_us))
    try:
        node = build_node(params, store, ArtifactFolder(folder / "models"))
        for first in range(0, len(publications), _BATCH):
            batch = tuple(_raw(node, one) for one in publications[first : first + _BATCH])
            _tell(node, store, ReadingsArrived(batch), wall_us)
            _settle(node, store, wall_us)
        _settle(node, store, wall_us)
        return {meter: _of_meter(node, meter) for meter in meters if meter in node.site.meters.by_name}
    finally:
        store.close()


def _raw(node: Node, one: Publication) -> Incoming:
    return Incoming(node.topics.reading(one.meter), one.payload, len(one.payload))


def _settle(node: Node, store: Store, wall_us: int) -> None:
    _tell(node, store, Tick(caught_up=True), wall_us)
    while node.busy:
        _tell(node, store, Tick(caught_up=True), wall_us)


def _tell(node: Node, store: Store, event: ReadingsArrived | Tick, wall_us: int) -> None:
    for effect in node.handle(event, wall_us):
        if isinstance(effect, Commit):
            store.commit(effect.changes, node.site)


def _of_meter(node: Node, name: str) -> Closed:
    row = node.site.meters.by_name[name].row
    until = int(node.site.window.closed[row])
    if until == NEVER:
        return Closed(until, {})
    loads_kw = node.site.window.before(np.array([row]), until)[0].tolist()
    numbers = range(until - len(loads_kw), until)
    return Closed(until, {number: kw for number, kw in zip(numbers, loads_kw, strict=True) if kw == kw})
