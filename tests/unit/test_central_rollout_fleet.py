"""Fifty sites, some away for days, one broken, and a central that is killed again and again; a seed names a world."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from central.rollout_events import Refresh, SiteSeen, SteppedBack
from central.rollout_state import Comparison
from shared.messages import Desired
from shared.refusals import Cause
from tests.unit.rollout_desk import Desk, of_kind, refusal

SITES = 50
DAYS = 24
CANDIDATE_EVERY_H = 72


@dataclass(slots=True)
class Edge:
    """An edge that follows what is retained for it while it is there, in the order of versions it must keep."""

    away_until_h: int = 0
    broken: bool = False  # refuses every model but the first
    highest: int = 0
    runs: int | None = None
    told: Desired | None = None
    served: Counter[int | None] = field(default_factory=Counter)


class Fleet:
    """A desk, its edges, and what is true of the versions: version 3 forecasts badly, 5 is refused everywhere."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.desk = Desk()
        self.edges = {f"s{number}": Edge() for number in range(SITES)}
        self.edges[f"s{self.chance.randrange(SITES)}"].broken = True
        self.touched: dict[int, set[str]] = {}

    def hour(self, hour: int) -> None:
        if hour % CANDIDATE_EVERY_H == 0:
            self.desk.offer(1 + hour // CANDIDATE_EVERY_H)
        for site, edge in self.edges.items():
            if self.chance.random() < 0.002:
                edge.away_until_h = hour + self.chance.randrange(12, 100)
            if hour >= edge.away_until_h:
                self._meet(site, edge)
            edge.served[edge.runs] += 1
        if self.chance.random() < 0.05:
            before = self.desk.wire.desired.copy()
            self.desk.restart()
            self.desk.tell(Refresh())
            assert self.desk.wire.desired == before
        self._score()
        self.desk.wait(1)

    def _meet(self, site: str, edge: Edge) -> None:
        self.desk.tell(SiteSeen(site))
        told = self.desk.wire.desired.get(site)
        if told is None or told == edge.told:
            return
        edge.told = told
        if told.champion is None:
            edge.runs = None
            self.desk.report(site, None)
            return
        version, back = told.champion.version, told.champion.step_back_from
        self.touched.setdefault(version, set()).add(site)
        assert version >= edge.highest or (back is not None and back >= edge.highest), f"{site}: {version} is a replay"
        if version == 5 or (edge.broken and version > 1 and edge.runs != version):
            self.desk.report(site, edge.runs, refusal(version, Cause.TOO_SLOW))
            return
        edge.highest, edge.runs = max(edge.highest, version), version
        self.desk.report(site, version)

    def _score(self) -> None:
        """Sites that run the version on its way send four scores an hour."""
        rolling = self.desk.state.rolling
        if rolling is None:
            return
        version, before = rolling.manifest.version, self.desk.live
        pairs = 4 * sum(edge.runs == version for edge in self.edges.values())
        pairs += before.pairs if before.version == version else 0
        ratio = 1.3 if version == 3 else 0.95
        self.desk.live = Comparison(version=version, ratio=ratio if pairs else None, pairs=pairs, meters=1)


@pytest.mark.parametrize("seed", range(6))
def test_good_versions_reach_every_site_and_bad_ones_only_their_canaries(seed: int) -> None:
    fleet = Fleet(seed)
    for hour in range(24 * DAYS):
        fleet.hour(hour)
    state = fleet.desk.state
    ends = {ended.version: ended.state for ended in state.ended}
    assert ends[3] == ends[5] == "stepped back"
    assert len(fleet.touched.get(3, ())) <= SITES // 10
    assert len(fleet.touched.get(5, ())) <= SITES // 10
    backs = [back.version for back in of_kind(SteppedBack, fleet.desk.effects)]
    assert {3, 5} <= set(backs)
    assert set(backs) <= {3, 5, *_with_a_broken_canary(fleet)}, "a good version is only lost to a broken canary site"
    for edge in fleet.edges.values():
        edge.away_until_h = 0  # everybody comes back
    for hour in range(24 * DAYS, 24 * (DAYS + 4)):
        if hour % CANDIDATE_EVERY_H:
            fleet.hour(hour)
    assert state.champion is not None
    assert state.champion.version >= 6
    late = [site for site, edge in fleet.edges.items() if not edge.broken and edge.runs not in _allowed(fleet, site)]
    assert late == []


def _allowed(fleet: Fleet, site: str) -> set[int | None]:
    """What a site may run: what it is told, or, while that is version 5, what it ran before."""
    told = fleet.desk.serving()[site]
    return {told, fleet.edges[site].runs} if told == 5 else {told}


def _with_a_broken_canary(fleet: Fleet) -> set[int]:
    broken = {site for site, edge in fleet.edges.items() if edge.broken}
    return {version for version, sites in fleet.touched.items() if sites & broken}
