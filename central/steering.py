"""How a person's orders move the rollout, and why one cannot be followed: pure, as `central.transitions`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from central.rollout_events import Effect, Ordered, OrderFollowed, OrderRefused, SteppedBack, Superseded, Verb
from central.rollout_state import End, RolloutState
from central.transitions import Step, newest_begun, queue, step_back, to_fleet
from shared.manifest import Manifest


def on_order(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    """Follow an order, or say why that cannot be."""
    wrong = objection(state, order)
    if wrong:
        return state, [OrderRefused(order.verb, order.version, wrong)]
    after, notes = _FOLLOWED[order.verb](state, order, now_us)
    return after, [OrderFollowed(order.verb, order.version), *notes]


def objection(state: RolloutState, order: Ordered) -> str:
    """Why an order cannot be followed, empty when it can."""
    return _OBJECTIONS[order.verb](state, order)


# -- objections -------------------------------------------------------------------------------------------------------


def _approve_objection(state: RolloutState, order: Ordered) -> str:
    return _unless_open(state, order, "does not wait for approval; waiting", state.waiting)


def _reject_objection(state: RolloutState, order: Ordered) -> str:
    return _unless_open(state, order, "does not wait; waiting", state.undecided)


def _promote_objection(state: RolloutState, order: Ordered) -> str:
    rolling = [state.rolling.manifest] if state.rolling is not None and not state.rolling.fleet else []
    return _unless_open(state, order, "neither waits nor is on its way; those that do", [*state.undecided, *rolling])


def _pause_objection(state: RolloutState, _order: Ordered) -> str:
    return "the rollout is paused already" if state.paused else ""


def _resume_objection(state: RolloutState, _order: Ordered) -> str:
    return "" if state.paused or state.stopped else "the rollout is neither paused nor stopped"


def _stop_objection(state: RolloutState, _order: Ordered) -> str:
    return "the rollout is stopped already" if state.stopped else ""


def _rollback_objection(state: RolloutState, order: Ordered) -> str:
    current = newest_begun(state)
    if not current:
        return "no model was rolled out"
    if order.version is not None and order.version != current:
        return f"version {order.version} is not the newest that is rolled out; that is {current}"
    if order.target is not None:
        return _target_objection(state, order.target.version, current)
    nothing_before = state.rolling is None and state.challenger is None
    if nothing_before:
        return f"what was served before version {current} is not known; say which with --to VERSION"
    return ""


def _target_objection(state: RolloutState, target: int, current: int) -> str:
    """A rollback that went too far is taken back by another: any older version than the newest a site was told."""
    if target == current:
        return f"version {target} is what is rolled out"
    newest = _newest_told(state)
    if target < newest:
        return ""
    return f"version {target} is not older than {newest}, the newest that was rolled out{_over(state, target)}"


def _newest_told(state: RolloutState) -> int:
    return max((newest_begun(state), *(site.highest for site in state.sites.values())))


def _unless_open(state: RolloutState, order: Ordered, what: str, open_to: Iterable[Manifest]) -> str:
    versions = [manifest.version for manifest in open_to]
    if order.version in versions:
        return ""
    return f"version {order.version} {what}: {', '.join(map(str, versions)) or 'none'}{_over(state, order.version)}"


def _over(state: RolloutState, version: int | None) -> str:
    """What there is to do about a version that ended and is wanted again: versions only rise."""
    ended = next((ended for ended in reversed(state.ended) if ended.version == version), None)
    if ended is None or ended.state == "passed":
        return ""
    back = f"`central models rollback --to {ended.version}`"
    if ended.version < _newest_told(state):
        return f"; it was {ended.state}, and {back} is the way back to it"
    return (
        f"; it was {ended.state} and does not go out again: `central train` makes a newer one, and once that is rolled "
        f"out {back} may go back to this"
    )


# -- what follows -----------------------------------------------------------------------------------------------------


def _paused(state: RolloutState, _order: Ordered, _now_us: int | None) -> Step:
    return state.but(paused=True), []


def _resumed(state: RolloutState, _order: Ordered, _now_us: int | None) -> Step:
    return state.but(paused=False, stopped=False), []


def _stopped(state: RolloutState, _order: Ordered, now_us: int | None) -> Step:
    return step_back(state.but(stopped=True), "stopped", "a person stopped it", now_us)


def _approved(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    return queue(state, _open(state, order.version), now_us)


def _rejected(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    version = _open(state, order.version).version
    queued = state.queued if state.queued is not None and state.queued.version != version else None
    left = state.but(waiting=tuple(known for known in state.waiting if known.version != version), queued=queued)
    return left.ending(version, "rejected", "a person rejected it", now_us), []


def _promoted(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    """Let a version go to the whole fleet now, whatever the gates say; another one that is on its way ends."""
    manifest, rolling, notes = _open(state, order.version), state.rolling, list[Effect]()
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


def _rolled_back(state: RolloutState, order: Ordered, now_us: int | None) -> Step:
    """Leave the version on its way, or else the fleet's, for its predecessor or for the one that is named."""
    target = order.target
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


def _open(state: RolloutState, version: int | None) -> Manifest:
    """The manifest of a version that waits or is on its way; `objection` has seen to it that there is one."""
    rolling = state.rolling.manifest if state.rolling is not None else None
    return next(known for known in (*state.undecided, rolling) if known and known.version == version)


_OBJECTIONS: Final[dict[Verb, Callable[[RolloutState, Ordered], str]]] = {
    "approve": _approve_objection,
    "reject": _reject_objection,
    "promote": _promote_objection,
    "pause": _pause_objection,
    "resume": _resume_objection,
    "stop": _stop_objection,
    "rollback": _rollback_objection,
}
_FOLLOWED: Final[dict[Verb, Callable[[RolloutState, Ordered, int | None], Step]]] = {
    "approve": _approved,
    "reject": _rejected,
    "promote": _promoted,
    "pause": _paused,
    "resume": _resumed,
    "stop": _stopped,
    "rollback": _rolled_back,
}
