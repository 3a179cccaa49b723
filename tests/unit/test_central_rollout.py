"""The rollout's state machine: which site is told what, and in which order."""

from __future__ import annotations

import pytest

from central.rollout import (
    Approved,
    CandidateAccepted,
    ClearArtifact,
    Promoted,
    PublishArtifact,
    PublishDesired,
    Refresh,
    Refused,
    ReportArrived,
    Rollout,
    RolloutState,
    SetAliases,
    SiteSeen,
    Swapped,
)
from shared.manifest import Golden, Manifest
from shared.messages import Desired, Refusal, Reported, Running


def manifest(version: int) -> Manifest:
    return Manifest(
        name="metercast-fleet", version=version, sha256=f"{version:064x}", size=10, compressed_size=9, chunks=version,
        created="2013-03-04T00:00:00Z", expires="2013-06-04T00:00:00Z", features=["lag_24h"], schema_hash="h",
        step_s=3600, horizon_steps=48, quantiles=[0.5], golden=Golden(inputs=[[None]], outputs=[[1.0]]),
        reason="first", run_id="r", record_version=1,
    )  # fmt: skip


def rollout(*, approval: str = "auto") -> Rollout:
    assert approval in ("auto", "manual")
    return Rollout(RolloutState(), approval="auto" if approval == "auto" else "manual")


def report(version: int, *refused: Refusal) -> Reported:
    since = "2013-03-04T00:00:00Z"
    running = Running(name="metercast-fleet", version=version, sha256=f"{version:064x}", since=since)
    return Reported(champion=running, refused=list(refused))


def test_the_artifact_is_on_the_wire_before_any_site_is_told() -> None:
    machine = rollout()
    machine.handle(SiteSeen("a"))
    effects = machine.handle(CandidateAccepted(manifest(1)))
    assert effects == [
        PublishArtifact(f"{1:064x}"),
        PublishDesired("a", Desired(champion=manifest(1))),
        Promoted(1, None),
        SetAliases(1, None),
    ]


def test_the_predecessor_goes_on_in_shadow_and_the_one_before_is_cleared() -> None:
    machine = rollout()
    machine.handle(SiteSeen("a"))
    for version in (1, 2):
        machine.handle(CandidateAccepted(manifest(version)))
    effects = machine.handle(CandidateAccepted(manifest(3)))
    assert PublishDesired("a", Desired(champion=manifest(3), challenger=manifest(2))) in effects
    assert effects[-3:] == [ClearArtifact(f"{1:064x}", 1), Promoted(3, 2), SetAliases(3, 2)]


def test_a_site_that_is_new_is_told_once_what_to_run() -> None:
    machine = rollout()
    machine.handle(CandidateAccepted(manifest(1)))
    assert machine.handle(SiteSeen("b")) == [PublishDesired("b", Desired(champion=manifest(1)))]
    assert machine.handle(SiteSeen("b")) == []


def test_without_a_model_a_new_site_is_told_nothing() -> None:
    assert rollout().handle(SiteSeen("b")) == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_does_not_rise_changes_nothing(version: int) -> None:
    machine = rollout()
    machine.handle(CandidateAccepted(manifest(2)))
    assert machine.handle(CandidateAccepted(manifest(version))) == []


def test_under_manual_approval_a_candidate_waits_for_a_person() -> None:
    machine = rollout(approval="manual")
    machine.handle(SiteSeen("a"))
    assert machine.handle(CandidateAccepted(manifest(1))) == []
    assert machine.handle(CandidateAccepted(manifest(2))) == []
    assert machine.handle(Approved(7)) == []
    assert Promoted(2, None) in machine.handle(Approved(2))
    assert machine.handle(Approved(1)) == []  # older than what runs


def test_a_swap_and_a_refusal_are_noticed_once() -> None:
    machine = rollout()
    refusal = Refusal(sha256="f" * 64, version=2, reason="digest mismatch", at="2013-03-04T00:00:00Z")
    assert machine.handle(ReportArrived("a", report(1))) == [Swapped("a", 1)]
    assert machine.handle(ReportArrived("a", report(1, refusal))) == [Refused("a", refusal)]
    assert machine.handle(ReportArrived("a", report(1, refusal))) == []
    assert machine.handle(ReportArrived("a", report(2, refusal))) == [Swapped("a", 2)]


def test_a_restart_goes_on_from_its_state_and_says_everything_again() -> None:
    machine = rollout()
    machine.handle(SiteSeen("a"))
    for version in (1, 2):
        machine.handle(CandidateAccepted(manifest(version)))
    kept = machine.state.model_dump_json(by_alias=True)
    again = Rollout(RolloutState.model_validate_json(kept), approval="auto")
    assert again.handle(Refresh()) == [
        PublishArtifact(f"{2:064x}"),
        PublishArtifact(f"{1:064x}"),
        PublishDesired("a", Desired(champion=manifest(2), challenger=manifest(1))),
        SetAliases(2, 1),
    ]
    assert again.handle(CandidateAccepted(manifest(2))) == []


def test_what_a_kill_cut_off_after_the_state_was_kept_is_made_up_for() -> None:
    machine = rollout()
    for version in (1, 2, 3):
        machine.handle(CandidateAccepted(manifest(version)))
    kept = machine.state.model_dump_json(by_alias=True)
    again = Rollout(RolloutState.model_validate_json(kept), approval="auto").handle(Refresh())
    assert again[-2:] == [ClearArtifact(f"{1:064x}", 1), SetAliases(3, 2)]


def test_an_artifact_that_is_wanted_again_is_not_cleared() -> None:
    machine = rollout()
    same = manifest(3).model_copy(update={"sha256": manifest(1).sha256})
    for made in (manifest(1), manifest(2), same):
        effects = machine.handle(CandidateAccepted(made))
    assert not any(isinstance(effect, ClearArtifact) for effect in [*effects, *machine.handle(Refresh())])


def test_a_mere_reconnect_does_not_trouble_the_registry() -> None:
    machine = rollout()
    machine.handle(CandidateAccepted(manifest(1)))
    assert machine.handle(Refresh(registry=False)) == [PublishArtifact(f"{1:064x}")]
