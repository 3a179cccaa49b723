"""mlforecast beside `forecasts_per_core`: the same loads of as many meters, the same horizon, one thread.

Two sizes of the peer: as many trees as ours has for one quantile (both then hold one point forecast's trees, and ours
makes the other quantiles on top), and as many as ours has for all quantiles together (the same work per row).
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.accuracy import one_thread
from bench.closing import END
from bench.contestants import PEERS
from bench.edge_state import daily_loads, meter_name
from bench.stage import ROOT, say
from shared.clock import HOUR_US

TITLE: Final = "mlforecast.predict"
_PATIENCE_S: Final = 600
_LEAST_WEEKS: Final = 5  # its longest lag is four, and something must be left to train on


def seconds_per_round(*, meters: int, weeks: int, trees: int, leaves: int, rounds: int) -> float | None:
    """Return processor seconds in which the peer forecasts all meters, or None, said in a sentence, if it cannot."""
    if not (PEERS / "bin" / "python").exists():
        say(f"{TITLE} is not installed in .venv-bench, so it is left out (`make bench` tries to install it).")
        return None
    with tempfile.TemporaryDirectory(prefix="metercast-bench-") as folder:
        readings = Path(folder) / "readings.parquet"
        _loads(meters, max(weeks, _LEAST_WEEKS) * 168).to_parquet(readings)
        command = [str(PEERS / "bin" / "python"), "-m", "bench.peers_speed", str(readings)]
        try:
            told = subprocess.run(
                [*command, str(trees), str(leaves), str(rounds)],
                cwd=ROOT,
                env=one_thread(),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                timeout=_PATIENCE_S,
            ).stdout
        except (subprocess.SubprocessError, OSError) as error:
            say(f"{TITLE} is left out: {error}")
            return None
    return statistics.median(map(float, told.split()))


def _loads(meters: int, hours: int) -> pd.DataFrame:
    """Return the loads that the edge's windows hold as rows."""
    first = END - hours
    ts = pd.to_datetime(np.arange(first, END) * HOUR_US, unit="us", utc=True)
    names = [meter_name(number) for number in range(meters)]
    loads = daily_loads(meters, first, hours).astype(np.float64)
    return pd.DataFrame({"meter_id": np.repeat(names, hours), "ts": np.tile(ts, meters), "value": loads.ravel()})
