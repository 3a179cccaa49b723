"""Issues of covariates: read at the boundary, put on the grid, and what of them was known at an origin."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.clock import HOUR_US, iso
from shared.covariates import (
    MAX_VALUES,
    Issue,
    column_names,
    covariates_of,
    decode_issue,
    schema_hash_of,
    with_columns,
)
from shared.errors import MessageRefused
from shared.features import FEATURES, SCHEMA_HASH
from shared.outlook import Outlook, covariate_columns

GOLDEN = Path(__file__).parents[1] / "contract" / "golden" / "covariate.json"
TOPIC = "metercast/plant/covariates/temperature"
DAY0_US = 20_000 * 24 * HOUR_US
MESSAGE = {"issued_at": iso(DAY0_US), "start": iso(DAY0_US), "step_s": 3600, "values": [1.0, 2.0]}


def _decode(content: Any, name: str = "temperature") -> Issue:
    return decode_issue(json.dumps(content).encode(), TOPIC, name)


def _issue(issued_h: float, start_h: float, values: list[float], *, step_us: int = HOUR_US, name: str = "t") -> Issue:
    """Hours count from DAY0_US."""
    return Issue(
        name, DAY0_US + round(issued_h * HOUR_US), DAY0_US + round(start_h * HOUR_US), step_us, np.array(values)
    )


def _known(issues: list[Issue], origin_h: float, hours: list[int], step_us: int = HOUR_US) -> list[float]:
    first = DAY0_US // step_us
    origins_us = np.array([DAY0_US + round(origin_h * HOUR_US)])
    known = Outlook.of(issues, step_us).at(origins_us, np.array([[first + hour for hour in hours]]))
    return [round(value, 9) for value in known[0].tolist()]


def test_the_golden_message_is_an_issue() -> None:
    issue = decode_issue(GOLDEN.read_bytes(), TOPIC, "temperature")
    assert (iso(issue.issued_us), iso(issue.start_us)) == ("2026-01-05T06:00:00Z", "2026-01-05T10:00:00Z")
    assert (issue.step_us, issue.unit, iso(issue.end_us)) == (HOUR_US, "°C", "2026-01-05T13:00:00Z")
    np.testing.assert_array_equal(issue.values, [-1.5, np.nan, 0.25])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"values": []}, "values"),
        ({"values": [1.0] * (MAX_VALUES + 1)}, "values"),
        ({"values": ["1.5"]}, r"values\.0"),
        ({"values": [True]}, r"values\.0"),
        ({"values": [1e300]}, "beyond"),
        ({"issued_at": "yesterday"}, "issued_at: ts 'yesterday' is not an ISO 8601 instant"),
        ({"start": "2026-01-05T10:00:00"}, "start: .* has no offset"),
        ({"start": iso(DAY0_US + 1)}, "whole minutes"),
        ({"step_s": 0}, "whole minutes"),
        ({"step_s": -1e30}, "whole minutes"),
        ({"step_s": 90_000}, "whole minutes"),
        ({"step": "1h"}, "step and step_s are both given"),
        ({"step_s": 86_400, "values": [1.0] * 43}, "over more than 42 days"),
        ({"start": iso(DAY0_US + 43 * 24 * HOUR_US)}, "over 42 days after issued_at"),
        ({"unit": "x" * 33}, "unit"),
        ({"schema": 2}, "schema"),
    ],
)
def test_what_is_no_issue_is_refused_in_a_sentence_that_names_the_topic(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MessageRefused, match=f"^{TOPIC}: .*{sentence}"):
        _decode(MESSAGE | change)


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "wind_change_24h", "wind_change_168h"])
def test_a_name_is_an_id_that_no_column_of_another_could_have(name: str) -> None:
    with pytest.raises(MessageRefused, match="covariate"):
        _decode(MESSAGE, name)


@given(st.binary() | st.text().map(str.encode) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(
    lambda content: json.dumps({**MESSAGE, "values": content}).encode()
))  # fmt: skip
def test_whatever_arrives_is_an_issue_or_a_refusal(payload: bytes) -> None:
    try:
        issue = decode_issue(payload, TOPIC, "temperature")
    except MessageRefused:
        return
    assert len(issue.values) <= MAX_VALUES


def test_a_finer_step_becomes_the_mean_of_an_interval_and_half_of_it_suffices() -> None:
    first, hourly = _issue(0, 0, [1.0, 2.0, 3.0, 6.0, 5.0, 7.0, math.nan, math.nan, 9.0], step_us=HOUR_US // 4).on_grid(
        HOUR_US
    )
    assert first == DAY0_US // HOUR_US
    np.testing.assert_array_equal(hourly, [3.0, 6.0, np.nan])


def test_a_coarser_step_holds_for_each_of_its_intervals() -> None:
    first, quarters = _issue(0, 1, [4.0, 8.0]).on_grid(HOUR_US // 4)
    assert first == DAY0_US // (HOUR_US // 4) + 4
    assert quarters.tolist() == [4.0] * 4 + [8.0] * 4


def test_a_step_off_the_grid_is_weighted_by_how_long_it_holds() -> None:
    _, hourly = _issue(0, 0.25, [4.0, 8.0]).on_grid(HOUR_US)
    assert hourly[:2].tolist() == [4.0, 0.25 * 4.0 + 0.75 * 8.0]
    assert math.isnan(hourly[2])  # a quarter of it is known


def test_the_newest_issue_made_by_the_origin_counts_for_past_and_future() -> None:
    issues = [_issue(0, 0, [1.0] * 10), _issue(3, 3, [2.0] * 10), _issue(5, 5, [3.0] * 10)]
    assert _known(issues, 4, [0, 2, 3, 9, 12]) == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert _known(issues, 5, [2, 4, 5, 14]) == [1.0, 2.0, 3.0, 3.0]


def test_nothing_issued_after_an_origin_is_known_at_it() -> None:
    issues = [_issue(0, 0, [1.0, 1.0]), _issue(1.001, 0, [9.0] * 4)]
    known = _known(issues, 1, [0, 1, 2, -1])
    assert known[:2] == [1.0, 1.0]
    assert all(math.isnan(value) for value in known[2:])


def test_an_issue_that_says_nothing_of_an_interval_leaves_what_was_said_before() -> None:
    assert _known([_issue(0, 0, [1.0, 2.0]), _issue(1, 0, [math.nan, 7.0])], 2, [0, 1]) == [1.0, 7.0]


value = st.floats(-50, 50) | st.just(math.nan)
issue = st.builds(
    _issue,
    st.integers(0, 12),
    st.integers(-6, 12),
    st.lists(value, min_size=1, max_size=8),
    step_us=st.sampled_from([HOUR_US // 4, HOUR_US // 2, HOUR_US, 3 * HOUR_US]),
)
issues = st.lists(issue, max_size=8, unique_by=lambda one: one.key)


@settings(deadline=None)
@given(issues.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))), st.integers(-1, 14))
def test_any_order_of_issues_gives_the_same_known_at_any_origin(both: Any, origin_h: int) -> None:
    one, other = both
    origins_us, numbers = np.array([DAY0_US + origin_h * HOUR_US]), DAY0_US // HOUR_US + np.arange(-8, 40)[None]
    first, second = (Outlook.of(some, HOUR_US).at(origins_us, numbers) for some in (one, other))
    assert first.tobytes() == second.tobytes()


@settings(deadline=None)
@given(issues, st.integers(-1, 14), st.integers(-8, 40))
def test_the_look_up_is_what_a_search_through_all_issues_finds(some: list[Issue], origin_h: int, hour: int) -> None:
    expected = math.nan
    for one in sorted(some, key=lambda one: one.key):
        first, values = one.on_grid(HOUR_US)
        place = DAY0_US // HOUR_US + hour - first
        if one.issued_us <= DAY0_US + origin_h * HOUR_US and 0 <= place < len(values) and not np.isnan(values[place]):
            expected = round(float(values[place]), 9)
    assert _known(some, origin_h, [hour]) == pytest.approx([expected], nan_ok=True)


def test_columns_are_the_value_and_its_change_from_a_day_and_a_week_before() -> None:
    values = [float(hour) ** 1.5 for hour in range(24 * 9)]
    outlooks = {"t": Outlook.of([_issue(0, 0, values)], HOUR_US)}
    origins_us = np.array([DAY0_US + 24 * 7 * HOUR_US])
    columns = covariate_columns(outlooks, ("absent", "t"), origins_us, np.array([1, 30]))
    assert columns.shape == (1, 2, 6)
    assert np.isnan(columns[0, :, :3]).all()
    for at, hour in ((0, 168), (1, 197)):
        expected = [values[hour], values[hour] - values[hour - 24], values[hour] - values[hour - 168]]
        assert columns[0, at, 3:].tolist() == np.array(expected, dtype=np.float32).tolist()


def test_a_models_list_says_its_covariates_and_no_other_list_is_taken() -> None:
    names = ("sun", "a:b")
    assert covariates_of([*FEATURES, *column_names(names)]) == names
    assert covariates_of(FEATURES) == ()
    for wrong in (
        [*FEATURES, "cov_sun"],
        [*column_names(names), *FEATURES],
        [*FEATURES[:-1], *column_names(names)],
        [*FEATURES, *column_names(("sun", "sun"))],
        [*FEATURES, *column_names(("a b",))],
        [*FEATURES, *column_names(tuple(f"n{i}" for i in range(17)))],
    ):
        with pytest.raises(ValueError, match=r"features unknown|not in our order|expected each once"):
            covariates_of(wrong)


def test_the_schema_is_that_of_the_features_alone_where_there_are_no_covariates() -> None:
    assert schema_hash_of(()) == SCHEMA_HASH
    assert len({schema_hash_of(names) for names in ((), ("a",), ("b",), ("a", "b"), ("b", "a"))}) == 5


def test_columns_of_all_rows_alike_are_repeated_for_each_row() -> None:
    x = np.zeros((4, 2), dtype=np.float32)
    columns = np.array([[1.0], [2.0]], dtype=np.float32)
    assert with_columns(x, columns)[:, 2].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert with_columns(x, columns[None].repeat(2, axis=0))[:, 2].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert with_columns(x, np.empty((2, 0), dtype=np.float32)) is x
