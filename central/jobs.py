"""Trainings run in a process of their own, at low priority, so that recording never waits for one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import yaml

import central
from central.trainings import Reason, Result, Training
from central.work import WorkFolder, replace_text
from shared.clock import iso, to_us
from shared.errors import MetercastError
from shared.params import Params

log = logging.getLogger(__name__)

STOP_WITHIN_S: Final = 10
LAST_WORDS: Final = 300


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


@dataclass(frozen=True, slots=True)
class _Running:
    training: Training
    reason: Reason
    process: subprocess.Popen[bytes]


class Jobs:
    """Processes that `run` starts: one training at a time, and small errands to the registry."""

    def __init__(self, params: Params, work: WorkFolder) -> None:
        self._params = params
        self._work = work
        self._settings = work.root / "params.yaml"
        self._training: _Running | None = None
        self._errands: list[tuple[str, subprocess.Popen[bytes]]] = []

    @property
    def training(self) -> bool:
        """Whether one runs."""
        return self._training is not None

    def train(self, reason: Reason, until_us: int, wall: datetime) -> Training:
        """Start a training on what had ended by `until_us`."""
        training = new_training(self._work, reason, wall)
        words = ["train", "--reason", reason, "--until", iso(until_us), "--out", str(training.folder)]
        self._training = _Running(training, reason, self._start(words, training.log))
        return training

    def errand(self, *words: str) -> None:
        """Start a small command; how it ends is logged."""
        self._errands.append((" ".join(words), self._start(words, self._work.root / "errands.log")))

    def ended(self, wall: datetime) -> bool:
        """Whether the training has ended since the last call; one that left no result gets one that says so."""
        self._errands = [(name, process) for name, process in self._errands if not _finished(name, process)]
        if self._training is None or self._training.process.poll() is None:
            return False
        ended, self._training = self._training, None
        if ended.training.result() is None:
            ended.training.finish(_failure(ended, wall))
        return True

    def stop(self) -> None:
        """End what runs; a training that is cut short leaves no result."""
        running = [*(process for _, process in self._errands), *([self._training.process] if self._training else [])]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, words: list[str] | tuple[str, ...], log_file: Path) -> subprocess.Popen[bytes]:
        settings = self._params.model_dump(mode="json", by_alias=True)
        replace_text(self._settings, yaml.safe_dump(settings, sort_keys=False))
        command = own_command(*words, "--params", str(self._settings), "--nice")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as sink:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=own_environment())


def _finished(name: str, errand: subprocess.Popen[bytes]) -> bool:
    code = errand.poll()
    if code:
        log.warning("errand failed", extra={"command": name, "code": code})
    return code is not None


def _failure(ended: _Running, wall: datetime) -> Result:
    words = ended.training.log.read_text(errors="replace").strip().splitlines()
    said = words[-1][:LAST_WORDS] if words else "it said nothing"
    return Result(
        id=ended.training.id,
        reason=ended.reason,
        outcome="failed",
        reasons=[f"the training ended with code {ended.process.returncode}: {said}"],
        started_at=iso(to_us(wall)),
    )
