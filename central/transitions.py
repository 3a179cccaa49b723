"""How the rollout's state moves on: pure steps from one state to the next, with what is worth telling of them.

What must be published follows from the two states alone (central/rollout.py); no step can forget it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from central.rollout_events import (
    Effect,
    HeldUp,
    OrderFollowed,
    OrderRefused,
    Ordered,
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

RATIO_STEP: Final = 0.01  # a live comparison that moved less is not kept anew


def on_candidate(state: RolloutState, manifest: Manifest, params: RolloutParams, now_us: int | None) -> Step:
    """A candidate waits for a person, or for its turn; one that is known or too old is left."""
    if manifest.version <= newest_begun(state) or manifest.version in _known(state):
        return state, []
    if params.approval == "manual":
        return state.but(waiting=(*state.waiting, manifest)), []
    return queue(state, manifest, now_us)


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


# -- what a person orders ---------------------------------------------------------------------------------------------


def on_order(state: RolloutState, order: Ordered, params: RolloutParams, now_us: int | None) -> Step:
    """Follow an order, or say why that cannot be."""
    wrong = objection(state, order)
    if wrong:
        return state, [OrderRefused(order.verb, order.version, wrong)]
    after, notes = _followed(state, order, now_us)
    return after, [OrderFollowed(order.verb, order.version), *notes]


def _followed(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    match order.verb:
        case "pause":
            return state.but(paused=True), []
        case "resume":
            return state.but(paused=False, stopped=False), []
        case "stop":
            return step_back(state.but(stopped=True), "stopped", "a person stopped it", now_us)
        case "approve":
            return queue(state, _open(state, order.version), now_us)
        case "reject":
            return _rejected(state, _open(state, order.version), now_us)
        case "promote":
            return _promoted(state, _open(state, order.version), now_us)
        case "rollback":
            return _rolled_back(state, order.target, now_us)


def objection(state: RolloutState, order: Ordered) -> str:
    """Why an order cannot be followed, empty when it can."""
    match order.verb:
        case "approve":
            return _unless_open(order, "does not wait for approval; waiting", state.waiting)
        case "reject":
            return _unless_open(order, "does not wait; waiting", state.undecided)
        case "promote":
            rolling = [state.rolling.manifest] if state.rolling is not None and not state.rolling.fleet else []
            return _unless_open(order, "neither waits nor is on its way; those that do", [*state.undecided, *rolling])
        case "pause":
            return "the rollout is paused already" if state.paused else ""
        case "resume":
            return "" if state.paused or state.stopped else "the rollout is neither paused nor stopped"
        case "stop":
            return "the rollout is stopped already" if state.stopped else ""
        case "rollback":
            return _rollback_objection(state, order)


def newest_begun(state: RolloutState) -> int:
    """The newest version that any site was told to serve as far as is known; 0 for none."""
    begun = [state.rolling.manifest if state.rolling is not None else None, state.champion]
    return max((manifest.version for manifest in begun if manifest is not None), default=0)


def _rollback_objection(state: RolloutState, order: Ordered) -> str:
    current = newest_begun(state)
    if not current:
        return "no model was rolled out"
    if order.version is not None and order.version != current:
        return f"version {order.version} is not the newest that is rolled out; that is {current}"
    if order.target is not None and order.target.version >= current:
        return f"version {order.target.version} is not older than {current}"
    nothing_before = state.rolling is None and state.challenger is None
    if order.target is None and nothing_before:
        return f"what was served before version {current} is not known; say which with --to VERSION"
    return ""


def _unless_open(order: Ordered, what: str, open_to: Iterable[Manifest]) -> str:
    versions = [manifest.version for manifest in open_to]
    if order.version in versions:
        return ""
    return f"version {order.version} {what}: {', '.join(map(str, versions)) or 'none'}"


def _known(state: RolloutState) -> set[int]:
    return {*(manifest.version for manifest in state.undecided), *(ended.version for ended in state.ended)}


def _open(state: RolloutState, version: int | None) -> Manifest:
    """The manifest of a version that waits or is on its way; `objection` has seen to it that there is one."""
    rolling = state.rolling.manifest if state.rolling is not None else None
    return next(known for known in (*state.undecided, rolling) if known and known.version == version)


def _without(state: RolloutState, version: int) -> RolloutState:
    queued = state.queued if state.queued is not None and state.queued.version != version else None
    return state.but(waiting=tuple(known for known in state.waiting if known.version != version), queued=queued)


def _rejected(state: RolloutState, manifest: Manifest, now_us: int | None) -> Step:
    left = _without(state, manifest.version)
    return left.ending(manifest.version, "rejected", "a person rejected it", now_us), []


def _promoted(state: RolloutState, manifest: Manifest, now_us: int | None) -> Step:
    """Let a version go to the whole fleet now, whatever the gates say; another one that is on its way ends."""
    rolling, notes = state.rolling, list[Effect]()
    if rolling is None or rolling.manifest.version != manifest.version:
        state, notes = queue(state, manifest, now_us)
        state = state.but(queued=None)
    if rolling is not None and rolling.manifest.version != manifest.version:
        end: End = "passed" if rolling.fleet else "superseded"
        reason = f"a person promoted version {manifest.version}"
        state = state.ending(rolling.manifest.version, end, reason, now_us).but(rolling=None)
        notes.append(Superseded(rolling.manifest.version, manifest.version))
    after, told = to_fleet(state, manifest, now_us)
    return after, [*notes, *told]


def _rolled_back(state: RolloutState, target: Manifest | None, now_us: int | None) -> Step:
    """Leave the version on its way, or else the fleet's, for its predecessor or for an older one."""
    if target is None and state.rolling is not None:
        return step_back(state, "stepped back", "a person rolled it back", now_us)
    to = target if target is not None else state.challenger
    reason = f"a person rolled back to version {to.version if to is not None else None}"
    notes: list[Effect] = []
    for left in {m.version: m for m in (state.rolling and state.rolling.manifest, state.champion) if m}.values():
        if to is not None and left.version > to.version:
            state = state.ending(left.version, "stepped back", reason, now_us)
            notes.append(SteppedBack(left.version, to.version, reason))
    challenger = state.challenger if to == state.champion else None
    return state.but(champion=to, challenger=challenger, rolling=None), notes


def _moved(before: Comparison, now: Comparison) -> bool:
    """Whether a live comparison changed enough to be kept: the state is a file, and scores come all the time."""
    if before.ratio is None or now.ratio is None or before.against != now.against:
        return before != now
    return abs(now.ratio - before.ratio) >= RATIO_STEP or abs(now.pairs - before.pairs) > 0.1 * before.pairs
