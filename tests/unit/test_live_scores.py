"""Live scores of a version and its predecessor's shadow: what pairs, what counts, and one oracle for the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from central import live_scores
from central.live_scores import CLIP, ENOUGH_PAIRS, FLOOR, LiveScores
from shared.clock import HOUR_US
from shared.messages import SCORE_COLUMNS
from tests.unit.rollout_desk import manifest

LEADS = (1, 6, 24, 48)
Row = dict[str, Any]


def score(role: str, version: int, error_kw: float, *, hour: int = 0, lead: int = 1, **more: Any) -> Row:
    row: Row = {
        "meter_id": "m", "valid_us": hour * HOUR_US, "lead": lead, "role": role, "rung": "champion",
        "model_version": version, "y_kw": 1.0, "forecast_kw": 1.0 + error_kw, "low_kw": 0.0, "high_kw": 2.0,
        "naive_kw": 1.5,
    }  # fmt: skip
    return row | more


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in SCORE_COLUMNS}


def pairs(ratio: float, hours: int, **more: Any) -> list[Row]:
    """Version 2 and its predecessor at so many hours, errors of .1 kW times `ratio` and .1 kW."""
    return [
        row
        for hour in range(hours)
        for row in (
            score("champion", 2, 0.1 * ratio, hour=hour, **more),
            score("challenger", 1, -0.1, hour=hour, **more),
        )
    ]


def watching(predecessor: int | None = 1) -> LiveScores:
    live = LiveScores()
    live.watch(manifest(2), manifest(predecessor) if predecessor is not None else None)
    return live


def test_a_fleet_of_meters_in_any_order_and_repetition_agrees_with_pandas() -> None:
    rng = np.random.default_rng(7)
    rows: list[tuple[str, Row]] = []
    for site in ("a", "b"):
        for meter in range(5):
            scale = 10.0 ** (meter - 2)
            for hour in range(int(rng.integers(3, 30))):
                for lead in LEADS:
                    own: Row = {"meter_id": f"m{meter}", "y_kw": scale * (1 + rng.random()), "naive_kw": scale}
                    for role, version, spread in (("champion", 2, 0.3), ("challenger", 1, 0.2)):
                        own["forecast_kw"] = own["y_kw"] + scale * rng.normal(0, spread)
                        if rng.random() < 0.9:  # some never come
                            rows.append((site, score(role, version, 0.0, hour=hour, lead=lead, **own)))
    rows += [rows[number] for number in rng.integers(0, len(rows), 200)]  # sent again
    rows = [rows[number] for number in rng.permutation(len(rows))]
    live = watching()
    for start in range(0, len(rows), 37):
        for site in ("a", "b"):
            live.take(site, columns([row for of, row in rows[start : start + 37] if of == site]))

    frame = pd.DataFrame([row | {"site": site} for site, row in rows])
    identity = ["site", "meter_id", "valid_us", "lead"]
    frame = frame.drop_duplicates([*identity, "role"])
    frame["error_kw"] = (frame.forecast_kw - frame.y_kw).abs()
    wide = frame.pivot(index=identity, columns="role", values="error_kw").dropna()
    wide["load"] = frame.drop_duplicates(identity).set_index(identity).y_kw.abs()
    sums = wide.groupby(["site", "meter_id"]).agg(["sum", "count"])
    enough = sums[sums["champion"]["count"] >= ENOUGH_PAIRS]
    floor = FLOOR * enough["load"]["sum"]
    logs = np.log((enough["champion"]["sum"] + floor) / (enough["challenger"]["sum"] + floor))
    found = live.comparison()
    assert found.ratio == pytest.approx(float(np.exp(logs.mean())), rel=1e-12)
    assert (found.version, found.pairs, found.meters) == (2, len(wide), len(enough))
    assert 1.2 < float(np.exp(logs.mean())) < 1.8, "the oracle tells the two apart"


def test_meters_count_alike_whatever_their_size() -> None:
    live = watching()
    live.take("s", columns(pairs(2.0, 20, meter_id="small")))
    big = [
        row | {"y_kw": 1000.0, "forecast_kw": 1000 + 1000 * (row["forecast_kw"] - 1)}
        for row in pairs(0.5, 20, meter_id="big")
    ]
    live.take("s", columns(big))
    assert live.comparison().ratio == pytest.approx(1.0, abs=0.05)


def test_only_the_two_versions_in_their_roles_and_made_by_the_model_count() -> None:
    live = watching()
    others = [
        score("champion", 3, 9.0),
        score("challenger", 2, 9.0),
        score("champion", 1, 9.0),
        score("champion", 2, 9.0, rung="seasonal_naive"),
        score("champion", 2, 9.0, lead=6, forecast_kw=None),
        score("champion", 2, 9.0, lead=24, y_kw=float("nan")),
    ]
    live.take("s", columns(others))
    assert live.comparison().pairs == 0


def test_a_score_without_its_counterpart_pairs_with_nothing() -> None:
    live = watching()
    live.take("s", columns([score("champion", 2, 0.1), score("challenger", 1, 0.1, lead=6)]))
    live.take("t", columns([score("challenger", 1, 0.1)]))
    assert live.comparison().against == "naive"
    assert live.comparison().ratio is None


def test_without_a_shadow_seasonal_naive_is_the_yardstick() -> None:
    live = watching(predecessor=None)
    live.take("s", columns([score("champion", 2, 0.25, hour=hour) for hour in range(20)]))
    found = live.comparison()
    assert (found.against, found.pairs) == ("naive", 20)
    assert found.ratio == pytest.approx((0.25 + FLOOR) / (0.5 + FLOOR))


def test_a_meter_with_few_pairs_decides_nothing() -> None:
    live = watching()
    live.take("s", columns(pairs(3.0, ENOUGH_PAIRS - 1)))
    assert live.comparison().ratio is None
    live.take("s", columns(pairs(3.0, ENOUGH_PAIRS)))
    assert live.comparison().ratio == pytest.approx(3.0, rel=0.2)


def test_a_meter_that_stands_still_says_no_more_than_so_many_times_worse() -> None:
    live = watching()
    still = [row | {"y_kw": 0.0, "forecast_kw": 1e-9 if row["role"] == "champion" else 0.0} for row in pairs(1.0, 20)]
    live.take("s", columns(still))
    assert live.comparison().ratio == pytest.approx(CLIP)
    both = [row | {"meter_id": "idle", "y_kw": 0.0, "forecast_kw": 0.0} for row in pairs(1.0, 20)]
    live.take("s", columns(both))
    assert live.comparison().ratio == pytest.approx(CLIP**0.5)


def test_another_version_begins_without_what_was_counted_before() -> None:
    live = watching()
    live.take("s", columns(pairs(2.0, 20)))
    live.watch(manifest(2), manifest(1))
    assert live.comparison().pairs == 20
    live.watch(manifest(3), manifest(2))
    assert (live.comparison().version, live.comparison().pairs) == (3, 0)


def test_while_nothing_is_on_its_way_nothing_is_kept() -> None:
    live = watching()
    live.watch(None, None)
    live.take("s", columns(pairs(2.0, 20)))
    assert live.comparison().pairs == 0


def test_what_is_remembered_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_scores, "PAIRS_REMEMBERED", 50)
    monkeypatch.setattr(live_scores, "METERS_AT_MOST", 3)
    live = watching()
    for number in range(10):
        live.take("s", columns(pairs(2.0, 30, meter_id=f"m{number}")))
    assert len(live._seen) == 50
    assert live.comparison().meters == 3
