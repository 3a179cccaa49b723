"""What takes time is done in a thread of its own, one after the other, so that no forecast waits for it.

Artifacts are unpacked or read from disk there, and models tried out. Invariants: every question gets one answer,
whatever trying out does; the thread begins with the first question and never keeps the process from ending.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from edge.artifacts import ArtifactFolder
from edge.effects import Found, ModelFailed, ModelProven, Prove, Unpack, Unpacked
from edge.inference import Predictor
from edge.transfer import fitting
from shared.errors import ModelRefused
from shared.manifest import Manifest, unpack
from shared.refusals import Cause

log = logging.getLogger(__name__)

TryOut = Callable[[bytes, Manifest], Predictor]
Question = Unpack | Prove
Answer = Unpacked | ModelProven | ModelFailed
STOP_S: Final = 2.0  # a proof under way at the end may take longer: nobody waits for it


def answer_to(question: Question, folder: ArtifactFolder, try_out: TryOut) -> Answer:
    """Do what is asked here and now; whatever goes wrong is the model's failure."""
    try:
        match question:
            case Unpack(manifest, chunks):
                return Unpacked(manifest, _kept(manifest, folder) if chunks is None else unpack(manifest, chunks))
            case Prove(manifest, artifact):
                return ModelProven(manifest, try_out(artifact, manifest))
    except ModelRefused as refused:
        return _failed(question, refused)
    except Exception as error:
        log.exception("a proof ended in an error of ours")
        text = f"it could not be tried out: {type(error).__name__}: {error}"
        return _failed(question, ModelRefused(Cause.CRASHED, text))


def _kept(manifest: Manifest, folder: ArtifactFolder) -> Found:
    """The artifact that is on disk, else its chunks, as far as either is what it was."""
    artifact = folder.read(manifest.sha256)
    return artifact if artifact is not None else fitting(manifest, folder.chunks(manifest.sha256))


def _failed(question: Question, refused: ModelRefused) -> Answer:
    unpacked = isinstance(question, Unpack)
    return Unpacked(question.manifest, refused) if unpacked else ModelFailed(question.manifest, refused)


class Prover:
    """The thread and its two queues."""

    def __init__(self, folder: ArtifactFolder, try_out: TryOut) -> None:
        self._folder = folder
        self._try_out = try_out
        self._questions: SimpleQueue[Question | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, question: Question) -> None:
        """Have an artifact unpacked or a model tried out; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prover", daemon=True)
            self._thread.start()
        self._questions.put(question)

    def answers(self) -> list[Answer]:
        """What was found out since the last call."""
        found: list[Answer] = []
        while True:
            try:
                found.append(self._answers.get_nowait())
            except Empty:
                return found

    def stop(self) -> None:
        """End the thread after what it has in hand, or leave it behind when that takes longer than STOP_S."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join(STOP_S)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answers.put(answer_to(question, self._folder, self._try_out))
