"""A small real model, trained on the demo's households once per run, and manifests that claim it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.covariates import Covariates, covariate_columns_of
from central.dataset import Floats, Panel
from central.evaluation import all_pairs
from central.export import golden_rows, to_onnx
from central.file_panel import panel_from_file
from central.training import Recipe, train
from shared.calendars import Calendar
from shared.clock import DAY_US, HOUR_US, iso, to_us, wall_now
from shared.covariates import Issue, schema_hash_of, with_columns
from shared.features import FEATURES, SCHEMA_HASH, feature_matrix
from shared.manifest import Golden, Manifest, Packed, pack
from shared.signing import SigningKey, signed

HOUSEHOLDS = Path(__file__).parents[1] / "demo" / "data" / "london_households.parquet"
SAID_QUANTILES = (0.1, 0.5, 0.9)
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = f'keys.trusted=["{KEY.trusted}"]'  # as --set takes it


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


@cache
def packed(artifact: bytes) -> Packed:
    """As it travels; compressing takes longer than most tests."""
    return pack(artifact)


def manifest_of(artifact: bytes, rows: Golden, version: int = 1, **claims: Any) -> Manifest:
    """A manifest of `artifact`, signed by the tests' key; `claims` put other things in it."""
    content: dict[str, Any] = {
        "name": "metercast-fleet",
        "version": version,
        **packed(artifact).claims,
        "created": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "expires": "2026-06-01T00:00:00Z",  # for edges whose wall clock is the test's
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
    return signed(Manifest(**(content | claims)), [KEY])


def in_a_month() -> str:
    """When a manifest for an edge whose wall clock is the real one should expire."""
    return iso(to_us(wall_now() + timedelta(days=30)))


def small_manifest(version: int = 1, seed: int = 1, trees: int = 10, **claims: Any) -> tuple[Manifest, list[bytes]]:
    """A true manifest of the small model, and its chunks."""
    artifact, golden = small_model(seed, trees)
    return manifest_of(artifact, golden, version, **claims), list(packed(artifact).chunks)


DRIVEN_BY = "warmth"


def driver(start_us: int, hours: int) -> Floats:
    """A series that changes from day to day as weather does, the same at an instant whatever the start."""
    hour = start_us // HOUR_US + np.arange(hours)
    return np.sin(hour / 7.3) + np.sin(hour / 23.1 + 1) + np.sin(hour / 61.7 + 2)


def driven_load(start_us: int, hours: int, scale_kw: float = 1.0) -> Floats:
    """The load of a meter that follows the driver on top of a day's shape: kW, never negative."""
    hour = start_us // HOUR_US + np.arange(hours)
    return scale_kw * (5 + np.sin(2 * np.pi * hour / 24) + driver(start_us, hours))


def driven_panel(days: int = 60, meters: int = 4, *, told: bool = True) -> Panel:
    """Meters that follow the driver, with its perfect forecast or without."""
    start_us, hours = 20_000 * DAY_US, 24 * days
    load_kw = np.stack([driven_load(start_us, hours, 1.0 + number) for number in range(meters)])
    load_kw += np.random.default_rng(3).normal(0, 0.05, load_kw.shape)
    issue = Issue(DRIVEN_BY, 0, start_us, HOUR_US, driver(start_us, hours))
    known = Covariates.by_site({"": [issue]}, [""] * meters, HOUR_US)
    return Panel(
        [f"m{number}" for number in range(meters)], start_us, 3600, load_kw, covariates=known if told else None
    )


@cache
def driven_model() -> tuple[bytes, Golden, tuple[str, ...], str]:
    """A graph trained with the driver, its golden rows, features and schema hash."""
    panel = driven_panel()
    model = train(panel, until_us=panel.end_us, recipe=Recipe(trees=40, rows_cap=8_000, covariate_dropout=0.2))
    artifact = to_onnx(model)
    meters, origins_us = all_pairs(panel, np.array([panel.end_us - 2 * DAY_US]))
    leads = np.arange(1, 49)
    x = feature_matrix(panel.windows(meters, origins_us), origins_us, leads, calendar=Calendar()).x
    columns = covariate_columns_of(panel.covariates_of(meters), model.covariates, origins_us, leads)
    inputs, outputs = golden_rows(artifact, with_columns(x, columns), n=8)
    cells = [[None if np.isnan(cell) else float(cell) for cell in row] for row in inputs]
    golden = Golden(inputs=cells, outputs=outputs.astype(float).tolist())
    return artifact, golden, model.features, schema_hash_of(model.covariates)
