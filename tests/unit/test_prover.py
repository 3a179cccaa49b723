"""The thread that tries models out: nobody waits for it, and every question gets its answer."""

import threading
import time

from edge.effects import ModelFailed, Prove, Unpack, Unpacked
from edge.inference import Predictor
from edge.prover import Answer, Prover
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause
from tests.small_model import small_manifest, small_model
from tests.waiting import PATIENCE_S

ON_DISK: dict[str, bytes] = {"cd" * 32: b"kept"}


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
    prover, manifest = Prover(ON_DISK.get, _refuse), small_manifest()[0]
    for artifact in (b"one", b"bug", b"two"):
        prover.ask(Prove(manifest, artifact))
    answers = _wait(prover, 3)
    prover.stop()
    causes = [answer.refused.cause for answer in answers if isinstance(answer, ModelFailed)]
    assert causes == [Cause.NOT_ONNX, Cause.CRASHED, Cause.NOT_ONNX]


def test_artifacts_are_unpacked_or_read_and_what_is_wrong_with_them_is_the_answer() -> None:
    prover, (manifest, chunks) = Prover(ON_DISK.get, _refuse), small_manifest()
    bomb = manifest.model_copy(update={"size": 1000})
    kept = manifest.model_copy(update={"sha256": "cd" * 32})
    prover.ask(Unpack(manifest, tuple(chunks)))
    prover.ask(Unpack(bomb, tuple(chunks)))
    prover.ask(Unpack(kept, tuple(chunks)))
    prover.ask(Unpack(kept, None))
    prover.ask(Unpack(manifest, None))
    answers = [answer.found for answer in _wait(prover, 5) if isinstance(answer, Unpacked)]
    prover.stop()
    found = [answer.cause if isinstance(answer, ModelRefused) else answer for answer in answers]
    assert found == [small_model()[0], Cause.BOMB, Cause.BAD_DIGEST, b"kept", None]


def test_asking_returns_at_once_and_so_does_stopping_with_nothing_asked() -> None:
    gate = threading.Event()

    def slow(artifact: bytes, manifest: Manifest) -> Predictor:
        gate.wait(PATIENCE_S)
        return _refuse(artifact, manifest)

    prover = Prover(ON_DISK.get, slow)
    prover.stop()
    prover.ask(Prove(small_manifest()[0], b"one"))
    assert prover.answers() == []
    gate.set()
    assert len(_wait(prover, 1)) == 1
    prover.stop()
    assert "prover" not in {thread.name for thread in threading.enumerate()}
