"""Rows that are trained on and rows that are forecast from are the same bits, on real households."""

from pathlib import Path

import numpy as np

from central.file_panel import panel_from_file
from central.samples import Sampling, training_rows
from shared.calendars import Calendar
from shared.features import FEATURES, feature_matrix

HOUSEHOLDS = Path(__file__).parents[2] / "demo" / "data" / "london_households.parquet"
LONDON = Calendar("Europe/London", "GB")
DAY_US = 86_400_000_000


def test_training_rows_are_the_features_of_single_windows_bit_for_bit() -> None:
    panel = panel_from_file(HOUSEHOLDS, aggregate="sum")
    until_us = panel.start_us + 60 * DAY_US
    sampling = Sampling(rows_cap=1600, dropout=0.0)
    drawn = training_rows(panel, until_us=until_us, rng=np.random.default_rng(2), sampling=sampling, calendar=LONDON)
    lead_h = drawn.x[:, FEATURES.index("lead_h")].astype(np.int64)
    meters = np.arange(len(panel.meters), dtype=np.int64)
    for row in np.random.default_rng(3).integers(len(drawn), size=60):
        origin_us, lead = drawn.origin_us[row : row + 1], lead_h[row : row + 1]
        alone = [
            feature_matrix(
                panel.until(until_us).windows(meters[m : m + 1], origin_us), origin_us, lead, calendar=LONDON
            )
            for m in meters
        ]
        assert drawn.x[row].tobytes() in {matrix.x[0].tobytes() for matrix in alone}
