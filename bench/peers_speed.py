"""Peer of `forecasts_per_core`: mlforecast.predict on one thread, point forecasts only. In an environment of its own.

The forecaster is that of the accuracy bench with as many trees as it is told. The clock, processor time, runs over
`predict` alone: it keeps its features' state from one call to the next, so reading history in counts for nobody.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.peers_exchange import HORIZON, as_frame, read_series
from bench.peers_mlforecast import model


def main(readings: str, trees: str, leaves: str, rounds: str) -> None:
    """Print the processor seconds of each of so many calls, after one that does not count."""
    series = read_series(Path(readings))
    forecaster = model(int(trees), int(leaves), 0.1, "UTC")
    forecaster.fit(as_frame(series), static_features=[])
    for number in range(int(rounds) + 1):
        began_s = time.process_time()
        made = forecaster.predict(HORIZON)
        seconds = time.process_time() - began_s
        if len(made) != HORIZON * len(series):
            raise SystemExit(f"mlforecast made {len(made)} numbers for {len(series)} meters")
        if number:
            sys.stdout.write(f"{seconds}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
