"""Features against a slow reference that reads like their definitions, on real households."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from central.dataset import Panel
from central.file_panel import panel_from_file
from shared.calendars import Calendar
from shared.features import FEATURES, feature_matrix

HOUSEHOLDS = Path(__file__).parents[2] / "demo" / "data" / "london_households.parquet"
LONDON = ZoneInfo("Europe/London")
LEADS = (1, 6, 24, 25, 48)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_from_file(HOUSEHOLDS, aggregate="sum")


def _is_free(instant: datetime) -> bool:
    local = instant.astimezone(LONDON)
    return local.weekday() >= 5 or (local.month, local.day) in {(12, 25), (12, 26), (1, 1)}


def _deviations(z: list[float], origin: datetime) -> list[float]:
    """Return z less the decayed mean of the last 27 values at that hour on days of its kind, of the last 28 days."""
    free = [_is_free(origin + timedelta(hours=hour - 720)) for hour in range(720)]

    def own(hour: int) -> float:
        ages = [(age, 720 - 24 * (age + 1) + hour % 24) for age in range(27)]
        alike = [(0.95**age, z[at]) for age, at in ages if free[at] == free[hour] and not np.isnan(z[at])]
        return sum(weight * value for weight, value in alike) / sum(weight for weight, _ in alike)

    return [z[hour] - own(hour) for hour in range(48, 720)]


def _persistence(off: list[float], steps: int) -> float:
    pairs = [(a, b) for a, b in zip(off[steps:], off[:-steps], strict=True) if not np.isnan(a * b)]
    return min(0.99, max(0.0, sum(a * b for a, b in pairs) / sum((a * a + b * b) / 2 for a, b in pairs)))


def _reference(series: list[float], origin: datetime, lead: int) -> dict[str, float]:
    """Features of one (meter, origin, lead) by definition; `series` [720] ends at the origin."""

    def at(hours_before_origin: int) -> float:
        return series[720 - hours_before_origin]

    def known(values: list[float]) -> list[float]:
        return [value for value in values if not np.isnan(value)]

    mean = float(np.mean(known(series[-168:])))
    scale = max(float(np.std(known(series[-168:]))), 0.5 * float(np.std(known(series[-672:]))))
    z = [(value - mean) / scale for value in series]
    target = origin + timedelta(hours=lead - 1)
    latest = lead - 1 - 24 * ((lead - 1) // 24) - 24  # hours from the origin of the latest same hour, below zero
    same_hour = [z[720 + latest - 24 * day] for day in range(27)]
    matched = [
        (0.95**day, value)
        for day, value in enumerate(same_hour)
        if not np.isnan(value) and _is_free(origin + timedelta(hours=latest - 24 * day)) == _is_free(target)
    ]
    profile = sum(w * v for w, v in matched) / sum(w for w, _ in matched)
    week_ago = z[720 + lead - 1 - 168]
    off = _deviations(z, origin)
    persistence_1h, persistence_24h = _persistence(off, 1), _persistence(off, 24)
    carried = off[-1] * persistence_1h**lead
    base = float(np.nanmean([week_ago, np.mean(known(same_hour[:7])), profile])) + carried
    local = target.astimezone(LONDON)
    return {
        "lag_24h": z[720 + lead - 1 - 24] - base if lead <= 24 else np.nan,
        "lag_48h": z[720 + lead - 1 - 48] - base,
        "lag_168h": week_ago - base,
        "lag_169h": z[720 + lead - 2 - 168] - base,
        "recent_1": (at(1) - mean) / scale - base,
        "mean_24h": float(np.mean(known(z[-24:]))) - base,
        "max_168h": float(np.max(known(z[-168:]))) - base,
        "std_24h": float(np.std(known(z[-24:]))),
        "same_hour_profile": profile - base,
        "same_hour_q90": float(np.quantile(known(same_hour), 0.9)) - base,
        "same_week_hour_mean": float(np.nanmean([z[720 + lead - 1 - 168 * weeks] for weeks in (1, 2, 3, 4)])) - base,
        "week_near": float(np.nanmean(z[720 + lead - 3 - 168 : 720 + lead + 2 - 168])) - base,
        "deviation_1h": off[-1],
        "deviation_24h": float(np.nanmean(off[-24:])),
        "deviation_hour_3": off[-3],
        "deviation_day_2": float(np.nanmean(off[-48:-24])),
        "persistence_1h": persistence_1h,
        "persistence_24h": persistence_24h,
        "carried": carried,
        "carried_day": off[latest] * persistence_24h ** ((lead - 1) // 24 + 1),
        "carried_6h": off[-1] * float(np.exp(-lead / 6)),
        "base_level": base,
        "day_change_3h": float(np.nanmean([z[-i] - z[-i - 24] for i in (1, 2, 3)])),
        "week_change_3h": float(np.nanmean([z[-i] - z[-i - 168] for i in (1, 2, 3)])),
        "hour": local.hour,
        "weekday": local.weekday(),
        "free_day": float(_is_free(target)),
        "base": base * scale + mean,
    }


@pytest.mark.parametrize("origin", [datetime(2013, 2, 9, 7, tzinfo=UTC), datetime(2013, 10, 27, 1, tzinfo=UTC)])
@pytest.mark.parametrize("meter", [0, 11])
def test_features_are_what_their_definitions_say(panel: Panel, meter: int, origin: datetime) -> None:
    origins = np.array([int(origin.timestamp()) * 1_000_000], dtype=np.int64)
    windows = panel.windows(np.array([meter]), origins)
    windows[0, [3, 200, 555, 700]] = np.nan
    matrix = feature_matrix(windows, origins, np.array(LEADS), calendar=Calendar("Europe/London", "GB"))
    for i, lead in enumerate(LEADS):
        expected = _reference([float(value) for value in windows[0]], origin, lead)
        assert matrix.base[0, i] == pytest.approx(expected.pop("base"), rel=1e-9)
        for name, value in expected.items():
            assert matrix.x[i, FEATURES.index(name)] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), (
                name,
                lead,
            )
