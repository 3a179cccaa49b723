"""`edge doctor`: what is wrong around this edge, each finding with its mend."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.store import DATABASE
from shared.errors import BrokerUnreachable
from shared.findings import Finding
from shared.mqtt import Connection
from shared.params import Params

FREE_BYTES_WANTED: Final = 200 * 1024 * 1024


def examine(params: Params) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    looks: tuple[Callable[[Params], Finding], ...] = (_broker, _folder, _space, _state)
    return [look(params) for look in looks]


def _broker(params: Params) -> Finding:
    where = f"{params.mqtt.host}:{params.mqtt.port}"
    connection = Connection(params.mqtt, client_id=f"metercast-doctor-{os.getpid()}", lasting=False)
    try:
        connection.start(timeout_s=5)
    except BrokerUnreachable as error:
        return Finding(False, "broker", str(error), "start the broker, or set mqtt.host, mqtt.port and credentials")
    connection.stop()
    return Finding(True, "broker", f"{where} accepts MQTT 5")


def _folder(params: Params) -> Finding:
    folder = params.edge.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding(True, "edge.state_dir", f"{folder} can be written")
    return Finding(False, "edge.state_dir", f"{existing} cannot be written", "change its owner, or set edge.state_dir")


def _space(params: Params) -> Finding:
    existing = next(path for path in (params.edge.state_dir, *params.edge.state_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free // 2**20} MiB free"
    return Finding(free >= FREE_BYTES_WANTED, "disk", found, "" if free >= FREE_BYTES_WANTED else "make room")


def _state(params: Params) -> Finding:
    path: Path = params.edge.state_dir / DATABASE
    if not path.exists():
        return Finding(True, "state", "none yet; the first run makes it")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            (verdict,) = database.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        verdict = str(error)
    if verdict == "ok":
        return Finding(True, "state", f"{path} is sound")
    return Finding(False, "state", f"{path}: {verdict}", "move the folder away; the edge begins anew")
