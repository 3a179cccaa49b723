"""A small real model, trained on the demo's households once per run, and manifests that claim it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from central.dataset import panel_from_file
from central.evaluation import all_pairs
from central.export import golden_rows, to_onnx
from central.training import Recipe, train
from shared.calendars import Calendar
from shared.features import FEATURES, SCHEMA_HASH, feature_matrix
from shared.manifest import Golden, Manifest, pack

HOUSEHOLDS = Path(__file__).parents[1] / "demo" / "data" / "london_households.parquet"
DAY_US = 86_400_000_000
SAID_QUANTILES = (0.1, 0.5, 0.9)


@cache
def small_model(seed: int = 1, trees: int = 10, quantiles: tuple[float, ...] = SAID_QUANTILES) -> tuple[bytes, Golden]:
    """An ONNX graph of few trees, and its golden rows; trained for other `quantiles` than it says, it misleads."""
    panel = panel_from_file(HOUSEHOLDS, aggregate="sum")
    until_us = panel.start_us + 42 * DAY_US
    calendar = Calendar("Europe/London", "GB")
    recipe = Recipe(trees=trees, rows_cap=6_000, seed=seed)
    trained = train(panel.until(until_us), until_us=until_us, quantiles=quantiles, recipe=recipe, calendar=calendar)
    artifact = to_onnx(replace(trained, quantiles=SAID_QUANTILES))
    meters, origins_us = all_pairs(panel, np.array([until_us]))
    rows = feature_matrix(panel.windows(meters, origins_us), origins_us, np.arange(1, 49), calendar=calendar).x
    inputs, outputs = golden_rows(artifact, rows, n=8)
    cells = [[None if np.isnan(cell) else float(cell) for cell in row] for row in inputs]
    return artifact, Golden(inputs=cells, outputs=outputs.astype(float).tolist())


def manifest_of(artifact: bytes, rows: Golden, version: int = 1, **claims: Any) -> Manifest:
    """A manifest of `artifact`; `claims` put other things in it."""
    sha256, chunks = pack(artifact)
    content: dict[str, Any] = {
        "name": "metercast-fleet",
        "version": version,
        "sha256": sha256,
        "size": len(artifact),
        "compressed_size": sum(map(len, chunks)),
        "chunks": len(chunks),
        "created": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "expires": datetime(2027, 1, 1, tzinfo=UTC).isoformat(),
        "features": list(FEATURES),
        "schema_hash": SCHEMA_HASH,
        "step_s": 3600,
        "horizon_steps": 48,
        "quantiles": list(SAID_QUANTILES),
        "golden": rows,
        "reason": "test",
        "run_id": "run",
        "record_version": 7,
    }
    return Manifest(**(content | claims))


def small_manifest(version: int = 1, seed: int = 1, trees: int = 10, **claims: Any) -> tuple[Manifest, list[bytes]]:
    """A true manifest of the small model, and its chunks."""
    artifact, golden = small_model(seed, trees)
    return manifest_of(artifact, golden, version, **claims), pack(artifact)[1]
