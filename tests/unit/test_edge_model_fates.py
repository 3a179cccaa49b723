"""Whatever is desired, sent, forged, cut and damaged, in any order: what is right serves, and in the end the newest.

A seed plays a fate: true and forged manifests, chunks in any order, wrong ones among them, proofs that take their time,
restarts after any step, files that are damaged. Checked after every step: forecasts go on, versions only rise unless
central signed otherwise, and nothing serves that was refused.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge.effects import ChunkArrived, DesiredArrived, ForecastsConfirmed
from shared.clock import HOUR_US
from shared.manifest import Golden, Manifest, pack
from shared.messages import Desired
from tests.bad_models import HAZARDS
from tests.small_model import manifest_of, small_model
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading

SEEDS, STEPS = 12, 80
HISTORY_H = 80
DESIRED = "metercast/desk/models/desired"


@dataclass
class Fate:
    """One edge and what happens to it."""

    desk: EdgeAtDesk
    chance: random.Random
    hour: int = HISTORY_H + 1
    newest: int = 0  # version that central wanted last
    wanted: dict[int, tuple[Manifest, bytes]] = field(default_factory=dict)  # true ones, by version
    harmful: set[int] = field(default_factory=set)
    said: Manifest | None = None  # last, by whomever
    backs: list[Manifest] = field(default_factory=list)
    served: set[int] = field(default_factory=set)
    lowest: int = 0  # version that may serve, unless a file is damaged

    def want(self) -> None:
        """Central wants something newer, some of it of bytes that it wanted before."""
        artifact, golden = small_model(self.chance.randint(1, 3))
        self._desire(artifact, golden)

    def want_harm(self) -> None:
        """Central was deceived."""
        hazard = HAZARDS["other_numbers"]()
        self._desire(hazard.artifact, hazard.golden)
        self.harmful.add(self.newest)

    def _desire(self, artifact: bytes, golden: Golden) -> None:
        self.newest += 1
        manifest = manifest_of(artifact, golden, self.newest)
        self.wanted[self.newest] = manifest, artifact
        self._say(manifest)

    def step_back(self) -> None:
        """Central wants something older instead of all that it wanted since."""
        true = sorted(set(self.wanted) - self.harmful)
        if len(true) > 1:
            older, artifact = self.wanted[self.chance.choice(true[:-1])]
            self.backs.append(manifest_of(artifact, older.golden, older.version, step_back_from=self.newest))
            self._say(self.backs[-1])

    def replay(self) -> None:
        """Somebody says again what was said before."""
        if self.wanted:
            said = [*(manifest for manifest, _ in self.wanted.values()), *self.backs]
            self._say(self.chance.choice(said))

    def forge(self) -> None:
        """Somebody changes what was said."""
        if self.wanted:
            manifest, _ = self.chance.choice(list(self.wanted.values()))
            self._say(manifest.model_copy(update={"version": self.newest + 100}))

    def _say(self, manifest: Manifest) -> None:
        self.said = manifest
        shadows = [None, *(manifest for manifest, _ in self.wanted.values())]
        message = Desired(champion=manifest, challenger=self.chance.choice(shadows))
        self.desk.tell(DesiredArrived(DESIRED, message.encode()))

    def send(self) -> None:
        """Chunks come, of anything, some of them wrong."""
        if self.wanted:
            manifest, artifact = self.chance.choice(list(self.wanted.values())[-3:])
            for number, chunk in enumerate(pack(artifact).chunks):
                sent = chunk if self.chance.random() < 0.8 else self.chance.randbytes(len(chunk))
                self.desk.tell(ChunkArrived(manifest.sha256, number, sent))

    def arrive(self) -> None:
        """What was desired last comes as it should, if it is fetched, and is tried out."""
        of_said = {manifest.sha256: artifact for manifest, artifact in self.wanted.values()}
        if self.said is not None:
            for number, chunk in enumerate(pack(of_said[self.said.sha256]).chunks):
                self.desk.tell(ChunkArrived(self.said.sha256, number, chunk))
        while self.desk.asked:
            self.desk.prove()

    def prove(self) -> None:
        """What was tried out is known."""
        if self.desk.asked:
            self.desk.prove()

    def restart(self) -> None:
        """Power is cut."""
        self.desk.asked.clear()
        self.desk.restart()

    def damage(self) -> None:
        """A file is lost while power is off."""
        files = sorted((self.desk.folder / "models").glob("*.onnx"))
        if len(files) > 1:
            self.chance.choice(files).write_bytes(b"damaged")
            self.lowest = 0
            self.restart()

    def forecast(self) -> None:
        """An hour passes."""
        self.desk.send(("m1", reading(self.hour, 1.0 + self.hour % 24)))
        self.hour += 1
        last = self.desk.of_topic("forecasts/m1")[-1]
        assert last["origin"] == reading(self.hour, 0)["ts"]
        self.desk.tell(ForecastsConfirmed(((0, START_US // HOUR_US + self.hour),)))
        if last["rung"] == "champion":
            version = last["model"]["version"]
            assert version >= self.lowest or self._may_be_back(version)
            self.lowest = version
            self.served.add(version)

    def _may_be_back(self, version: int) -> bool:
        """Whether central signed that this takes the place of all that served."""
        return any(back.version == version and (back.step_back_from or 0) >= max(self.served) for back in self.backs)

    def play(self) -> None:
        """One step, and what must hold after it."""
        central, others = (
            [self.want, self.want_harm, self.step_back],
            [self.replay, self.forge, self.damage, self.restart],
        )
        self.chance.choice([*central, *others, self.send, self.prove, *[self.arrive] * 4])()
        self.forecast()
        assert self.served <= set(self.wanted) - self.harmful

    def end(self) -> None:
        """All of it comes as it should."""
        self.want()
        self.arrive()
        self.forecast()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of an edge that can serve a model."""
    desk = EdgeAtDesk(tmp_path_factory.mktemp("fates") / "edge")
    desk.send(*[("m1", reading(hour, 1.0 + hour % 24)) for hour in range(HISTORY_H)])
    desk.tell(ForecastsConfirmed(tuple((0, START_US // HOUR_US + hour) for hour in range(1, HISTORY_H + 1))))
    desk.send(("m1", reading(HISTORY_H, 1.0)))
    desk.store.close()
    return desk.folder


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_forecasts_go_on_by_what_was_signed_and_proven_and_in_the_end_by_the_newest(
    history: Path, tmp_path: Path, seed: int
) -> None:
    desk = EdgeAtDesk(Path(shutil.copytree(history, tmp_path / "edge")))
    desk.proves = False
    fate = Fate(desk, random.Random(seed))
    for _ in range(STEPS):
        fate.play()
    fate.end()
    assert fate.newest in fate.served
    desk.store.close()
