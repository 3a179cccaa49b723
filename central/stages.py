"""Who gets a model when, and whether it may go on: pure judgements over sites, their reports and live scores.

Invariants: which sites are canaries follows from version, sites and when each was seen last, and from nothing else; a
refusal of another version says nothing of this one, and one that anyone can bring about hides no other; what is the
fault of keys, clocks or the transfer holds a model up, and never condemns it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from central.rollout_state import Comparison, Rolling, RolloutState, Site
from shared.clock import duration_us
from shared.manifest import Manifest
from shared.messages import Refusal
from shared.params import RolloutParams
from shared.refusals import UNVOUCHED, Cause

CANARY_SHARE: Final = 0.1
LATELY: Final = timedelta(hours=36)  # a canary should be there to be watched
PROLONGED: Final = 2  # a stage that has taken so many times its own time is overdue

# Not the model's fault: it would be refused whatever it was, or the edge may yet take it.
BLOCKING: Final = frozenset(
    {
        Cause.NO_TRUSTED_KEYS,
        Cause.UNSIGNED,
        Cause.UNKNOWN_KEY,
        Cause.BAD_SIGNATURE,
        Cause.EXPIRED,
        Cause.VALID_TOO_LONG,
        Cause.OTHER_ROLE,
        Cause.VERSION_NOT_NEWER,
        Cause.OTHER_SITE,
        Cause.EDGE_TOO_OLD,
        Cause.BAD_CHUNK,
    }
)

Answer = Literal["running", "refused", "blocked", "silent"]
Hold = Literal["", "time", "paused", "blocked", "running", "scores"]


@dataclass(slots=True)
class Tally:
    """How many sites run a version, refuse it, cannot take it, or have not answered; and why."""

    running: int = 0
    refused: int = 0
    blocked: int = 0
    silent: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def sites(self) -> int:
        """All of them."""
        return self.running + self.refused + self.blocked + self.silent

    @property
    def answered(self) -> int:
        """Those that said something of this version."""
        return self.sites - self.silent

    @property
    def judged(self) -> int:
        """Those that took it or refused it for what it is."""
        return self.running + self.refused

    @property
    def told(self) -> str:
        """The commonest reasons with their counts, as a person reads them."""
        return counted(self.reasons)


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether the next stage may begin; `hold` is what it waits for, in a word, and `reason` in a sentence."""

    hold: Hold
    reason: str


def counted(reasons: Counter[str]) -> str:
    """The commonest with their counts."""
    return ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common(3))


def canaries(version: int, sites: Mapping[str, Site], params: RolloutParams, now_us: int | None) -> tuple[str, ...]:
    """The sites that get a version first: those named that are known, else one in ten, others for each version."""
    if params.canary:
        return tuple(site for site in params.canary if site in sites)
    return drawn(version, sites, max(1, int(CANARY_SHARE * len(sites))), now_us)


def drawn(version: int, sites: Mapping[str, Site], count: int, now_us: int | None) -> tuple[str, ...]:
    """So many sites in an order of the version's own, those seen lately before the others."""
    order = sorted(sites, key=lambda site: (not _lately(sites[site], now_us), _lot(version, site)))
    return tuple(order[:count])


def widened(rolling: Rolling, sites: Mapping[str, Site], params: RolloutParams, now_us: int | None) -> Rolling | None:
    """The next stage that reaches more sites, with those of the stages before; None when the whole fleet is next."""
    known = [site for site in rolling.sites if site in sites]
    for stage, share in list(enumerate(params.stages, start=1))[rolling.stage :]:
        missing = math.ceil(share * len(sites)) - len(known)
        if missing > 0 and share < 1:
            others = {site: seen for site, seen in sites.items() if site not in rolling.sites}
            more = drawn(rolling.manifest.version, others, missing, now_us)
            return rolling.but(stage=stage, sites=(*rolling.sites, *more), since_us=now_us, held_up="")
    return None


def answer_of(site: Site, manifest: Manifest) -> tuple[Answer, str]:
    """What a site's report says of a version, and with which word it is refused."""
    reported = site.reported
    if reported is None:
        return "silent", ""
    running = reported.champion
    if running is not None and (running.version, running.sha256) == (manifest.version, manifest.sha256):
        return "running", ""
    refusal = refusal_of(site, manifest)
    if refusal is None:
        return "silent", ""
    return ("blocked" if refusal.reason in BLOCKING else "refused"), refusal.reason


def refusal_of(site: Site, manifest: Manifest) -> Refusal | None:
    """What a site last said against a version. One that runs it has then refused it as it was signed since.

    What it said of a claim that nobody trusted signed counts only where it said nothing else: anyone can forge one.
    """
    refused = site.reported.refused if site.reported is not None else []
    against = [refusal for refusal in refused if concerns(refusal, manifest)]
    vouched = [refusal for refusal in against if refusal.reason not in UNVOUCHED]
    return next(reversed(vouched or against), None)


def concerns(refusal: Refusal, manifest: Manifest) -> bool:
    """Whether a refusal is of this version; edges that tell no version tell the artifact."""
    return refusal.sha256 == manifest.sha256 and refusal.version in (0, manifest.version)


def tally(manifest: Manifest, sites: Iterable[Site]) -> Tally:
    """Count what sites say of a version."""
    count = Tally()
    for site in sites:
        answer, reason = answer_of(site, manifest)
        setattr(count, answer, getattr(count, answer) + 1)
        if reason:
            count.reasons[reason] += 1
    return count


def tally_of(state: RolloutState) -> Tally:
    """What the sites of the stage say of the version on its way."""
    if state.rolling is None:
        return Tally()
    return tally(state.rolling.manifest, (state.sites[site] for site in state.members if site in state.sites))


def condemned(state: RolloutState, params: RolloutParams, now_us: int | None) -> str:
    """Why the version on its way must be stepped back at once; empty when nothing speaks against it.

    More than `max_refused` refuse it: of the stage's sites, so that whatever the silent ones will say cannot help; once
    the stage has run its time, of those that took or refused it. Or its live forecasts are worse than may be.
    """
    if state.rolling is None:
        return ""
    count, live, due = tally_of(state), state.rolling.live, due_us(state, params)
    of = count.judged if due is not None and now_us is not None and now_us >= due else count.sites
    if count.refused > params.max_refused * of:
        return f"{count.refused} of {of} sites refuse it{_because(count)}"
    if worse(live, params):
        return f"its live error is {live.ratio:.2f} of {_yardstick(live)} over {live.pairs} scores"
    return ""


def worse(live: Comparison, params: RolloutParams) -> bool:
    """Whether live forecasts are worse than may be, on scores enough for a verdict."""
    return live.ratio is not None and live.pairs >= params.min_scores and live.ratio > params.max_vs_predecessor


def gate(state: RolloutState, params: RolloutParams, now_us: int) -> Gate:
    """Whether the stage has run its time and did well; raises ValueError when nothing is on its way."""
    rolling = state.rolling
    if rolling is None:
        raise ValueError("nothing is on its way")
    due = due_us(state, params)
    if due is None or now_us < due:
        return Gate("time", "")
    if state.paused:
        return Gate("paused", "a person paused it; `central models resume`")
    if rolling.fleet:
        return _watched(state, params, now_us)
    return _passed(tally_of(state), rolling.live, params)


def due_us(state: RolloutState, params: RolloutParams) -> int | None:
    """When the stage will have run its time; None when that is not known."""
    if state.rolling is None or state.rolling.since_us is None:
        return None
    return state.rolling.since_us + duration_us(_time_of(state, params))


def overdue(state: RolloutState, params: RolloutParams, now_us: int) -> bool:
    """Whether the stage has taken much longer than it should."""
    rolling = state.rolling
    if rolling is None or rolling.since_us is None:
        return False
    return now_us - rolling.since_us >= PROLONGED * duration_us(_time_of(state, params))


def stage_name(rolling: Rolling) -> str:
    """As a person reads it."""
    if rolling.fleet:
        return "fleet"
    return f"stage {rolling.stage}" if rolling.stage else "canary"


def _passed(count: Tally, live: Comparison, params: RolloutParams) -> Gate:
    if not count.sites:
        return Gate("running", "no site of rollout.canary was seen yet")
    if count.blocked > params.max_refused * count.answered:
        return Gate("blocked", f"{count.blocked} of {count.sites} sites cannot take it{_because(count)}")
    if count.running < params.min_running * count.sites or not count.running:
        return Gate("running", f"{count.running} of {count.sites} sites run it, {count.silent} have not answered")
    if live.ratio is None or live.pairs < params.min_scores:
        return Gate("scores", f"{live.pairs} live scores of {params.min_scores} that a verdict needs")
    return Gate("", "")


def _watched(state: RolloutState, params: RolloutParams, now_us: int) -> Gate:
    """With the fleet there is no next stage: it is watched for its time, or twice that where scores are few.

    What no site runs has not passed; the watch begins anew once one does (`transitions`).
    """
    count = tally_of(state)
    if not count.running:
        return Gate("running", f"none of {count.sites} sites runs it{_because(count)}")
    live = state.rolling.live if state.rolling is not None else Comparison()
    decided = live.ratio is not None and live.pairs >= params.min_scores
    if decided or overdue(state, params, now_us):
        return Gate("", "")
    return Gate("scores", f"{live.pairs} live scores of {params.min_scores} that a verdict needs")


def _time_of(state: RolloutState, params: RolloutParams) -> timedelta:
    """A first model has no canary sites: it is watched with the fleet for as long."""
    rolling = state.rolling
    assert rolling is not None
    first = rolling.fleet and state.challenger is None
    return params.canary_time if first or not (rolling.fleet or rolling.stage) else params.stage_time


def _lately(site: Site, now_us: int | None) -> bool:
    return now_us is None or (site.seen_us is not None and now_us - site.seen_us <= duration_us(LATELY))


def _lot(version: int, site: str) -> bytes:
    return hashlib.sha256(f"{version}:{site}".encode()).digest()


def _because(count: Tally) -> str:
    return f": {count.told}" if count.reasons else ""


def _yardstick(live: Comparison) -> str:
    return "its predecessor's" if live.against == "predecessor" else "seasonal naive's"
