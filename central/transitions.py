"""How the rollout's state moves on: pure steps from one state to the next, with what is worth telling of them.

What must be published follows from the two states alone (central/rollout.py); no step can forget it.
"""

from __future__ import annotations

from typing import Final

from central.rollout_events import (
    Effect,
    HeldUp,
    Passed,
    Promoted,
    StageBegun,
    SteppedBack,
    Superseded,
)
from central.rollout_state import Comparison, End, Rolling, RolloutState
from central.stages import canaries, condemned, gate, overdue, stage_name, widened
from shared.manifest import Manifest
from shared.params import RolloutParams

Step = tuple[RolloutState, list[Effect]]

WAITING_KEPT: Final = 10  # for a person who may be away for long while trainings go on
RATIO_STEP: Final = 0.01  # a live comparison that moved less is not kept anew


def on_candidate(state: RolloutState, manifest: Manifest, params: RolloutParams, now_us: int | None) -> Step:
    """A candidate waits for a person, or for its turn; one that is known or too old is left."""
    if manifest.version <= newest_begun(state) or manifest.version in _known(state):
        return state, []
    if params.approval == "manual":
        return _wait(state, manifest, now_us)
    return queue(state, manifest, now_us)


def _wait(state: RolloutState, manifest: Manifest, now_us: int | None) -> Step:
    """Let a version wait for a person; the oldest of too many are given up."""
    waiting, notes = (*state.waiting, manifest), list[Effect]()
    for old in waiting[:-WAITING_KEPT]:
        reason = f"{WAITING_KEPT} newer versions wait for a person"
        state = state.ending(old.version, "superseded", reason, now_us)
        notes.append(Superseded(old.version, manifest.version))
    return state.but(waiting=waiting[-WAITING_KEPT:]), notes


def queue(state: RolloutState, manifest: Manifest, now_us: int | None) -> Step:
    """Approve a version: it is next, and what it overtakes is given up."""
    notes: list[Effect] = []
    for old in (known for known in state.undecided if known.version < manifest.version):
        state = state.ending(old.version, "superseded", f"version {manifest.version} came before its turn", now_us)
        notes.append(Superseded(old.version, manifest.version))
    waiting = tuple(known for known in state.waiting if known.version > manifest.version)
    return state.but(waiting=waiting, queued=manifest), notes


def begin_next(state: RolloutState, params: RolloutParams, now_us: int | None) -> Step:
    """Begin with the version that is next, unless one is on its way or a person said to wait."""
    manifest = state.queued
    if manifest is None or state.rolling is not None or state.paused or state.stopped:
        return state, []
    state = state.but(queued=None)
    if state.champion is None or not state.sites:
        return to_fleet(state, manifest, now_us)
    chosen = canaries(manifest.version, state.sites, params, now_us)
    rolling = Rolling(manifest=manifest, sites=chosen, since_us=now_us)
    return state.but(rolling=rolling), [StageBegun(manifest.version, stage_name(rolling), chosen)]


def to_fleet(state: RolloutState, manifest: Manifest, now_us: int | None) -> Step:
    """Let the whole fleet serve a version, with what it served before in the shadow."""
    live = state.rolling.live if state.rolling is not None else Comparison()
    rolling = Rolling(manifest=manifest, fleet=True, since_us=now_us, live=live)
    predecessor = state.champion.version if state.champion is not None else None
    after = state.but(champion=manifest, challenger=state.champion, rolling=rolling)
    return after, [Promoted(manifest.version, predecessor)]


def on_tick(state: RolloutState, live: Comparison, params: RolloutParams, now_us: int | None) -> Step:
    """Step back, go on, or tell what the next stage waits for."""
    rolling = state.rolling
    if rolling is None or now_us is None:
        return state, []
    live = live if live.version == rolling.manifest.version else rolling.live
    begun_us = now_us if rolling.since_us is None else rolling.since_us
    fresh = state.but(rolling=rolling.but(live=live, since_us=begun_us))
    after, notes = judged(fresh, params, now_us) or _through_the_gate(fresh, params, now_us)
    if after is fresh and rolling.since_us is not None and not _moved(rolling.live, live):
        return state, notes
    return after, notes


def judged(state: RolloutState, params: RolloutParams, now_us: int | None) -> Step | None:
    """The step back, where sites or scores speak against the version on its way."""
    reason = condemned(state, params, now_us)
    return step_back(state, "stepped back", reason, now_us) if reason else None


def step_back(state: RolloutState, end: End, reason: str, now_us: int | None) -> Step:
    """Give every site back what it served before the version on its way."""
    rolling, before = state.rolling, state.predecessor
    if rolling is None:
        return state, []
    version = rolling.manifest.version
    state = state.ending(version, end, reason, now_us).but(rolling=None)
    if rolling.fleet:
        state = state.but(champion=before, challenger=None)
    return state, [SteppedBack(version, before.version if before is not None else None, reason)]


def _through_the_gate(state: RolloutState, params: RolloutParams, now_us: int) -> Step:
    rolling, now = state.rolling, gate(state, params, now_us)
    if rolling is None or now.hold in ("time", "paused"):
        return state, []
    if rolling.fleet and rolling.held_up == "running" != now.hold:
        return state.but(rolling=rolling.but(since_us=now_us, held_up="")), []
    if not now.hold:
        return _advance(state, rolling, params, now_us)
    if state.queued is not None and not state.paused and overdue(state, params, now_us):
        return _give_up(state, rolling, state.queued, now.reason, now_us)
    if rolling.held_up == now.hold:
        return state, []
    return state.but(rolling=rolling.but(held_up=now.hold)), [HeldUp(rolling.manifest.version, now.reason)]


def _advance(state: RolloutState, rolling: Rolling, params: RolloutParams, now_us: int) -> Step:
    version = rolling.manifest.version
    if rolling.fleet:
        return state.ending(version, "passed", "", now_us).but(rolling=None), [Passed(version)]
    wider = widened(rolling, state.sites, params, now_us)
    if wider is None:
        return to_fleet(state, rolling.manifest, now_us)
    more = tuple(site for site in wider.sites if site not in rolling.sites)
    return state.but(rolling=wider), [StageBegun(version, stage_name(wider), more)]


def _give_up(state: RolloutState, rolling: Rolling, newer: Manifest, reason: str, now_us: int) -> Step:
    """A rollout that is stuck makes room: else a broken canary site would keep every later model out."""
    version = rolling.manifest.version
    state = state.ending(version, "superseded", f"overdue ({reason}) when version {newer.version} came", now_us)
    return state.but(rolling=None), [Superseded(version, newer.version)]


def newest_begun(state: RolloutState) -> int:
    """The newest version that any site was told to serve as far as is known; 0 for none."""
    begun = [state.rolling.manifest if state.rolling is not None else None, state.champion]
    return max((manifest.version for manifest in begun if manifest is not None), default=0)


def _known(state: RolloutState) -> set[int]:
    return {*(manifest.version for manifest in state.undecided), *(ended.version for ended in state.ended)}


def _moved(before: Comparison, now: Comparison) -> bool:
    """Whether a live comparison changed enough to be kept: the state is a file, and scores come all the time."""
    if before.ratio is None or now.ratio is None or before.against != now.against:
        return before != now
    return abs(now.ratio - before.ratio) >= RATIO_STEP or abs(now.pairs - before.pairs) > 0.1 * before.pairs
