"""Two roads to an interval: the vectorised grid, and walking through it minute by minute."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.grid import KINDS, GridRules, Kind, MeterReadings, interval_loads

MINUTE_US = 60_000_000
RULES = GridRules(step_us=60 * MINUTE_US, hold_us=40 * MINUTE_US, max_gap_us=150 * MINUTE_US)
MINUTES = 480


def _minute_by_minute(kind: Kind, rows: list[tuple[int, float]], period: int) -> list[float]:
    """The load of each minute, or NaN, by the sentences of the grid's docstring."""
    minutes = [float("nan")] * MINUTES
    for number, (at, value) in enumerate(rows):
        following = rows[number + 1] if number + 1 < len(rows) else None
        if kind == "register":
            if following is None or following[1] < value or following[0] - at > 150:
                continue
            end, load = following[0], (following[1] - value) / ((following[0] - at) / 60)
        else:
            end = min(at + (period if kind == "energy" else 40), following[0] if following else MINUTES * 2)
            load = value / (period / 60) if kind == "energy" else value
        for minute in range(at, min(end, MINUTES)):
            minutes[minute] = load
    return minutes


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, MINUTES - 1), st.floats(-9, 9)), max_size=60, unique_by=lambda row: row[0]),
)
def test_the_grid_equals_the_mean_of_its_minutes(kind: Kind, rows: list[tuple[int, float]]) -> None:
    rows = sorted(rows)
    period = 20
    minutes = np.array(_minute_by_minute(kind, rows, period)).reshape(-1, 60)
    covered = np.isfinite(minutes).sum(axis=1)
    expected = [
        float(np.nanmean(hour)) if count >= 30 else np.nan for hour, count in zip(minutes, covered, strict=True)
    ]
    readings = MeterReadings(
        np.array([at * MINUTE_US for at, _ in rows], dtype=np.int64),
        np.array([value for _, value in rows], dtype=np.float64),
        np.full(len(rows), period * MINUTE_US if kind == "energy" else 0, dtype=np.int64),
        np.full(len(rows), KINDS.index(kind), dtype=np.int8),
    )
    loads, completeness = interval_loads(readings, 0, MINUTES // 60, RULES)
    assert loads.tolist() == pytest.approx(expected, nan_ok=True, abs=1e-9)
    assert completeness.tolist() == pytest.approx((covered / 60).tolist())
