"""A site's covariates at the edge: taken in, kept as long as a forecast may need them, looked up at an origin.

Invariants: every message is in exactly one of these: kept, recorded only (what it says has passed), a duplicate, empty
(a retained message was cleared) or refused with a reason; what is kept is bounded, in names and in values; what is
looked up is a function of the set of issues kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge.dialects.native import RefusedItem
from edge.meters import NO_INSTANT
from shared.clock import DAY_US, SECOND_US, iso
from shared.covariates import MAX_NAMES, Columns, Issue, decode_issue
from shared.errors import MessageRefused
from shared.messages import COVARIATE_COLUMNS, columns_of
from shared.outlook import Ints, Outlook, covariate_columns
from shared.packets import Incoming
from shared.topics import SiteTopics

KEPT_US: Final = 10 * DAY_US  # a week is looked back upon from an origin, which may lie two days back in a fast replay
VALUES_KEPT: Final = 131_072  # of a name: an issue an hour of ten days each
SENDERS: Final = "covariates/"  # whose dead letters share one rate: no meter's id

Row = tuple[str, int, int, int, str]  # name, issued_us, start_us, step_us, JSON of unit and values
Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be taken now: no larger message, nothing made later, nothing that had ended before."""

    payload_bytes: int
    issued_us: int
    end_us: int

    @classmethod
    def of(cls, now_us: int, *, payload_bytes: int, max_ahead_us: int, max_age_us: int) -> Bounds:
        """Around now; before a replay's first reading every time is as good as any."""
        if now_us == NO_INSTANT:
            return cls(payload_bytes, -NO_INSTANT, NO_INSTANT)
        return cls(payload_bytes, now_us + max_ahead_us, now_us - max_age_us)


@dataclass(slots=True)
class TakenIssues:
    """What a batch of messages brought: to be kept, to be let go of, to be recorded, and refused (see Letters)."""

    kept: list[Issue] = field(default_factory=list)
    dropped: list[Key] = field(default_factory=list)
    recorded: list[Issue] = field(default_factory=list)
    refused: list[tuple[str, str, RefusedItem]] = field(default_factory=list)
    duplicates: int = 0
    full: bool = False

    def columns(self, received_us: int) -> dict[str, list[Any]]:
        """What is to be recorded, as the uplink's columns."""
        rows = [
            (one.name, one.issued_us, one.start_us, one.step_us / SECOND_US, _told(one), one.unit, received_us)
            for one in self.recorded
        ]
        return columns_of(COVARIATE_COLUMNS, rows)


class SiteCovariates:
    """The issues of one site's covariates, on its grid."""

    def __init__(self, step_us: int) -> None:
        self._step_us = step_us
        self._issues: dict[str, dict[tuple[int, int], Issue]] = {}
        self._outlooks: dict[str, Outlook] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The covariates of which anything is kept."""
        return tuple(sorted(self._issues))

    def take(self, messages: Sequence[Incoming], topics: SiteTopics, bounds: Bounds, now_us: int) -> TakenIssues:
        """Keep what is good and may still be asked for, and let go of what no origin will ask for any more."""
        taken = TakenIssues()
        self._let_go(now_us, taken)
        for message in messages:
            if not message.payload:
                continue
            try:
                issue = self._checked(message, topics, bounds)
            except MessageRefused as reason:
                taken.refused.append((SENDERS, message.topic, RefusedItem(None, message.payload, str(reason))))
                continue
            self._keep(issue, now_us, taken, retained=message.retain)
        return taken

    def columns(self, names: Sequence[str], origin_us: int, leads: Ints) -> Columns:
        """Return float32 [L, 3·names] of what is known at an origin; NaN for what is not."""
        outlooks = {name: self._outlook(name) for name in names if name in self._issues}
        (columns,) = covariate_columns(outlooks, names, np.array([origin_us], dtype=np.int64), leads)
        return np.asarray(columns)

    def rows(self, issues: Iterable[Issue]) -> Iterator[Row]:
        """Issues as the store keeps them."""
        for one in issues:
            yield one.name, *one.key, one.step_us, json.dumps({"unit": one.unit, "values": _told(one)})

    def load(self, rows: Iterable[Row]) -> None:
        """Keep what the store kept; raises ValueError for a row that is no issue."""
        for row in rows:
            issue = issue_from(row)
            self._issues.setdefault(issue.name, {})[issue.key] = issue
        self._outlooks.clear()

    def _checked(self, message: Incoming, topics: SiteTopics, bounds: Bounds) -> Issue:
        topic = message.topic
        if message.size > bounds.payload_bytes:
            limit = f"edge.max_payload_bytes is {bounds.payload_bytes}"
            raise MessageRefused(f"{topic}: payload of {message.size} bytes, {limit}")
        issue = decode_issue(message.payload, topic, topics.covariate_of(topic) or "")
        if issue.issued_us > bounds.issued_us:
            raise MessageRefused(f"{topic}: issued_at {iso(issue.issued_us)} is further ahead than grid.max_ahead")
        if issue.end_us <= bounds.end_us:
            raise MessageRefused(f"{topic}: all of it had passed before grid.max_age, at {iso(issue.end_us)}")
        if issue.name not in self._issues and len(self._issues) >= MAX_NAMES:
            raise MessageRefused(f"{topic}: would be beyond the {MAX_NAMES} covariates of a site")
        return issue

    def _keep(self, issue: Issue, now_us: int, taken: TakenIssues, *, retained: bool) -> None:
        passed = issue.end_us <= now_us - KEPT_US and now_us != NO_INSTANT
        known = self._issues.get(issue.name, {}).get(issue.key)
        # What a broker retains comes at every connect; long passed, it came before and is not known here any more.
        if (known is not None and known.says_as(issue)) or (passed and retained):
            taken.duplicates += 1
            return
        taken.recorded.append(issue)
        if passed:
            return
        issues = self._issues.setdefault(issue.name, {})
        issues[issue.key] = issue
        self._outlooks.pop(issue.name, None)
        taken.kept.append(issue)
        while len(issues) > 1 and sum(len(one.values) for one in issues.values()) > VALUES_KEPT:
            taken.full = True
            self._drop(min(issues.values(), key=lambda one: one.key), taken)

    def _let_go(self, now_us: int, taken: TakenIssues) -> None:
        if now_us == NO_INSTANT:
            return
        passed = [one for own in self._issues.values() for one in own.values() if one.end_us <= now_us - KEPT_US]
        for issue in passed:
            self._drop(issue, taken)

    def _drop(self, issue: Issue, taken: TakenIssues) -> None:
        del self._issues[issue.name][issue.key]
        self._outlooks.pop(issue.name, None)
        if not self._issues[issue.name]:
            del self._issues[issue.name]
        taken.kept = [one for one in taken.kept if (one.name, one.key) != (issue.name, issue.key)]
        taken.dropped.append((issue.name, *issue.key))

    def _outlook(self, name: str) -> Outlook:
        if name not in self._outlooks:
            self._outlooks[name] = Outlook.of(self._issues[name].values(), self._step_us)
        return self._outlooks[name]


def issue_from(row: Row) -> Issue:
    """An issue as `SiteCovariates.rows` wrote it; raises ValueError for another content."""
    name, issued_us, start_us, step_us, text = row
    held = json.loads(text)
    message = {"issued_at": iso(issued_us), "start": iso(start_us), "step_s": step_us / SECOND_US, **held}
    try:
        return decode_issue(json.dumps(message).encode(), "the state database", name)
    except MessageRefused as error:
        raise ValueError(str(error)) from error


def _told(issue: Issue) -> list[float | None]:
    return [None if np.isnan(value) else value for value in issue.values.tolist()]
