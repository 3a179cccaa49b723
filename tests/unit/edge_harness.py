"""An edge without a broker: a real node over a real SQLite store, fed by hand. Time is what the test says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edge.artifacts import ArtifactFolder
from edge.bootstrap import build_node, wanted_of
from edge.effects import (
    Commit,
    Effect,
    EpochRenewed,
    Event,
    GapMade,
    KeepArtifacts,
    KeepChunk,
    MakeGap,
    Prove,
    Publish,
    ReadingsArrived,
    RenewEpoch,
    SaveArtifact,
    Tick,
    Unpack,
)
from edge.inference import load
from edge.meters import NO_INSTANT
from edge.node import Node
from edge.prover import Question, answer_to
from edge.siteclock import MINUTE_US
from edge.store import Store
from shared import params_file
from shared.clock import HOUR_US, iso, parse_instant_us
from shared.messages import Uplink
from shared.packets import Incoming
from tests.small_model import TRUSTED

START_US = parse_instant_us("2026-01-05T00:00:00Z")


@dataclass
class EdgeAtDesk:
    """A node whose effects are carried out on disk and otherwise collected."""

    folder: Path
    settings: tuple[str, ...] = ()
    proves: bool = True  # at once; else what is to be proven waits in `asked`
    asked: list[Question] = field(default_factory=list)
    published: list[Publish] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.params = params_file.load(
            overrides=["clock=event", f"edge.state_dir={self.folder}", "site=desk", TRUSTED, *self.settings]
        )
        self.boot()

    def boot(self) -> None:
        """Start, or start again from what is on disk, as after a kill."""
        self.artifacts = ArtifactFolder(self.folder / "models")
        self.store = Store(self.folder, iso(START_US))
        self.node: Node = build_node(self.params, self.store, self.artifacts)

    def restart(self) -> None:
        """Forget everything in memory."""
        self.store.close()
        self.boot()

    def tell(self, event: Event, wall_us: int = START_US) -> list[Effect]:
        """Handle one event and carry its effects out; time passes until then as it does, not in a leap."""
        clock = self.node.clock
        if clock.wall_us != NO_INSTANT:
            for passing_us in range(clock.wall_us, wall_us, 5 * MINUTE_US):
                clock.tell(passing_us)
        return self.tell_at_once(event, wall_us)

    def tell_at_once(self, event: Event, wall_us: int) -> list[Effect]:
        """Handle one event at `wall_us`, whatever time it was before, and carry its effects out."""
        effects = self.node.handle(event, wall_us)
        self.effects += effects
        for effect in effects:
            self.carry_out(effect, wall_us)
        told = self.node.models.tell_changes()  # as at the end of the shell's turn
        self.effects += told
        for effect in told:
            self.carry_out(effect, wall_us)
        effects += told
        while self.proves and self.asked:
            self.prove(wall_us)
        return effects

    def carry_out(self, effect: Effect, wall_us: int) -> None:
        """Do what an effect says, on disk or in `published`."""
        match effect:
            case Commit(changes):
                self.store.commit(changes, self.node.site)
            case RenewEpoch(epoch):
                self.tell(EpochRenewed(epoch, tuple(self.store.renew_epoch(epoch))), wall_us)
            case MakeGap(first, last, reason, at_us):
                size = self.store.make_gap(first, last, site="desk", reason=reason, at_us=at_us)
                self.tell(GapMade(first, last, size), wall_us)
            case Publish():
                self.published.append(effect)
            case _:
                self._carry_out_for_models(effect)

    def _carry_out_for_models(self, effect: Effect) -> None:
        match effect:
            case SaveArtifact(sha256, artifact):
                self.artifacts.save(sha256, artifact)
            case KeepChunk(sha256, number, chunk):
                self.artifacts.keep_chunk(sha256, number, chunk)
            case KeepArtifacts(sha256s):
                self.artifacts.keep_only(sha256s)
            case Unpack() | Prove():
                self.asked.append(effect)

    def prove(self, wall_us: int = START_US) -> None:
        """Answer what was asked first, without a process for it: whether that holds is for test_gate.py."""
        load_it = partial(load, wanted=wanted_of(self.params))
        answer = answer_to(self.asked.pop(0), self.artifacts, load_it)
        self.tell_at_once(answer, wall_us)

    def tell_at_once_and_believe(self, wall_us: int) -> None:
        """The wall clock is set to `wall_us`, and a meter agrees."""
        self.node.clock.tell(wall_us)
        self.node.clock.weigh(wall_us)
        self.tell_at_once(Tick(caught_up=True), wall_us)

    def tick(self, wall_us: int = START_US) -> None:
        """Let the node close and forecast until nothing is due."""
        self.tell(Tick(caught_up=True), wall_us)
        while self.node.busy:
            self.tell(Tick(caught_up=True), wall_us)

    def send(self, *messages: tuple[str, Any], wall_us: int = START_US, tick: bool = True) -> None:
        """Deliver (meter, JSON content or bytes) as one batch."""
        raw = [
            Incoming(f"metercast/desk/readings/{meter}", payload, len(payload))
            for meter, content in messages
            for payload in [content if isinstance(content, bytes) else json.dumps(content).encode()]
        ]
        self.tell(ReadingsArrived(tuple(raw)), wall_us)
        if tick:
            self.tick(wall_us)

    def of_topic(self, topic: str) -> list[dict[str, Any]]:
        """The messages published on a topic below the site's."""
        return [json.loads(p.payload) for p in self.published if p.topic == f"metercast/desk/{topic}" and p.payload]

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return self.of_topic("deadletter")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one kind in all batches that wait in the outbox, in order."""
        rows: list[dict[str, Any]] = []
        for seq, _size in self.store.outbox_index():
            columns = Uplink.decompress(self.store.outbox_body(seq) or b"", "outbox").kinds.get(kind, {})
            rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return rows


def reading(hour: float, value: float, **more: Any) -> dict[str, Any]:
    """Hourly energy, `hour` hours after the start; `more` overrides."""
    ts = iso(START_US + round(hour * HOUR_US))
    return {"ts": ts, "value": value, "unit": "kWh", "kind": "energy", "period_s": 3600, **more}
