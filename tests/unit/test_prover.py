"""The thread that tries models out: nobody waits for it, and every question gets its answer."""

import threading
import time

from edge.effects import ModelFailed, Prove
from edge.inference import Predictor
from edge.prover import Answer, Prover
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause
from tests.small_model import small_manifest
from tests.waiting import PATIENCE_S


def _wait(prover: Prover, count: int) -> list[Answer]:
    answers: list[Answer] = []
    until_s = time.monotonic() + PATIENCE_S
    while len(answers) < count and time.monotonic() < until_s:
        answers += prover.answers()
        time.sleep(0.002)
    return answers


def _refuse(artifact: bytes, manifest: Manifest) -> Predictor:
    if artifact == b"bug":
        raise ZeroDivisionError("of ours")
    raise ModelRefused(Cause.NOT_ONNX, f"{artifact!r} is not version {manifest.version}")


def test_questions_are_answered_in_order_whatever_trying_out_does() -> None:
    prover, manifest = Prover(_refuse), small_manifest()[0]
    for artifact in (b"one", b"bug", b"two"):
        prover.ask(Prove(manifest, artifact))
    answers = _wait(prover, 3)
    prover.stop()
    causes = [answer.refused.cause for answer in answers if isinstance(answer, ModelFailed)]
    assert causes == [Cause.NOT_ONNX, Cause.CRASHED, Cause.NOT_ONNX]


def test_asking_returns_at_once_and_so_does_stopping_with_nothing_asked() -> None:
    gate = threading.Event()

    def slow(artifact: bytes, manifest: Manifest) -> Predictor:
        gate.wait(PATIENCE_S)
        return _refuse(artifact, manifest)

    prover = Prover(slow)
    prover.stop()
    prover.ask(Prove(small_manifest()[0], b"one"))
    assert prover.answers() == []
    gate.set()
    assert len(_wait(prover, 1)) == 1
    prover.stop()
    assert "prover" not in {thread.name for thread in threading.enumerate()}
