"""Covariates: series known ahead, such as a weather forecast, told for a whole site in issues made at certain times.

An issue says what was thought, when it was made, of intervals to come (and perhaps of past ones). What becomes of
issues at an origin is in shared/outlook.py; here is what an issue is, and which columns of the features it becomes.

Invariants:
    Whatever bytes arrive, `decode_issue` returns an issue within the bounds below or raises MessageRefused.
    The columns of a list of names are in its order, three for each name, after the features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from shared.clock import DAY_US, SECOND_US, duration_us, iso, parse_duration, parse_instant_us
from shared.errors import MessageRefused
from shared.features import FEATURES, SCHEMA_HASH
from shared.messages import Message
from shared.topics import is_id

CHANGES_H: Final = (24, 168)  # what the target's base is made of: the same hour a day and a week before
COLUMNS_OF_A_NAME: Final = 1 + len(CHANGES_H)
SEMANTICS: Final = 1  # raise it whenever a column changes its meaning without changing its name
MAX_NAMES: Final = 16  # of a site, and of a model
MAX_VALUES: Final = 4032  # of an issue: 42 days of quarter hours
MAX_REACH_US: Final = 42 * DAY_US  # of an issue, and of its start after the time it was made
KNOWN_FROM_EVER_US: Final = 0  # when an issue of unknown age was made
_MINUTE_US: Final = 60 * SECOND_US
_LARGEST: Final = 1e30  # differences stay within float32
_PREFIX: Final = "cov_"
_ENDINGS: Final = tuple(f"_change_{hours}h" for hours in CHANGES_H)

Floats = NDArray[np.float64]
Columns = NDArray[np.float32]
Key = tuple[int, int]  # issued_us, start_us: an issue's identity among those of a name


class Covariate(Message):
    """One issue of a covariate on the wire: `values` from `start` on, a value every step, null where nothing is said.

    `step_s`, or `step` as a duration such as `1h`; one hour when neither is given.
    """

    issued_at: str | int | float
    start: str | int | float
    step_s: Annotated[float, Strict()] | None = None
    step: str | None = None
    values: list[Annotated[float, Strict()] | None] = Field(min_length=1, max_length=MAX_VALUES)
    unit: str | None = Field(None, max_length=32)

    def encode(self) -> bytes:
        """UTF-8 JSON without what is not given."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


@dataclass(frozen=True, slots=True)
class Issue:
    """What was known of a covariate at `issued_us`: `values` [n] from `start_us` on, NaN where nothing was said."""

    name: str
    issued_us: int
    start_us: int
    step_us: int
    values: Floats
    unit: str = ""

    @property
    def key(self) -> Key:
        """Its identity among the issues of its name."""
        return self.issued_us, self.start_us

    @property
    def end_us(self) -> int:
        """The end of the last interval it speaks of."""
        return self.start_us + len(self.values) * self.step_us

    def says_as(self, other: Issue) -> bool:
        """Whether both say the same."""
        same = (self.name, self.key, self.step_us, self.unit) == (other.name, other.key, other.step_us, other.unit)
        return same and np.array_equal(self.values, other.values, equal_nan=True)

    def on_grid(self, step_us: int) -> tuple[int, Floats]:
        """Return the number of the first interval of `step_us` it touches, and the mean over each from there on.

        A value holds for its whole step; an interval of which under half is known is NaN.
        """
        unit_us = math.gcd(self.step_us, step_us, self.start_us)
        per_interval = step_us // unit_us
        first, offset = divmod(self.start_us // unit_us, per_interval)
        values = np.repeat(self.values, self.step_us // unit_us)
        after = -(offset + len(values)) % per_interval
        parts = np.pad(values, (offset, after), constant_values=np.nan).reshape(-1, per_interval)
        known = np.isfinite(parts)
        count, total = known.sum(axis=1), np.where(known, parts, 0.0).sum(axis=1)
        return first, np.divide(total, count, out=np.full(len(parts), np.nan), where=2 * count >= per_interval)


def decode_issue(payload: bytes, topic: str, name: str) -> Issue:
    """Read the payload of a covariate's topic; raises MessageRefused naming `topic`."""
    if not is_covariate_name(name):
        raise MessageRefused(
            f"{topic}: covariate {name!r:.80} is not 1 to 64 of letters, digits, _ . : - (or ends as its columns do)"
        )
    said = Covariate.decode(payload, topic)
    try:
        issue = Issue(
            name,
            _instant_us("issued_at", said.issued_at),
            _instant_us("start", said.start),
            _step_us(said),
            np.array([np.nan if value is None else value for value in said.values], dtype=np.float64),
            said.unit or "",
        )
        check_issue(issue)
    except ValueError as error:
        raise MessageRefused(f"{topic}: {error}") from error
    return issue


def check_issue(issue: Issue) -> None:
    """Raise ValueError, in a sentence, for an issue beyond the bounds of a message."""
    check_steps(issue)
    if issue.end_us - issue.start_us > MAX_REACH_US:
        raise ValueError(f"values reach over more than {MAX_REACH_US // DAY_US} days")
    if issue.start_us - issue.issued_us > MAX_REACH_US:
        raise ValueError(f"start {iso(issue.start_us)} is over {MAX_REACH_US // DAY_US} days after issued_at")


def check_steps(issue: Issue) -> None:
    """Raise ValueError, in a sentence, for an issue that cannot be put on any grid, or with a value beyond float32."""
    if issue.start_us % _MINUTE_US or issue.step_us % _MINUTE_US or not _MINUTE_US <= issue.step_us <= DAY_US:
        raise ValueError("start and step are not whole minutes, or step is not between 1min and 24h")
    if np.nanmax(np.abs(issue.values), initial=0.0) > _LARGEST:
        raise ValueError(f"a value is beyond {_LARGEST:g}")


def is_covariate_name(name: str) -> bool:
    """Whether `name` may be a covariate's: an id that does not end as the columns of another one do."""
    return is_id(name) and not name.endswith(_ENDINGS)


def column_names(names: Sequence[str]) -> tuple[str, ...]:
    """The columns of covariates: for each its value at the target, and how far that is from a day and a week before."""
    return tuple(f"{_PREFIX}{name}{ending}" for name in names for ending in ("", *_ENDINGS))


def covariates_of(features: Sequence[str]) -> tuple[str, ...]:
    """The covariates whose columns follow the features in a model's list; raises ValueError for another list."""
    ours, others = tuple(features[: len(FEATURES)]), tuple(features[len(FEATURES) :])
    names = tuple(column.removeprefix(_PREFIX) for column in others[::COLUMNS_OF_A_NAME])
    if ours != FEATURES or others != column_names(names) or not all(map(is_covariate_name, names)):
        unknown = sorted(set(features) - set(FEATURES))
        raise ValueError(
            f"features unknown here: {', '.join(unknown[:5])}" if unknown else "the features are not in our order"
        )
    if len(set(names)) < len(names) or len(names) > MAX_NAMES:
        raise ValueError(f"{len(names)} covariates: expected each once, and at most {MAX_NAMES}")
    return names


def schema_hash_of(names: Sequence[str]) -> str:
    """The hash of the features and these covariates' columns: that of the features where there are none."""
    if not names:
        return SCHEMA_HASH
    text = f"{SCHEMA_HASH}:{SEMANTICS}:{','.join(column_names(names))}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_columns(x: Columns, columns: Columns) -> Columns:
    """Return features [N·L, F] with covariate columns [N, L, C], or [L, C] for all rows alike, behind them."""
    width = columns.shape[-1]
    if not width:
        return x
    rows = columns.reshape(-1, width)
    repeated = np.tile(rows, (len(x) // len(rows), 1)) if columns.ndim == 2 else rows
    return np.concatenate([x, repeated], axis=1)


def _instant_us(key: str, value: object) -> int:
    try:
        return parse_instant_us(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _step_us(said: Covariate) -> int:
    if said.step_s is not None and said.step is not None:
        raise ValueError("step and step_s are both given")
    if said.step is not None:
        return duration_us(parse_duration(said.step))
    step_s = 3600.0 if said.step_s is None else said.step_s
    return round(min(max(step_s, 0.0), 1e9) * SECOND_US)
