"""Trainings on a small synthetic record: hourly power of a few meters over some weeks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from central.cli import main
from central.record import Record
from shared.clock import HOUR_US, iso
from shared.messages import Uplink
from tests.processes import told_here

START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z
DAYS = 35
METERS = 4


def fill(record: Record) -> None:
    """Hourly power of a few meters with a daily and weekly shape and some noise."""
    hours = np.arange(DAYS * 24)
    rng = np.random.default_rng(5)
    record.create()
    for number in range(METERS):
        shape = 1 + 0.5 * np.sin(2 * np.pi * (hours + number) / 24) + 0.3 * (hours // 24 % 7 >= 5)
        value = ((1 + number) * shape + rng.normal(0, 0.1, len(hours))).round(3).tolist()
        rows = len(hours)
        columns: dict[str, list[Any]] = {
            "meter_id": [f"m{number}"] * rows,
            "ts_us": (START_US + hours * HOUR_US).tolist(),
            "value": value,
            "unit": ["kW"] * rows,
            "kind": ["power"] * rows,
            "period_s": [None] * rows,
            "quality": [""] * rows,
            "received_us": (START_US + hours * HOUR_US).tolist(),
        }
        at = iso(START_US + DAYS * 24 * HOUR_US)
        record.append([Uplink(site="s", epoch="e", seq=number + 1, at=at, kinds={"readings": columns})])


def central(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command on a work folder, in this process, which has imported what every training would import again."""
    return told_here(main, arguments(folder, *words, **settings))


def arguments(folder: Path, *words: str, **settings: str) -> list[str]:
    """As a person types them, for small trainings."""
    small = {"central.work_dir": str(folder), "training.trees": "20", "training.rows": "5000"} | {
        name.replace("__", "."): value for name, value in settings.items()
    }
    pairs = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    return [*words, *pairs, "--log-level", "warning"]
