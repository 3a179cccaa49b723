"""The rollout's state machine: which site is told what, when, and what makes it go on, wait or step back."""

from __future__ import annotations

import json

import pytest

from central.rollout_events import (
    ClearArtifact,
    HeldUp,
    KeysSeen,
    OrderFollowed,
    OrderRefused,
    Passed,
    Promoted,
    PublishArtifact,
    PublishDesired,
    Refresh,
    Refused,
    SetAliases,
    SiteSeen,
    StageBegun,
    SteppedBack,
    Superseded,
    Swapped,
)
from central.rollout_state import Comparison, RolloutState
from central.stages import BLOCKING, canaries
from shared.messages import Desired
from shared.params import RolloutParams
from shared.refusals import UNVOUCHED, Cause
from tests.unit.rollout_desk import PARAMS, Desk, manifest, of_kind, refusal, report

VERDICTS = sorted(set(Cause) - BLOCKING)


def with_params(**changes: object) -> RolloutParams:
    return RolloutParams.model_validate(PARAMS.model_dump() | changes)


# -- the way of a version ---------------------------------------------------------------------------------------------


def test_the_first_model_goes_to_the_whole_fleet_at_once_its_artifact_before_any_site_is_told() -> None:
    desk = Desk(sites=1)
    assert desk.offer(1) == [
        PublishArtifact(f"{1:064x}"),
        PublishDesired("s0", Desired(champion=manifest(1))),
        Promoted(1, None),
        SetAliases(1, None, None),
    ]


def test_a_later_model_goes_to_the_canary_sites_first_with_its_predecessor_in_the_shadow() -> None:
    desk = Desk(sites=20)
    desk.settle(1)
    begun = of_kind(StageBegun, desk.offer(2))
    assert [(stage.stage, len(stage.sites)) for stage in begun] == [("canary", 2)]
    assert desk.told(2) == set(begun[0].sites)
    for site in begun[0].sites:
        assert desk.wire.desired[site] == Desired(champion=manifest(2), challenger=manifest(1))
    assert len(desk.told(1)) == 18


def test_it_goes_on_stage_by_stage_and_settles() -> None:
    desk = Desk(sites=20)
    desk.settle(1)
    desk.offer(2)
    canary = desk.told(2)
    desk.obey()
    desk.score(1.0)
    assert of_kind(StageBegun, desk.wait(23)) == []
    assert of_kind(StageBegun, desk.wait(1)) != []
    assert len(desk.told(2)) == 10
    assert canary < desk.told(2), "who has it keeps it"
    desk.obey()
    assert Promoted(2, 1) in desk.wait(12)
    assert len(desk.told(2)) == 20
    assert desk.wire.desired["s0"] == Desired(champion=manifest(2), challenger=manifest(1))
    assert Passed(2) in desk.wait(12)
    assert desk.state.rolling is None


def test_with_one_site_the_canary_is_the_fleet() -> None:
    desk = Desk(sites=1)
    desk.settle(1)
    desk.offer(2)
    assert desk.told(2) == {"s0"}
    assert desk.state.everywhere == manifest(2)
    desk.obey()
    desk.score(1.0)
    effects = desk.wait(24)
    assert of_kind(StageBegun, effects) == [], "a stage that reaches nobody new is passed over"
    assert Promoted(2, 1) in effects


def test_a_site_that_appears_joins_with_what_the_fleet_runs() -> None:
    desk = Desk(sites=3)
    desk.settle(1)
    desk.offer(2)
    assert desk.tell(SiteSeen("new")) == [PublishDesired("new", Desired(champion=manifest(1)))]
    assert desk.tell(SiteSeen("new")) == []


def test_without_a_model_a_new_site_is_told_nothing() -> None:
    assert Desk().tell(SiteSeen("b")) == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_does_not_rise_changes_nothing(version: int) -> None:
    desk = Desk()
    desk.offer(2)
    assert desk.offer(version) == []


def test_named_canary_sites_get_it_also_when_they_are_seen_later() -> None:
    desk = Desk(sites=5, params=with_params(canary=["s3", "late"]))
    desk.settle(1)
    desk.offer(2)
    assert desk.told(2) == {"s3"}
    assert PublishDesired("late", Desired(champion=manifest(2), challenger=manifest(1))) in desk.tell(SiteSeen("late"))


def test_a_rollout_whose_named_canary_sites_were_never_seen_waits_and_says_so() -> None:
    desk = Desk(sites=3, params=with_params(canary=["nobody"]))
    desk.offer(1)
    desk.obey()
    desk.score(1.0)
    desk.wait(24)
    desk.offer(2)
    assert HeldUp(2, "no site of rollout.canary was seen yet") in desk.wait(30)
    assert desk.told(1) == {"s0", "s1", "s2"}


def test_canaries_are_drawn_anew_for_each_version_from_sites_seen_lately() -> None:
    desk = Desk(sites=40)
    desk.wait(72)
    there = [f"s{number}" for number in range(0, 40, 2)]
    for site in there:
        desk.tell(SiteSeen(site))
    drawn = [canaries(version, desk.state.sites, PARAMS, desk.now_us) for version in range(1, 61)]
    assert all(len(sites) == 4 and set(sites) <= set(there) for sites in drawn)
    assert len(set(drawn)) > 20
    assert set().union(*drawn) == set(there)
    assert canaries(1, dict(reversed(desk.state.sites.items())), PARAMS, desk.now_us) == drawn[0]


# -- gates ------------------------------------------------------------------------------------------------------------


def under_way(sites: int = 20, **changes: object) -> Desk:
    """Version 1 with the fleet, version 2 with its canary sites."""
    desk = Desk(sites=sites, params=with_params(**changes))
    desk.settle(1)
    desk.effects.clear()
    desk.offer(2)
    return desk


def test_the_next_stage_waits_until_enough_sites_run_it() -> None:
    desk = under_way(canary=["s0", "s1", "s2"])
    desk.obey("s0")
    desk.score(1.0)
    assert HeldUp(2, "1 of 3 sites run it, 2 have not answered") in desk.wait(24)
    assert of_kind(HeldUp, desk.wait(10)) == [], "it is told once"
    desk.obey("s1")
    assert of_kind(StageBegun, desk.wait(1)) != []


def test_the_next_stage_waits_for_live_scores_enough_for_a_verdict() -> None:
    desk = under_way()
    desk.obey()
    desk.score(1.0, pairs=20)
    assert HeldUp(2, "20 live scores of 48 that a verdict needs") in desk.wait(24)
    desk.score(1.0, pairs=48)
    assert of_kind(StageBegun, desk.wait(1)) != []


@pytest.mark.parametrize("reason", sorted(BLOCKING))
def test_what_is_not_the_models_fault_holds_it_up_and_does_not_condemn_it(reason: str) -> None:
    desk = under_way(canary=["s0", "s1"])
    desk.obey("s0")
    desk.report("s1", 1, refusal(2, reason))
    desk.score(1.0)
    assert HeldUp(2, f"1 of 2 sites cannot take it: {reason} (1)") in desk.wait(24)
    assert of_kind(SteppedBack, desk.effects) == []
    desk.obey("s1")  # its keys or its clock were mended
    assert of_kind(StageBegun, desk.wait(1)) != []


def test_a_damaged_chunk_has_the_artifact_published_again() -> None:
    desk = under_way()
    site = min(desk.told(2))
    assert PublishArtifact(f"{2:064x}") in desk.report(site, 1, refusal(2, Cause.BAD_CHUNK))
    assert of_kind(PublishArtifact, desk.report(site, 1, refusal(2, Cause.BAD_CHUNK))) == []
    later = refusal(2, Cause.BAD_CHUNK, at="2013-03-05T00:00:00Z")
    assert PublishArtifact(f"{2:064x}") in desk.report(site, 1, later)


# -- stepping back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [*VERDICTS, "a_word_of_a_newer_edge"])
def test_sites_that_refuse_it_bring_all_its_sites_back_at_once_without_a_person(reason: str) -> None:
    desk = under_way()
    first, second = sorted(desk.told(2))
    desk.obey(second)
    effects = desk.report(first, 1, refusal(2, reason))
    back = manifest(1).model_copy(update={"step_back_from": 2})
    for site in (first, second):
        assert PublishDesired(site, Desired(champion=back)) in effects
    assert len(of_kind(PublishDesired, effects)) == 2, "nobody else was told it"
    assert of_kind(SteppedBack, effects) == [SteppedBack(2, 1, f"1 of 2 sites refuse it: {reason} (1)")]
    assert effects[-1] == SetAliases(1, None, None)
    assert ClearArtifact(f"{2:064x}", 2) in effects
    assert desk.state.ended[-1].state == "stepped back"


def test_a_few_refusals_among_many_sites_are_borne_while_others_may_still_take_it() -> None:
    desk = under_way(sites=40, canary=[f"s{number}" for number in range(20)])
    desk.report("s0", 1, refusal(2))
    desk.report("s1", 1, refusal(2))
    assert of_kind(SteppedBack, desk.effects) == []
    assert of_kind(SteppedBack, desk.report("s2", 1, refusal(2))) != []


def test_when_its_time_is_over_only_those_that_answered_count() -> None:
    desk = under_way(sites=40, canary=[f"s{number}" for number in range(20)])
    desk.obey("s1", "s2", "s3")
    desk.report("s0", 1, refusal(2))
    assert of_kind(SteppedBack, desk.wait(23)) == []
    assert of_kind(SteppedBack, desk.wait(1)) == [SteppedBack(2, 1, "1 of 4 sites refuse it: golden_rows (1)")]


def test_live_scores_worse_than_the_predecessors_bring_it_back_within_the_canary_time() -> None:
    desk = under_way()
    desk.obey()
    desk.score(1.4, pairs=47)
    assert of_kind(SteppedBack, desk.wait(3)) == []
    desk.score(1.4, pairs=48)
    reason = "its live error is 1.40 of its predecessor's over 48 scores"
    assert of_kind(SteppedBack, desk.wait(1)) == [SteppedBack(2, 1, reason)]
    assert desk.state.ended[-1].live.ratio == 1.4


def test_a_first_model_worse_than_seasonal_naive_is_taken_away() -> None:
    desk = Desk(sites=1)
    desk.offer(1)
    desk.live = Comparison(version=1, ratio=1.5, pairs=60, meters=1, against="naive")
    effects = desk.wait(1)
    (told,) = of_kind(PublishDesired, effects)
    assert told.desired.champion is not None
    assert (told.desired.champion.version, told.desired.champion.withdrawn) == (1, True)
    assert of_kind(PublishDesired, desk.tell(Refresh())) == [told]
    assert SteppedBack(1, None, "its live error is 1.50 of seasonal naive's over 60 scores") in effects
    assert effects[-1] == SetAliases(None, None, None)
    assert Promoted(2, None) in desk.offer(2)


def test_with_the_fleet_it_is_still_watched_and_taken_back() -> None:
    desk = under_way()
    desk.obey()
    desk.score(1.0)
    desk.wait(24)
    desk.obey()
    desk.wait(12)
    assert desk.state.champion == manifest(2)
    desk.score(1.2)
    desk.wait(1)
    assert desk.told(1) == {f"s{number}" for number in range(20)}
    assert all(d.champion and d.champion.step_back_from == 2 for d in desk.wire.desired.values())


def test_what_no_site_can_take_has_not_passed_and_is_watched_from_when_one_does() -> None:
    desk = Desk(sites=2)
    desk.offer(1)
    for site in ("s0", "s1"):
        desk.report(site, None, refusal(1, Cause.NO_TRUSTED_KEYS))
    assert HeldUp(1, "none of 2 sites runs it: no_trusted_keys (2)") in desk.wait(60)
    assert of_kind(Passed, desk.effects) == []
    desk.obey("s0")
    assert of_kind(Passed, desk.wait(20)) == []
    desk.score(1.3)
    assert of_kind(SteppedBack, desk.wait(1)) != []


def test_what_no_site_can_take_makes_room_for_a_newer_version() -> None:
    desk = Desk(sites=2)
    desk.offer(1)
    for site in ("s0", "s1"):
        desk.report(site, None, refusal(1, Cause.NO_TRUSTED_KEYS))
    desk.offer(2)
    assert of_kind(Superseded, desk.wait(60)) == [Superseded(1, 2)]
    assert desk.told(2)


def test_scores_of_another_version_say_nothing_of_this_one() -> None:
    desk = under_way()
    desk.score(3.0)
    desk.order("stop")
    desk.order("resume")
    desk.offer(3)
    assert of_kind(SteppedBack, desk.wait(5)) == []


def test_a_refusal_of_an_old_version_says_nothing_of_this_one() -> None:
    desk = under_way()
    for site in sorted(desk.told(2)):
        desk.report(site, 2, refusal(1))
    desk.score(1.0)
    assert of_kind(SteppedBack, desk.wait(23)) == []
    assert of_kind(StageBegun, desk.wait(1)) != []


@pytest.mark.parametrize("forged", sorted(UNVOUCHED))
def test_a_claim_that_anyone_can_forge_does_not_hide_what_a_site_found_out(forged: Cause) -> None:
    desk = under_way(canary=["s0"])
    told = desk.report("s0", 1, refusal(2, Cause.GOLDEN_ROWS), refusal(2, forged, at="2013-03-04T01:00:00Z"))
    assert [back.reason for back in of_kind(SteppedBack, told)] == ["1 of 1 sites refuse it: golden_rows (1)"]


def test_what_was_stepped_back_from_is_not_rolled_out_again_and_the_next_version_is() -> None:
    desk = under_way()
    desk.report(min(desk.told(2)), 1, refusal(2))
    assert desk.offer(2) == []
    assert of_kind(StageBegun, desk.offer(3)) != []
    assert all(told.champion and told.champion.step_back_from is None for told in desk_told(desk, 3))


def desk_told(desk: Desk, version: int) -> list[Desired]:
    return [desk.wire.desired[site] for site in desk.told(version)]


# -- one at a time ----------------------------------------------------------------------------------------------------


def test_a_newer_candidate_waits_for_the_one_on_its_way_and_only_the_newest_waits() -> None:
    desk = under_way()
    assert of_kind(PublishDesired, desk.offer(3)) == []
    assert Superseded(3, 4) in desk.offer(4)
    desk.obey()
    desk.score(1.0)
    desk.wait(24)
    desk.obey()
    begun = of_kind(StageBegun, desk.wait(24))
    assert [(stage.version, stage.stage) for stage in begun] == [(4, "canary")]
    assert desk.state.champion == manifest(2)


def test_it_takes_the_place_of_one_that_was_stepped_back() -> None:
    desk = under_way()
    desk.offer(3)
    effects = desk.report(min(desk.told(2)), 1, refusal(2))
    assert [stage.version for stage in of_kind(StageBegun, effects)] == [3]


def test_it_takes_the_place_of_one_that_is_stuck() -> None:
    desk = under_way()
    stuck = desk.told(2)
    desk.offer(3)
    assert of_kind(Superseded, desk.wait(47)) == []
    assert of_kind(Superseded, desk.wait(1)) == [Superseded(2, 3)]
    assert desk.told(2) == set()
    for site in stuck - desk.told(3):
        assert desk.wire.desired[site].champion == manifest(1).model_copy(update={"step_back_from": 2})


# -- a person's orders ------------------------------------------------------------------------------------------------


def test_under_manual_approval_a_candidate_waits_for_a_person() -> None:
    desk = Desk(sites=1, params=with_params(approval="manual"))
    assert desk.offer(1) == [SetAliases(None, None, 1)]
    desk.offer(2, 3)
    refused = desk.order("approve", 7)
    assert refused == [OrderRefused("approve", 7, "version 7 does not wait for approval; waiting: 1, 2, 3")]
    assert Promoted(2, None) in desk.order("approve", 2)
    assert of_kind(OrderRefused, desk.order("approve", 1)) != [], "older than what runs"
    assert desk.order("reject", 3) == [OrderFollowed("reject", 3), SetAliases(2, None, None)]
    assert [(ended.version, ended.state) for ended in desk.state.ended] == [(1, "superseded"), (3, "rejected")]


def test_a_person_who_is_away_finds_the_newest_candidates_and_no_state_without_bounds() -> None:
    desk = Desk(sites=1, params=with_params(approval="manual"))
    desk.offer(*range(1, 15))
    assert [known.version for known in desk.state.waiting] == list(range(5, 15))
    assert of_kind(Superseded, desk.effects)[-1] == Superseded(4, 14)
    assert [ended.version for ended in desk.state.ended] == [1, 2, 3, 4]


def test_promote_lets_it_go_to_the_fleet_whatever_the_gates_say() -> None:
    desk = under_way()
    assert Promoted(2, 1) in desk.order("promote", 2)
    assert len(desk.told(2)) == 20


def test_promote_of_what_waits_ends_the_one_on_its_way() -> None:
    desk = under_way()
    desk.offer(3)
    effects = desk.order("promote", 3)
    assert Superseded(2, 3) in effects
    assert len(desk.told(3)) == 20
    assert desk.state.challenger == manifest(1)


def test_a_paused_rollout_stays_where_it_is_and_is_still_taken_back() -> None:
    desk = under_way()
    desk.obey()
    desk.score(1.0)
    desk.order("pause")
    assert of_kind(StageBegun, desk.wait(100)) == []
    assert desk.order("pause") == [OrderRefused("pause", None, "the rollout is paused already")]
    desk.order("resume")
    assert of_kind(StageBegun, desk.wait(1)) != []
    desk.order("pause")
    desk.score(2.0)
    assert of_kind(SteppedBack, desk.wait(1)) != []


def test_stop_takes_it_back_now_and_holds_everything_until_resume() -> None:
    desk = under_way()
    desk.offer(3)
    assert SteppedBack(2, 1, "a person stopped it") in desk.order("stop")
    assert desk.state.ended[-1].state == "stopped"
    assert of_kind(StageBegun, desk.wait(100)) == []
    assert len(desk.told(1)) == 20
    assert [stage.version for stage in of_kind(StageBegun, desk.order("resume"))] == [3]


def test_rollback_takes_back_what_is_on_its_way_or_else_the_fleets() -> None:
    desk = under_way()
    desk.order("rollback", 2)
    assert len(desk.told(1)) == 20
    desk.settle(3)
    desk.order("rollback", 3)
    assert len(desk.told(1)) == 20
    nothing = "what was served before version 1 is not known; say which with --to VERSION"
    assert desk.order("rollback", 1) == [OrderRefused("rollback", 1, nothing)]


def test_rollback_to_a_version_puts_its_artifact_back_on_the_wire_first() -> None:
    desk = Desk(sites=3)
    for version in (1, 2, 3):
        desk.settle(version)
    assert f"{1:064x}" not in desk.wire.artifacts
    effects = desk.order("rollback", 3, target=1)
    assert effects[0] == PublishArtifact(f"{1:064x}")
    assert SteppedBack(3, 1, "a person rolled back to version 1") in effects
    assert all(d == Desired(champion=manifest(1).model_copy(update={"step_back_from": 3})) for d in desk_told(desk, 1))


def test_a_rollback_that_went_too_far_is_taken_back_but_not_to_what_no_site_was_told() -> None:
    desk = under_way()
    desk.settle(2)
    desk.order("rollback", 2, target=1)
    assert len(desk.told(1)) == 20
    assert desk.order("rollback", 1, target=1) == [OrderRefused("rollback", 1, "version 1 is what is rolled out")]
    unknown = "version 3 is not older than 2, the newest that was rolled out"
    assert desk.order("rollback", 1, target=3) == [OrderRefused("rollback", 1, unknown)]
    desk.settle(3)
    desk.order("rollback", 3, target=1)
    desk.order("rollback", 1, target=2)
    assert len(desk.told(2)) == 20  # as a step back from 3: the desk's wire has seen to it
    desk.settle(4)
    assert len(desk.told(4)) == 20


def test_a_rollback_that_is_read_twice_is_followed_once() -> None:
    desk = Desk(sites=1)
    for version in (1, 2):
        desk.settle(version)
    desk.order("rollback", 2)
    again = "version 2 is not the newest that is rolled out; that is 1"
    assert desk.order("rollback", 2) == [OrderRefused("rollback", 2, again)]


def test_without_a_private_key_nothing_begins_until_there_is_one() -> None:
    desk = Desk(sites=1)
    desk.tell(KeysSeen(False))
    assert desk.offer(1) == [SetAliases(None, None, 1)]
    assert of_kind(OrderRefused, desk.order("promote", 1)) != []
    assert Promoted(1, None) in desk.tell(KeysSeen(True))


# -- reports, refreshes and restarts ----------------------------------------------------------------------------------


def test_a_swap_and_a_refusal_are_noticed_once() -> None:
    desk = Desk()
    refused = refusal(2)
    assert desk.report("a", 1) == [Swapped("a", 1)]
    assert desk.report("a", 1, refused) == [Refused("a", refused)]
    assert desk.report("a", 1, refused) == []
    assert desk.report("a", 2, refused) == [Swapped("a", 2)]


def test_a_restart_goes_on_from_its_state_and_says_everything_again() -> None:
    desk = under_way(sites=2)
    desk.restart()
    assert desk.tell(Refresh())[:2] == [PublishArtifact(f"{2:064x}"), PublishArtifact(f"{1:064x}")]
    assert desk.effects[-1] == SetAliases(1, 2, None)
    assert desk.offer(2) == []
    desk.obey()
    desk.score(1.0)
    assert of_kind(StageBegun, desk.wait(24)) != [] or Promoted(2, 1) in desk.effects


def test_what_a_kill_cut_off_after_the_state_was_kept_is_made_up_for() -> None:
    desk = Desk(sites=1)
    for version in (1, 2, 3):
        desk.settle(version)
    desk.restart()
    assert desk.tell(Refresh())[-2:] == [ClearArtifact(f"{1:064x}", 1), SetAliases(3, 2, None)]


def test_an_artifact_that_is_wanted_again_is_not_cleared() -> None:
    desk = Desk(sites=1)
    for version in (1, 2, 3):
        desk.settle(version)
    desk.order("rollback", 3, target=1)
    assert ClearArtifact(f"{1:064x}", 1) not in desk.tell(Refresh())


def test_a_mere_reconnect_does_not_trouble_the_registry() -> None:
    desk = Desk()
    desk.offer(1)
    assert desk.tell(Refresh(registry=False)) == [PublishArtifact(f"{1:064x}")]


def test_the_state_of_the_version_before_is_understood() -> None:
    old = {
        "schema": 1,
        "champion": manifest(2).model_dump(mode="json", by_alias=True),
        "challenger": manifest(1).model_dump(mode="json", by_alias=True),
        "dropped": manifest(7).model_dump(mode="json", by_alias=True),
        "waiting": [manifest(3).model_dump(mode="json", by_alias=True)],
        "sites": {"a": report(2).model_dump(mode="json", by_alias=True), "b": None},
    }
    desk = Desk(state=RolloutState.model_validate_json(json.dumps(old)))
    assert (desk.state.champion, desk.state.challenger) == (manifest(2), manifest(1))
    desk.tell(Refresh())
    desk.effects.clear()
    assert desk.order("approve", 3) != []
    told = [effect.site for effect in of_kind(PublishDesired, desk.effects)]
    assert len(told) == 1, "a canary site of the two"
    assert {site: kept.highest for site, kept in desk.state.sites.items()} == {"a": 2, "b": 2} | {told[0]: 3}
    assert desk.state.dropped[0].chunks == 7
    assert RolloutState.model_validate_json(desk.state.model_dump_json(by_alias=True)) == desk.state


def test_a_report_cannot_make_central_sign_a_step_back_from_what_it_never_sent() -> None:
    desk = Desk(sites=1)
    desk.settle(1)
    desk.report("s0", 1_000_000)
    assert desk.tell(Refresh(registry=False))[-1] == PublishDesired("s0", Desired(champion=manifest(1)))
