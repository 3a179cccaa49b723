"""Trainings run in a process of their own, at low priority, so that recording never waits for one."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import yaml

import central
from central.trainings import Reason, Result, Training, trainings_in
from central.work import WorkFolder, replace_text
from shared.clock import iso, to_us
from shared.errors import MetercastError
from shared.params import Params

log = logging.getLogger(__name__)

STOP_WITHIN_S: Final = 10
LAST_WORDS: Final = 300
AGAIN_S: Final = 30.0  # until an errand that failed is tried again, doubled each time
AGAIN_AT_MOST_S: Final = 3600.0


def new_training(work: WorkFolder, reason: Reason, wall: datetime) -> Training:
    """A fresh folder, named so that names sort by time."""
    stem = f"{wall:%Y%m%dT%H%M%S}-{reason}"
    for number in range(1000):
        folder = work.trainings / (f"{stem}-{number}" if number else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return Training(folder)
    raise MetercastError(f"{work.trainings}: no free name for a training")


def own_command(*words: str) -> list[str]:
    """This program, as another process."""
    return [sys.executable, "-m", "central", *words]


def own_environment() -> dict[str, str]:
    """The environment in which `own_command` finds this very code, with one thread to each library."""
    source = str(Path(central.__file__).resolve().parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(slots=True)
class _Failing:
    """How often in a row errands of one kind failed, and when, in monotonic time, the next try is due."""

    times: int = 0
    due_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Running:
    training: Training
    process: subprocess.Popen[bytes]


class NotStarted(MetercastError):
    """A process cannot be started now; nothing is left of the try."""


class Jobs:
    """Processes that `run` starts: one training at a time, and small errands to the registry."""

    def __init__(self, params: Params, work: WorkFolder) -> None:
        self._params = params
        self._work = work
        self._settings = work.root / "params.yaml"
        self._training: _Running | None = None
        self._orphans: list[Training] = []
        self._unclosed: list[tuple[Training, str]] = []  # that ended, and how; the disk did not take their result
        self._errands: list[tuple[str, ...]] = []  # the one that runs is the first
        self._failing: dict[tuple[str, ...], _Failing] = {}  # by kind
        self._errand: subprocess.Popen[bytes] | None = None

    @property
    def training(self) -> bool:
        """Whether one runs, be it one that an earlier `run` started."""
        return self._training is not None or bool(self._orphans)

    def adopt(self, wall: datetime) -> None:
        """Take on what an earlier `run` left without a result: it may be running on its own, or was cut short."""
        left = [training for training in trainings_in(self._work.trainings) if not training.taken]
        self._orphans = [training for training in left if training.runs]
        over = [(one, "its process ended with that of central") for one in left if one not in self._orphans]
        self._unclosed = [one for one in over if not _closed(*one, wall)]

    def train(self, reason: Reason, until_us: int, wall: datetime) -> Training:
        """Start a training on what had ended by `until_us`; it goes on if this process is killed. Raises NotStarted."""
        training: Training | None = None
        try:
            training = new_training(self._work, reason, wall)
            training.begin(reason, until_us)
            words = ("train", "--reason", reason, "--until", iso(until_us), "--out", str(training.folder))
            with training.held() as lock:
                self._training = _Running(training, self._start(words, training.log, lock))
        except OSError as error:
            if training is not None:
                shutil.rmtree(training.folder, ignore_errors=True)
            raise NotStarted(f"training in {self._work.trainings}: {error.strerror}") from error
        return training

    def errand(self, *words: str) -> None:
        """Have a small command run, after those asked for before, and again until it succeeds.

        It takes the place of one of its kind that waits: the registry is to be told what is, not what was.
        """
        runs = 0 if self._errand is None else 1
        waiting = [known for known in self._errands[runs:] if _kind(known) != _kind(words)]
        self._errands = [*self._errands[:runs], *waiting, words]
        self._failing.pop(_kind(words), None)
        self._go_on()

    def ended(self, wall: datetime) -> bool:
        """Whether a training has ended since the last call; one that left no result gets one that says so."""
        self._go_on()
        gone = [(training, "it ended") for training in self._orphans if not training.runs]
        self._orphans = [training for training in self._orphans if (training, "it ended") not in gone]
        if self._training is not None and (code := self._training.process.poll()) is not None:
            gone.append((self._training.training, f"it ended with code {code}"))
            self._training = None
        self._unclosed = [over for over in (*self._unclosed, *gone) if not _closed(*over, wall)]
        return bool(gone) and not self.training

    def _go_on(self) -> None:
        """Start the next errand once none runs: two at once could tell the registry things in the wrong order."""
        if self._errand is not None and (code := self._errand.poll()) is not None:
            self._errand = None
            self._settle(self._errands.pop(0), f"it ended with code {code}" if code else "")
        ready = next((words for words in self._errands if self._is_due(words)), None)
        if self._errand is not None or ready is None:
            return
        self._errands.remove(ready)
        try:
            self._errand = self._start(ready, self._errand_log)
        except OSError as error:
            self._settle(ready, str(error))
        else:
            self._errands.insert(0, ready)

    def _settle(self, words: tuple[str, ...], failure: str) -> None:
        """One that failed is tried again, later each time, unless a newer one of its kind waits."""
        if not failure:
            self._failing.pop(_kind(words), None)
            return
        detail = {"command": " ".join(words), "failure": failure, "log": str(self._errand_log)}
        log.warning("errand failed, trying again until it succeeds", extra=detail)
        if _kind(words) in map(_kind, self._errands):
            return
        failing = self._failing.setdefault(_kind(words), _Failing())
        failing.due_s = time.monotonic() + min(AGAIN_AT_MOST_S, AGAIN_S * 2**failing.times)
        failing.times = min(failing.times + 1, 20)
        self._errands.append(words)

    def _is_due(self, words: tuple[str, ...]) -> bool:
        failing = self._failing.get(_kind(words))
        return failing is None or time.monotonic() >= failing.due_s

    @property
    def _errand_log(self) -> Path:
        return self._work.root / "errands.log"

    def stop(self) -> None:
        """End what this process started; a training that is cut short leaves no result."""
        running = [self._errand] if self._errand is not None else []
        running += [self._training.process] if self._training is not None else []
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, words: tuple[str, ...], log_file: Path, *kept: int) -> subprocess.Popen[bytes]:
        settings = self._params.model_dump(mode="json", by_alias=True)
        replace_text(self._settings, yaml.safe_dump(settings, sort_keys=False))
        command = own_command(*words, "--params", str(self._settings), "--nice")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as sink:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=own_environment(), pass_fds=kept
            )


def _kind(words: tuple[str, ...]) -> tuple[str, ...]:
    """`models aliases`, whatever the versions."""
    return words[:2]


def _closed(training: Training, how: str, wall: datetime) -> bool:
    """Give a training that is over, and left no result, one that tells its last words; whether it has one."""
    try:
        if training.result() is None:
            training.finish(_failure(training, how, wall))
    except MetercastError:
        return True  # whoever takes results says so
    except OSError:
        return False
    return True


def _failure(training: Training, how: str, wall: datetime) -> Result:
    words = training.log.read_text(errors="replace").strip().splitlines() if training.log.exists() else []
    said = words[-1][:LAST_WORDS] if words else "it said nothing"
    begun = training.begun()
    return Result(
        id=training.id,
        reason=begun[0] if begun is not None else "command",
        outcome="failed",
        reasons=[f"{how}: {said}"],
        started_at=iso(to_us(wall)),
    )
