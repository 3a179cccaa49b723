"""Choose the demo's households from the full Low Carbon London file.

    python -m demo.choose_households lcl_households.parquet demo/data/london_households.parquet

The rule looks at the readings only, never at how well anything forecasts them; `demo/data/README.md` says it in words.
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

YEAR: Final = 2013
HOUSEHOLDS: Final = 24
MIN_READINGS: Final = 17_510  # of the year's 17,520 half-hours
MAX_ZERO_SHARE: Final = 0.001
MEAN_KWH: Final = (0.08, 1.0)  # per half-hour: somebody lives there, and it is a household
MAX_LOW_DAYS: Final = 21  # days under a quarter of the household's median day: holidays yes, moving out no
MAX_MONTH_RATIO: Final = (
    4.0  # busiest month over quietest: no electrically heated home, whose own change would drown ours
)


def choose(readings: pd.DataFrame) -> list[str]:
    """Return the chosen meter ids, from the smallest consumer to the largest.

    `readings` has columns meter_id, ts (UTC) and value (kWh per half-hour).
    """
    good = _describe(readings).query(
        f"readings >= {MIN_READINGS} and zero_share <= {MAX_ZERO_SHARE} and {MEAN_KWH[0]} <= mean_kwh <= {MEAN_KWH[1]}"
        f" and low_days <= {MAX_LOW_DAYS} and month_ratio <= {MAX_MONTH_RATIO}"
    )
    ranked = [str(meter) for meter in good.sort_values("mean_kwh").index]
    if len(ranked) < HOUSEHOLDS:
        raise SystemExit(f"choose_households: only {len(ranked)} good households, {HOUSEHOLDS} wanted")
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, HOUSEHOLDS).round().astype(int)]


def _describe(readings: pd.DataFrame) -> pd.DataFrame:
    values = readings.groupby("meter_id")["value"]
    days = readings.assign(day=readings.ts.dt.floor("D")).pivot_table("value", "day", "meter_id", aggfunc="sum")
    months = readings.assign(month=readings.ts.dt.month).pivot_table("value", "month", "meter_id")
    return pd.DataFrame(
        {
            "readings": values.size(),
            "zero_share": readings.value.eq(0).groupby(readings.meter_id).mean(),
            "mean_kwh": values.mean(),
            "low_days": days.lt(days.median() / 4).sum(),
            "month_ratio": months.max() / months.min(),
        }
    )


def main(argv: list[str]) -> int:
    """Write the chosen households of the file argv[0] to argv[1] as Parquet."""
    source, target = (Path(name) for name in argv)
    everything = pd.read_parquet(source)
    year = everything[everything.ts.dt.year == YEAR]
    chosen = year[year.meter_id.isin(choose(year))].assign(value=lambda frame: frame.value.round(3))
    chosen = chosen.sort_values(["meter_id", "ts"], ignore_index=True)
    chosen.to_parquet(
        target,
        index=False,
        compression="zstd",
        compression_level=19,
        use_dictionary=["meter_id", "value"],
        column_encoding={"ts": "DELTA_BINARY_PACKED"},
    )
    print(f"{target}: {chosen.meter_id.nunique()} households, {len(chosen)} readings, {target.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
