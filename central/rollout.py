"""Which model each site should run: a pure state machine over candidates, orders of a person, sites, reports and time.

    candidate ─► waiting (rollout.approval: manual) ─► queued ─► canary ─► stage 1 … k ─► fleet, watched ─► passed
                    └► rejected                          └► superseded   └► stepped back, or stopped, or superseded

Invariants: at most one version is on its way; what a site is told is a function of the state, and of it alone; the
champion a site is told never sinks unless its manifest names, as `step_back_from`, the newest that the site was ever
told; an artifact is on the wire before any `desired` names it, and is cleared only when no site is told to run it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from central.rollout_events import (
    CandidateAccepted,
    ClearArtifact,
    Effect,
    Event,
    Heard,
    KeysSeen,
    News,
    Ordered,
    OrderRefused,
    PublishArtifact,
    PublishDesired,
    Refresh,
    Refused,
    ReportArrived,
    SetAliases,
    SiteSeen,
    Swapped,
    Tick,
)
from central.rollout_state import DROPPED_KEPT, Dropped, RolloutState, Site
from central.stages import concerns
from central.steering import on_order
from central.transitions import Step, begin_next, judged, on_candidate, on_tick
from shared.clock import HOUR_US
from shared.manifest import Manifest
from shared.messages import Desired, Reported
from shared.params import RolloutParams
from shared.refusals import Cause

SEEN_EVERY_US: Final = 12 * HOUR_US  # how exactly it is known when a site was seen: the state is a file


class Rollout:
    """The door: events in, effects out; `state` is to be kept before the effects are carried out."""

    def __init__(self, state: RolloutState, params: RolloutParams) -> None:
        self.state = state
        self.params = params
        self._keyed = True

    def handle(self, event: Event, now_us: int | None = None) -> list[Effect]:
        """Apply one event at `now_us`, None while event time is not known; returns what the world should do."""
        before = self.state
        if isinstance(event, Refresh):
            return _everything(before, event)
        if isinstance(event, KeysSeen):
            self._keyed = event.there
            after, notes = before, list[Effect]()
        else:
            after, notes = self._after(event, now_us)
        if self._keyed:
            after, begun = begin_next(after, self.params, now_us)
            notes = [*notes, *begun]
        sites = _sites_told_anew(before, after)
        self.state = after = _remembered(before, after, sites)
        aliases = _aliases(after) if _aliases(after) != _aliases(before) else []
        return [*_publications(before, after, sites), *notes, *aliases]

    def _after(self, event: News, now_us: int | None) -> Step:
        state, params = self.state, self.params
        match event:
            case CandidateAccepted(manifest):
                return on_candidate(state, manifest, params, now_us)
            case Ordered():
                return self._on_order(event, now_us)
            case SiteSeen() | ReportArrived():
                return self._heard((event,), now_us)
            case Heard(events):
                return self._heard(events, now_us)
            case Tick(live):
                return on_tick(state, live, params, now_us)
            case _:
                assert_never(event)

    def _on_order(self, order: Ordered, now_us: int | None) -> Step:
        if order.verb == "promote" and not self._keyed:
            reason = "there is no private key; `central keys new` makes one"
            return self.state, [OrderRefused(order.verb, order.version, reason)]
        return on_order(self.state, order, now_us)

    def _heard(self, events: Iterable[SiteSeen | ReportArrived], now_us: int | None) -> Step:
        """Take what sites said, and step back where that condemns the version on its way."""
        state, sites, notes = self.state, dict(self.state.sites), list[Effect]()
        wanted = tuple(state.wanted().values())
        for event in events:
            known = sites.get(event.site)
            if known is None or _long_unseen(known, now_us):
                sites[event.site] = known = (known or Site()).but(seen_us=now_us)
            if isinstance(event, ReportArrived) and event.reported != known.reported:
                notes += _news(event.site, known.reported, event.reported, wanted)
                sites[event.site] = known.but(reported=event.reported)
        if all(kept is state.sites.get(site) for site, kept in sites.items()):
            return state, []
        state = self._joined(state.but(sites=sites))
        fresh = any(isinstance(note, Refused) for note in notes)  # else nothing speaks against it that did not before
        back = judged(state, self.params, now_us) if fresh else None
        return (state, notes) if back is None else (back[0], [*notes, *back[1]])

    def _joined(self, state: RolloutState) -> RolloutState:
        """Sites that appear run what the fleet runs, unless they are canaries by name."""
        rolling = state.rolling
        if rolling is None or rolling.fleet:
            return state
        known = self.state.sites
        new = [site for site in self.params.canary if site in state.sites and site not in known]
        return state.but(rolling=rolling.but(sites=(*rolling.sites, *new))) if new else state


def desired_of(state: RolloutState, site: str) -> Desired | None:
    """What a site is told, None for one that was never told anything, and need not be."""
    champion, challenger = state.told(site)
    highest = state.sites[site].highest
    if champion is None:
        gone = state.withdrawn
        return Desired(champion=gone.model_copy(update={"withdrawn": True})) if gone is not None and highest else None
    if champion.version < highest:
        champion = champion.model_copy(update={"step_back_from": highest})
    return Desired(champion=champion, challenger=challenger)


def _long_unseen(site: Site, now_us: int | None) -> bool:
    return now_us is not None and (site.seen_us is None or now_us - site.seen_us >= SEEN_EVERY_US)


def _news(site: str, before: Reported | None, now: Reported, wanted: Iterable[Manifest]) -> list[Effect]:
    """A swap, and refusals that are new; an artifact that came damaged is published again."""
    effects: list[Effect] = []
    was = before.champion.version if before is not None and before.champion is not None else 0
    if now.champion is not None and now.champion.version != was:
        effects.append(Swapped(site, now.champion.version))
    known = {(refusal.sha256, refusal.at) for refusal in before.refused} if before is not None else set()
    fresh = [refusal for refusal in now.refused if (refusal.sha256, refusal.at) not in known]
    effects += [Refused(site, refusal) for refusal in fresh]
    damaged = [refusal for refusal in fresh if refusal.reason == Cause.BAD_CHUNK]
    again = {m.sha256: None for m in wanted if any(concerns(refusal, m) for refusal in damaged)}
    return [*effects, *map(PublishArtifact, again)]


def _sites_told_anew(before: RolloutState, after: RolloutState) -> list[str]:
    """Sites that were told something else before, or nothing."""
    new = [] if after.sites is before.sites else [site for site in after.sites if site not in before.sites]
    if _shape(after) == _shape(before):
        return new
    return [*(site for site in before.sites if after.told(site) != before.told(site)), *new]


def _shape(state: RolloutState) -> tuple[object, ...]:
    """All that `RolloutState.told` goes by."""
    rolling = state.rolling
    way = None if rolling is None or rolling.fleet else (rolling.manifest.version, rolling.sites)
    versions = (m.version if m is not None else None for m in (state.champion, state.challenger))
    return (*versions, way)


def _remembered(before: RolloutState, after: RolloutState, sites: list[str]) -> RolloutState:
    """The same, with the newest version each of `sites` is now told, and the artifacts that nobody needs any more."""
    if after is before:
        return after
    higher: dict[str, Site] = {}
    for site in sites:
        champion, _ = after.told(site)
        if champion is not None and champion.version > after.sites[site].highest:
            higher[site] = after.sites[site].but(highest=champion.version)
    wanted = after.wanted()
    left = [known for known in before.dropped if known.sha256 not in wanted]
    left += [Dropped(sha256=m.sha256, chunks=m.chunks) for m in before.wanted().values() if m.sha256 not in wanted]
    dropped = tuple({known.sha256: known for known in left}.values())[-DROPPED_KEPT:]
    told = {**after.sites, **higher} if higher else after.sites
    return after.but(sites=told, dropped=dropped, withdrawn=_withdrawn(before, after))


def _withdrawn(before: RolloutState, after: RolloutState) -> Manifest | None:
    """What must be told to be run no more: without a champion, the last one there was."""
    if after.champion is not None:
        return None
    return before.champion if before.champion is not None else after.withdrawn


def _publications(before: RolloutState, after: RolloutState, sites: list[str]) -> list[Effect]:
    wanted, known = after.wanted(), before.wanted()
    told = [(site, desired_of(after, site)) for site in sites]
    return [
        *(PublishArtifact(sha256) for sha256 in wanted if sha256 not in known),
        *(PublishDesired(site, desired) for site, desired in told if desired is not None),
        *(ClearArtifact(m.sha256, m.chunks) for m in known.values() if m.sha256 not in wanted),
    ]


def _everything(state: RolloutState, refresh: Refresh) -> list[Effect]:
    """To clear an artifact once more does no harm, and a kill may have come before the first time."""
    only = refresh.only
    told = [(site, desired_of(state, site)) for site in state.sites if only is None or site in only]
    return [
        *(PublishArtifact(sha256) for sha256 in state.wanted() if only is None or sha256 in only),
        *(PublishDesired(site, desired) for site, desired in told if desired is not None),
        *(ClearArtifact(dropped.sha256, dropped.chunks) for dropped in state.dropped if only is None),
        *(_aliases(state) if refresh.registry else []),
    ]


def _aliases(state: RolloutState) -> list[Effect]:
    """Champion is the fleet's, challenger what is on its way or in the shadow, candidate what waits."""
    rolling = state.rolling.manifest if state.rolling is not None and not state.rolling.fleet else None
    second = rolling if rolling is not None else state.challenger
    waits = state.queued if state.queued is not None else (state.waiting[-1] if state.waiting else None)
    champion, challenger, candidate = (m.version if m is not None else None for m in (state.champion, second, waits))
    told = champion is not None or challenger is not None or candidate is not None or bool(state.ended)
    return [SetAliases(champion, challenger, candidate)] if told else []
