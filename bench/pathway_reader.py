"""The other peer: Pathway reads the same flood with persistence on. Runs in an environment of its own.

Each reading is parsed, and all are counted and summed; the line on standard output is written when the count is full.
With persistence Pathway acknowledges to the broker only what a checkpoint holds, as the edge does after its commit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pathway as pw


class Reading(pw.Schema):  # type: ignore[misc]  # not installed where types are checked
    """What the flood's payloads hold."""

    ts: str
    value: float
    unit: str


def main(port: str, client_id: str, topic_filter: str, readings: str, folder: str) -> None:
    """Count `readings` of them and end."""
    table = pw.io.mqtt.read(
        f"mqtt://127.0.0.1:{port}/?client_id={client_id}",
        topic_filter,
        qos=1,
        schema=Reading,
        format="json",
        autocommit_duration_ms=100,
        name="flood",
    )
    total = table.reduce(count=pw.reducers.count(), sum=pw.reducers.sum(pw.this.value))

    def on_change(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001 -- Pathway's names
        if is_addition and row["count"] >= int(readings):
            sys.stdout.write("all counted\n")
            sys.stdout.flush()
            os._exit(0)

    pw.io.subscribe(total, on_change)
    backend = pw.persistence.Backend.filesystem(str(Path(folder)))
    pw.run(
        persistence_config=pw.persistence.Config(backend, snapshot_interval_ms=100),
        monitoring_level=pw.MonitoringLevel.NONE,
        terminate_on_error=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
