"""Models are tried out in a thread of their own, so that no reading and no forecast waits for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from edge.effects import ModelFailed, ModelProven, Prove
from edge.inference import Predictor
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause

log = logging.getLogger(__name__)

Answer = ModelProven | ModelFailed
ProveModel = Callable[[bytes, Manifest], Predictor]


def answer(prove: ProveModel, asked: Prove) -> Answer:
    """Try a model out and say what came of it; raises nothing."""
    try:
        return ModelProven(asked.manifest, prove(asked.artifact, asked.manifest))
    except ModelRefused as refused:
        return ModelFailed(asked.manifest, refused)
    except Exception as error:
        log.exception("a model could not be tried out")
        return ModelFailed(asked.manifest, ModelRefused(Cause.CRASHED, f"it could not be tried out: {error!r}"[:200]))


class Prover:
    """Answers what it is asked, one after the other."""

    def __init__(self, prove: ProveModel) -> None:
        self._prove = prove
        self._asked: queue.SimpleQueue[Prove] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, asked: Prove) -> None:
        """Begin to try a model out; its process ends with ours."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prover", daemon=True)
            self._thread.start()
        self._asked.put(asked)

    def answers(self) -> list[Answer]:
        """What has come of what was asked, since the last call."""
        return [self._answers.get_nowait() for _ in range(self._answers.qsize())]

    def _work(self) -> None:
        while True:
            self._answers.put(answer(self._prove, self._asked.get()))
