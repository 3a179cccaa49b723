"""One simulated site: its meters, its broker, its edge, and what has befallen it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shared import params_file
from shared.memory import MemoryBroker, MemoryConnection
from shared.params import Params
from tests.simulation.checks import Books
from tests.simulation.edge_shell import Clock, Disk, EdgeProcess, Moment
from tests.simulation.meters import Key, SimMeter


@cache
def params_of(site: str, clock: str, step: str) -> Params:
    """Parameters of a simulated edge; a short horizon, as forecasts are not what is looked at."""
    overrides = [f"site={site}", f"clock={clock}", f"grid.step={step}", "forecast.horizon=2h", "uplink.window=4"]
    overrides.append("edge.dead_letters_per_minute=1000000")  # summaries name no single input

    return params_file.load(overrides=overrides)


@dataclass(slots=True)
class Site:
    """One site: its meters, broker and edge, and the books kept on it."""

    params: Params
    disk: Disk
    broker: MemoryBroker
    clock: Clock
    books: Books
    meters: list[SimMeter]
    process: EdgeProcess | None = None
    turn: Iterator[Moment] | None = None
    up: MemoryConnection | None = None
    down: MemoryConnection | None = None
    bridged: bool = True
    on_net: bool = True
    disk_full: bool = False
    offset_us: int = 0
    comparable_from_us: int = 0
    bereft: bool = False
    jumped: bool = False
    leapt: bool = False
    misled: bool = False  # it started while its clock was a year off: it cannot know, and what it closed then differs
    renewed: bool = False
    broker_forgot: bool = False
    lives: int = 0  # of its disk: each image that is restored begins another
    inherited: dict[str, bytes] = field(default_factory=dict)  # by topic: retained when the disk was last another one
    images: list[tuple[int, Path]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its id."""
        return self.params.site

    @property
    def orders_receptions(self) -> bool:
        """Whether `received_at` and `seq` tell the order of reception: its clock never went back, its numbers neither.

        Under the event clock many readings are received at one instant, so that a new epoch confounds their order.
        """
        return not self.jumped and (self.params.clock == "wall" or not (self.renewed or self.books.disasters))

    def waiting_at_broker(self) -> set[Key]:
        """What the edge has not acknowledged to its broker."""
        session = self.broker.sessions.get(f"metercast-edge-{self.name}")
        held = session.held() if session is not None else ()
        return self.books.keys_in((message.topic, message.payload) for message in held if not message.retain)
