"""Whatever happens to a rollout, in whatever order: what no site is ever told, and what is always on the wire.

That no champion sinks unless it is signed as a step back is checked with every message (`rollout_desk.Wire`).
"""

from __future__ import annotations

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from central.rollout_events import CandidateAccepted, KeysSeen, Ordered, Refresh, SiteSeen, Verb
from central.rollout_state import Comparison
from shared.params import RolloutParams
from shared.refusals import Cause
from tests.unit.rollout_desk import Desk, manifest, refusal

SITES = [f"s{number}" for number in range(7)]
VERBS: list[Verb] = ["approve", "reject", "promote", "pause", "resume", "stop", "rollback"]


class AnyRollout(RuleBasedStateMachine):
    """Candidates, orders, sites, reports, scores, time, restarts and lost keys, in any order."""

    @initialize(
        approval=st.sampled_from(["auto", "manual"]),
        stages=st.sampled_from([(), (0.5,), (0.2, 0.6), (1.0,)]),
        canary=st.sampled_from([(), ("s1",), ("s1", "elsewhere")]),
        sites=st.integers(0, len(SITES)),
    )
    def begin(self, approval: str, stages: tuple[float, ...], canary: tuple[str, ...], sites: int) -> None:
        settings_ = {"approval": approval, "stages": stages, "canary": canary, "stage_time": timedelta(hours=6)}
        self.desk = Desk(sites, RolloutParams.model_validate(settings_))
        self.version = 0
        self.accepted: list[int] = []
        self.ran: dict[str, int] = {}  # the newest version each edge ever accepted, as an edge remembers it

    @rule(gap=st.integers(1, 2))
    def a_candidate_is_accepted(self, gap: int) -> None:
        self.version += gap
        self.accepted.append(self.version)
        self.desk.tell(CandidateAccepted(manifest(self.version)))

    @rule(site=st.sampled_from(SITES))
    def a_site_is_seen(self, site: str) -> None:
        self.desk.tell(SiteSeen(site))

    @rule(site=st.sampled_from(SITES))
    def a_site_does_as_it_is_told_if_its_own_order_of_versions_allows(self, site: str) -> None:
        told = self.desk.wire.desired.get(site)
        if told is None or told.champion is None:
            return
        highest, champion = self.ran.get(site, 0), told.champion
        back = champion.step_back_from is not None and champion.step_back_from >= highest
        assert champion.version >= highest or back, f"{site} ran {highest} and could not follow {champion.version}"
        self.ran[site] = max(highest, champion.version)
        self.desk.report(site, champion.version)

    @rule(site=st.sampled_from(SITES), reason=st.sampled_from([*Cause, "new_word"]), old=st.booleans())
    def a_site_refuses_what_it_is_told(self, site: str, reason: str, old: bool) -> None:
        told = self.desk.wire.desired.get(site)
        version = 1 if told is None or told.champion is None or old else told.champion.version
        self.desk.report(site, None, refusal(version, reason))

    @rule(ratio=st.sampled_from([0.8, 1.0, 1.05, 1.5]), pairs=st.sampled_from([10, 60]))
    def scores_come(self, ratio: float, pairs: int) -> None:
        rolling = self.desk.state.rolling
        if rolling is not None:
            self.desk.live = Comparison(version=rolling.manifest.version, ratio=ratio, pairs=pairs, meters=2)

    @rule(hours=st.sampled_from([1, 6, 30]))
    def time_passes(self, hours: int) -> None:
        self.desk.wait(hours)

    @rule(verb=st.sampled_from(VERBS), version=st.integers(1, 12), to=st.integers(0, 12))
    def a_person_orders(self, verb: Verb, version: int, to: int) -> None:
        target = manifest(to) if verb == "rollback" and to in self.accepted else None
        self.desk.tell(Ordered(verb, None if verb == "rollback" else version, target))

    @rule(there=st.booleans())
    def keys_come_or_go(self, there: bool) -> None:
        self.desk.tell(KeysSeen(there))

    @rule(registry=st.booleans())
    def central_is_killed_and_says_everything_again(self, registry: bool) -> None:
        before = self.desk.wire.desired.copy()
        self.desk.restart()
        self.desk.tell(Refresh(registry=registry))
        assert self.desk.wire.desired == before, "a restart tells nobody anything else"

    @invariant()
    def what_is_on_the_wire_is_what_is_wanted(self) -> None:
        if hasattr(self, "desk"):
            assert self.desk.wire.named() <= self.desk.wire.artifacts == set(self.desk.state.wanted())

    @invariant()
    def every_site_is_told_the_fleets_champion_or_the_one_on_its_way(self) -> None:
        if not hasattr(self, "desk"):
            return
        state = self.desk.state
        rolling = state.rolling.manifest if state.rolling is not None else None
        allowed = {m.version if m is not None else None for m in (state.champion, rolling)}
        assert set(self.desk.serving().values()) <= allowed
        assert set(self.desk.wire.desired) <= set(state.sites)

    @invariant()
    def the_one_on_its_way_is_newer_than_the_fleets_and_neither_waits_nor_ended(self) -> None:
        if not hasattr(self, "desk") or self.desk.state.rolling is None:
            return
        state, version = self.desk.state, self.desk.state.rolling.manifest.version
        assert version not in [known.version for known in state.undecided]
        ended = [end for end in state.ended if end.version == version]
        assert ended == [], "what ended is on its way"


TestAnyRollout = AnyRollout.TestCase
TestAnyRollout.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
