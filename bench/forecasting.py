"""`forecasts_per_core` and `onnx_share`: whole 48-hour forecasts of the real core on one thread; ONNX's share of that.

A round is what `Tick`s of the node do once all meters have closed an hour: features, model, scores, calibration and
encoded messages. Taking the readings in is not part of it. Processor time is counted, not the clock on the wall.
mlforecast has the same loads of as many meters, and makes points only.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.closing import END
from bench.edge_state import readings_of, write_state
from bench.figures import Figure
from bench.forecasting_peer import TITLE, seconds_per_round
from bench.stage import BenchFailed, say
from central.training import Recipe
from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node, wanted_of
from edge.effects import ChunkArrived, DesiredArrived, Effect, Prove, Publish, ReadingsArrived, Tick, Unpack
from edge.inference import Predictor, load
from edge.node import Node
from edge.prover import answer_to
from edge.store import Store
from shared.clock import HOUR_US, iso, to_us, wall_now
from shared.messages import Desired
from shared.params import Params
from tests.small_model import KEY, in_a_month, small_manifest

SITE: Final = "bench"
_PEER_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class RoundTime:
    """Processor seconds of one round, and of ONNX within it."""

    seconds: float
    onnx_s: float


def run(
    *, meters: int = 1000, weeks: int = 5, rounds: int = 20, trees: int = 120, peers: Sequence[str] = ("mlforecast",)
) -> list[Figure]:
    """Make `rounds` rounds, after one that does not count, and let mlforecast forecast as many meters."""
    params = Params.model_validate({"site": SITE, "clock": "event", "keys": {"trusted": [str(KEY.trusted)]}})
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as name:
        folder = Path(name)
        write_state(folder, params, meters=meters, weeks=weeks, end=END, delivered=END)
        store = Store(folder, iso(END * HOUR_US))
        artifacts = ArtifactFolder(folder / "models")
        node = build_node(params, store, artifacts)
        _install(node, artifacts, trees)
        with _onnx_timed() as spent:
            times = [_round(node, meters, number, spent) for number in range(rounds + 1)][1:]
        store.close()
    say(f"forecasting: {meters / statistics.median(one.seconds for one in times):,.0f} forecasts/s on one core")
    conditions: dict[str, object] = {
        "meters": meters,
        "weeks": weeks,
        "trees_per_quantile": trees,
        "leads": params.horizon_steps,
    }
    figures = _figures(times, meters, conditions)
    if "mlforecast" in peers:
        sizes = (trees, trees * len(params.forecast.modelled))
        figures[:1] = [_beside_mlforecast(figures[0], meters, weeks, size) for size in sizes]
    return figures


def _beside_mlforecast(own: Figure, meters: int, weeks: int, trees: int) -> Figure:
    """Return our figure with mlforecast's beside it, or as it is where that cannot run."""
    seconds = seconds_per_round(meters=meters, weeks=weeks, trees=trees, leaves=Recipe().leaves, rounds=_PEER_ROUNDS)
    if seconds is None:
        return own
    theirs = meters / seconds
    conditions = {**own.conditions, "against_value": round(theirs, 1), "against_trees": trees}
    title = f"{TITLE}, {trees} trees, point only"
    return replace(own, against=title, ratio=round(own.value / theirs, 3), conditions=conditions)


def _install(node: Node, folder: ArtifactFolder, trees: int) -> None:
    """Bring a model in as messages would; it is loaded at once, and not tried out aside."""
    manifest, chunks = small_manifest(trees=trees, expires=in_a_month())
    wall_us = to_us(wall_now())
    node.handle(DesiredArrived(node.topics.desired, Desired(champion=manifest).encode()), wall_us)
    effects: list[Effect] = []
    for number, chunk in enumerate(chunks):
        effects = node.handle(ChunkArrived(manifest.sha256, number, chunk), wall_us)
    while asked := [effect for effect in effects if isinstance(effect, Unpack | Prove)]:
        answer = answer_to(asked[0], folder, partial(load, wanted=wanted_of(node.params)))
        effects = node.handle(answer, wall_us)
    if node.models.champion is None:
        raise BenchFailed("forecasting: the edge refused the bench's model")


def _round(node: Node, meters: int, number: int, spent: list[float]) -> RoundTime:
    now_us = (END + number + 1) * HOUR_US
    node.handle(ReadingsArrived(tuple(readings_of(node.topics, row, END + number, 1) for row in range(meters))), now_us)
    spent.clear()
    began_s = time.process_time()
    effects = node.handle(Tick(caught_up=True), now_us)
    while node.busy:  # it makes no more at once than memory should hold
        effects += node.handle(Tick(caught_up=True), now_us)
    seconds = time.process_time() - began_s
    made = sum(isinstance(effect, Publish) and effect.forecast is not None for effect in effects)
    if made != meters:
        raise BenchFailed(f"forecasting: {made} forecasts of {meters} meters in a round")
    return RoundTime(seconds, sum(spent))


@contextmanager
def _onnx_timed() -> Iterator[list[float]]:
    """Within it, the processor time of every model run is appended to the list."""
    spent: list[float] = []
    run_model = Predictor.run

    def timed(self: Predictor, features: NDArray[np.float32]) -> NDArray[np.float32]:
        began_s = time.process_time()
        try:
            return run_model(self, features)
        finally:
            spent.append(time.process_time() - began_s)

    Predictor.run = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Predictor.run = run_model  # type: ignore[method-assign]


def _figures(times: list[RoundTime], meters: int, conditions: dict[str, object]) -> list[Figure]:
    seconds = statistics.median(one.seconds for one in times)
    share = statistics.median(one.onnx_s / one.seconds for one in times)
    return [
        Figure("forecasts_per_core", round(meters / seconds, 1), "forecasts/s", len(times), conditions=conditions),
        Figure("onnx_share", round(share, 3), "of the time", len(times), conditions=conditions),
    ]
