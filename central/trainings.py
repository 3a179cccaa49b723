"""Trainings as folders: what was asked of a job, and the result it leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from central.work import read_object, replace_text
from shared.errors import MetercastError
from shared.manifest import Manifest

log = logging.getLogger(__name__)

FLEET: Final = "metercast-fleet"  # the registered model of all sites
RESULT: Final = "result.json"
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
            training.take()
            continue
        if result is not None:
            yield training, result
