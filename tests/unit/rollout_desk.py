"""A rollout at a desk: time is told, sites answer as a test says, and every effect is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

from central.rollout import Rollout
from central.rollout_events import (
    CandidateAccepted,
    ClearArtifact,
    Effect,
    Event,
    Ordered,
    PublishArtifact,
    PublishDesired,
    ReportArrived,
    SiteSeen,
    Tick,
    Verb,
)
from central.rollout_state import Comparison, RolloutState
from shared.clock import HOUR_US, duration_us, iso
from shared.manifest import Golden, Manifest
from shared.messages import Desired, Refusal, Reported, Running
from shared.params import RolloutParams
from shared.refusals import Cause

E = TypeVar("E")
START_US = 1_362_355_200_000_000  # 2013-03-04
SINCE = iso(START_US)
PARAMS = RolloutParams(
    canary_time=timedelta(hours=24), stages=(0.5,), stage_time=timedelta(hours=12), min_scores=48, max_refused=0.1
)


def manifest(version: int, sha256: str = "") -> Manifest:
    return Manifest(
        name="metercast-fleet", version=version, sha256=sha256 or f"{version:064x}", size=10, compressed_size=9,
        chunks=version, created="2013-03-04T00:00:00Z", expires="2013-06-04T00:00:00Z", features=["lag_24h"],
        schema_hash="h", step_s=3600, horizon_steps=48, quantiles=[0.5],
        golden=Golden(inputs=[[None]], outputs=[[1.0]]), reason="first", run_id="r", record_version=1,
    )  # fmt: skip


def report(version: int | None, *refused: Refusal) -> Reported:
    if version is None:
        return Reported(refused=list(refused))
    running = Running(name="metercast-fleet", version=version, sha256=f"{version:064x}", since=SINCE)
    return Reported(champion=running, refused=list(refused))


def refusal(version: int, reason: str = Cause.GOLDEN_ROWS, at: str = SINCE) -> Refusal:
    return Refusal(sha256=f"{version:064x}", version=version, reason=reason, detail="as it is", at=at)


class Wire:
    """What the broker retains: no desired names what is not there, no champion sinks unless told as a step back."""

    def __init__(self) -> None:
        self.desired: dict[str, Desired] = {}
        self.artifacts: set[str] = set()
        self.highest: dict[str, int] = {}  # the newest version each site was ever told to serve

    def carry(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case PublishArtifact(sha256):
                    self.artifacts.add(sha256)
                case PublishDesired(site, desired):
                    self.desired[site] = desired
                    self._check_order(site, desired.champion)
                case ClearArtifact(sha256, _):
                    self.artifacts.discard(sha256)
                case _:
                    pass
            assert self.named() <= self.artifacts, f"{effect}: an artifact is desired that is not on the wire"

    def _check_order(self, site: str, champion: Manifest | None) -> None:
        if champion is not None:
            highest = max(self.highest.get(site, 0), champion.version)
            self.highest[site] = highest
            expected = highest if champion.version < highest else None
            assert champion.step_back_from == expected, f"{site} is told {champion.version} after {highest}"

    def named(self) -> set[str]:
        told = [manifest for d in self.desired.values() for manifest in (d.champion, d.challenger)]
        return {manifest.sha256 for manifest in told if manifest is not None and not manifest.withdrawn}


class Desk:
    """A machine with sites `s0` …, that restarts whenever it is asked to."""

    def __init__(self, sites: int = 0, params: RolloutParams = PARAMS, state: RolloutState | None = None) -> None:
        self.params = params
        self.machine = Rollout(state or RolloutState(), params)
        self.wire = Wire()
        self.now_us = START_US
        self.effects: list[Effect] = []
        self.live = Comparison()
        for number in range(sites):
            self.tell(SiteSeen(f"s{number}"))

    @property
    def state(self) -> RolloutState:
        return self.machine.state

    def tell(self, event: Event) -> list[Effect]:
        made = self.machine.handle(event, self.now_us)
        self.wire.carry(made)
        self.effects += made
        return made

    def offer(self, *versions: int) -> list[Effect]:
        return [effect for version in versions for effect in self.tell(CandidateAccepted(manifest(version)))]

    def order(self, verb: Verb, version: int | None = None, target: int | None = None) -> list[Effect]:
        return self.tell(Ordered(verb, version, None if target is None else manifest(target)))

    def report(self, site: str, version: int | None, *refused: Refusal) -> list[Effect]:
        return self.tell(ReportArrived(site, report(version, *refused)))

    def obey(self, *sites: str) -> None:
        """Let sites run what they are told (all of them, without names)."""
        for site in sites or tuple(self.wire.desired):
            champion = self.wire.desired[site].champion
            self.report(site, champion.version if champion is not None else None)

    def score(self, ratio: float, pairs: int = 100) -> None:
        """From now on the version on its way compares live as said."""
        assert self.state.rolling is not None
        version = self.state.rolling.manifest.version
        self.live = Comparison(version=version, ratio=ratio, pairs=pairs, meters=3)

    def wait(self, hours: float) -> list[Effect]:
        """Let time pass, an hour a tick."""
        made: list[Effect] = []
        until_us = self.now_us + duration_us(timedelta(hours=hours))
        while self.now_us < until_us:
            self.now_us = min(until_us, self.now_us + HOUR_US)
            made += self.tell(Tick(self.live))
        return made

    def settle(self, version: int) -> None:
        """Bring a version to the whole fleet, well."""
        self.offer(version)
        for _ in range(4):
            self.obey()
            if self.state.rolling is None:
                break
            self.score(0.9)
            self.wait(24)
        assert self.state.rolling is None
        assert self.state.champion == manifest(version)

    def restart(self) -> None:
        kept = self.state.model_dump_json(by_alias=True)
        self.machine = Rollout(RolloutState.model_validate_json(kept), self.params)

    def serving(self) -> dict[str, int | None]:
        """The champion each site is told to run."""
        told = {site: desired.champion for site, desired in self.wire.desired.items()}
        return {site: m.version if m is not None and not m.withdrawn else None for site, m in told.items()}

    def told(self, version: int) -> set[str]:
        return {site for site, told in self.serving().items() if told == version}


def of_kind(kind: type[E], effects: Sequence[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]
