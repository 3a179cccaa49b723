"""What the ablation has measured: a file for each (choice, set, seed), so that a run that was cut goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ablation_choices import Choice
from bench.ablation_sets import Protocol
from shared.features import SCHEMA_HASH


@dataclass(frozen=True, slots=True)
class Measured:
    """A choice on a data set with a seed: ratios to seasonal naive, coverage of the 80 % interval, processor time."""

    rel_mase: float
    rel_wql: float
    coverage_80: float
    train_s: float


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """What is measured at once: a choice, a data set and a seed, by their names."""

    choice: str
    set: str
    seed: int


Results = Mapping[Run, Measured]


@dataclass(frozen=True, slots=True)
class Store:
    """The files of results in a folder, under one protocol.

    Invariant: a file's name follows from everything that was asked for, so none of an older recipe, schema or protocol
    is taken for an answer. (What the name cannot know of is a change of the training itself: then clear the folder.)
    """

    folder: Path
    protocol: Protocol

    def load(self, choice: Choice, set_name: str, seed: int) -> Measured | None:
        """Return what was measured before, if it was."""
        file = self._file(choice, set_name, seed)
        return Measured(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def save(self, choice: Choice, set_name: str, seed: int, measured: Measured) -> None:
        """Write one result; a reader sees all of it or nothing."""
        file = self._file(choice, set_name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(asdict(measured), allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(file)

    def _file(self, choice: Choice, set_name: str, seed: int) -> Path:
        asked = [choice.recipe(seed).as_params(), sorted(choice.ignored), asdict(self.protocol), SCHEMA_HASH]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9]+", "-", choice.name.lower()).strip("-")
        return self.folder / set_name / f"{name}-{seed}-{digest}.json"
