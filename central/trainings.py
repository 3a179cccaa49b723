"""Trainings as folders: what was asked of a job, and the result it leaves."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from central.work import read_object, replace_text
from shared.clock import iso, parse_instant_us
from shared.errors import MetercastError
from shared.manifest import Manifest

log = logging.getLogger(__name__)

FLEET: Final = "metercast-fleet"  # the registered model of all sites
BEGUN: Final = "begun.json"
RESULT: Final = "result.json"
LOCK: Final = "lock"  # held by the process that trains
TAKEN: Final = "taken"  # an empty file: `run` has acted on the result

Reason = Literal["first", "drift", "schedule", "command"]
Outcome = Literal["accepted", "rejected", "failed"]


class Result(BaseModel):
    """What a training came to. `mase` is on held-out windows, of the candidate and of what it was judged against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    reason: Reason
    outcome: Outcome
    reasons: list[str]
    started_at: str
    until: str = ""
    version: int | None = None
    run_id: str = ""
    record_version: int | None = None
    trained_rows: int = 0
    meters: int = 0
    mase: float | None = None
    mase_champion: float | None = None
    mase_naive: float | None = None
    coverage_80: float | None = None
    seconds: float = 0.0
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """The folder of one training."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name: when it was started, and why."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """What the job said."""
        return self.folder / "log"

    def begin(self, reason: Reason, at_us: int) -> None:
        """Note, before the job starts, why `run` starts it and when in event time."""
        replace_text(self.folder / BEGUN, json.dumps({"reason": reason, "at": iso(at_us)}))

    def begun(self) -> tuple[Reason, int] | None:
        """Why and when in event time `run` started it; None when a person did, or when that cannot be read."""
        try:
            content = read_object(self.folder / BEGUN)
            if content is None or content.get("reason") not in get_args(Reason):
                return None
            return content["reason"], parse_instant_us(content.get("at"))
        except (MetercastError, ValueError) as error:
            log.warning("start of a training unknown", extra={"training": self.id, "reason": str(error)})
            return None

    @contextmanager
    def held(self) -> Iterator[int]:
        """Hold the training's lock; a process that is given the descriptor goes on holding it when this one ends."""
        with (self.folder / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    @property
    def runs(self) -> bool:
        """Whether a process is still at it, even one that another `run` started."""
        try:
            with (self.folder / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def result(self) -> Result | None:
        """What it came to, None while it runs; raises MetercastError for a file that is no result."""
        content = read_object(self.folder / RESULT)
        try:
            return None if content is None else Result.model_validate(content)
        except ValidationError as error:
            raise MetercastError(f"{self.folder / RESULT}: {error.errors()[0]['msg']}") from error

    def finish(self, result: Result) -> None:
        """Leave the result, whole."""
        replace_text(self.folder / RESULT, result.model_dump_json(indent=1, by_alias=True))

    @property
    def taken(self) -> bool:
        """Whether `run` has acted on the result."""
        return (self.folder / TAKEN).exists()

    def take(self) -> None:
        """Mark that `run` has acted on the result."""
        (self.folder / TAKEN).touch()


def trainings_in(folder: Path) -> list[Training]:
    """All trainings, oldest first."""
    if not folder.is_dir():
        return []
    return [Training(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def results_in(folder: Path, *, fresh: bool = False) -> Iterator[tuple[Training, Result]]:
    """Trainings that have ended, with their results; `fresh` leaves out those that were acted on."""
    for training in trainings_in(folder):
        if fresh and training.taken:
            continue
        try:
            result = training.result()
        except MetercastError as error:
            log.error("result left out: %s", error)
            if fresh:
                training.take()
            continue
        if result is not None:
            yield training, result


def starts_in(folder: Path) -> Iterator[int]:
    """When, in event time, each training was started: all that the cooldown asks about, whatever came of them."""
    for training in trainings_in(folder):
        begun = training.begun()
        if begun is not None:
            yield begun[1]


def trained_until_us(folder: Path, manifest: Manifest) -> int:
    """The end of what a model was trained on; its making, which is later, when its training is not known any more."""
    own = [result.until for _, result in results_in(folder) if result.version == manifest.version and result.until]
    return parse_instant_us(own[-1] if own else manifest.created)
