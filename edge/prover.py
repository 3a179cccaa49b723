"""Models are tried out in a thread of their own, one after the other, so that no forecast waits for a proof.

Invariants: every question gets one answer, whatever trying out does; the thread begins with the first question and
never keeps the process from ending.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from edge.effects import ModelFailed, ModelProven, Prove
from edge.inference import Predictor
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause

log = logging.getLogger(__name__)

TryOut = Callable[[bytes, Manifest], Predictor]
Answer = ModelProven | ModelFailed
STOP_S: Final = 2.0  # a proof under way at the end may take longer: nobody waits for it


def answer_to(question: Prove, try_out: TryOut) -> Answer:
    """Try the model out here and now; whatever goes wrong is the model's failure."""
    try:
        return ModelProven(question.manifest, try_out(question.artifact, question.manifest))
    except ModelRefused as refused:
        return ModelFailed(question.manifest, refused)
    except Exception as error:
        log.exception("a proof ended in an error of ours")
        text = f"it could not be tried out: {type(error).__name__}: {error}"
        return ModelFailed(question.manifest, ModelRefused(Cause.CRASHED, text))


class Prover:
    """The thread and its two queues."""

    def __init__(self, try_out: TryOut) -> None:
        self._try_out = try_out
        self._questions: SimpleQueue[Prove | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, question: Prove) -> None:
        """Have a model tried out; returns at once."""
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
        """End the thread after the proof in hand, or leave it behind when that takes longer than STOP_S."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join(STOP_S)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answers.put(answer_to(question, self._try_out))
