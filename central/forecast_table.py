"""The forecasts of a backtest as a table: one row for each meter, origin, lead and quantile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Windows
from central.tabular import write_parquet

SCHEMA: Final = pa.schema(
    [
        ("meter_id", pa.string()),
        ("origin", pa.timestamp("us", tz="UTC")),
        ("lead", pa.int32()),
        ("quantile", pa.float64()),
        ("value", pa.float64()),
    ]
)
_BLOCK: Final = 4096  # windows written at once


def write_forecasts(
    path: Path, panel: Panel, windows: Windows, forecast: NDArray[np.float64], quantiles: tuple[float, ...]
) -> None:
    """Write forecasts [N, L, Q] as Parquet `meter_id, origin, lead (in steps, from 1), quantile, value`.

    Raises DataFileError when the place cannot be written.
    """
    write_parquet(SCHEMA, _blocks(panel, windows, forecast, quantiles), path)


def _blocks(
    panel: Panel, windows: Windows, forecast: NDArray[np.float64], quantiles: tuple[float, ...]
) -> Iterator[pa.Table]:
    names, (_, leads, width) = np.array(panel.meters, dtype=object), forecast.shape
    for first in range(0, len(windows), _BLOCK):
        part = slice(first, first + _BLOCK)
        count = len(windows.meters[part])
        columns = [
            np.repeat(names[windows.meters[part]], leads * width),
            np.repeat(windows.origins_us[part], leads * width),
            np.tile(np.repeat(windows.leads, width), count).astype(np.int32),
            np.tile(quantiles, count * leads),
            forecast[part].ravel(),
        ]
        yield pa.table([pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
