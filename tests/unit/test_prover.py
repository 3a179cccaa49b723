"""The thread that tries models out: nobody waits for it, and every question gets its answer."""

import threading
import time
from pathlib import Path

from edge.artifacts import ArtifactFolder
from edge.effects import ModelFailed, Prove, Unpack, Unpacked
from edge.inference import Predictor
from edge.prover import Answer, Prover
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause
from tests.small_model import small_manifest, small_model
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


def test_questions_are_answered_in_order_whatever_trying_out_does(tmp_path: Path) -> None:
    prover, manifest = Prover(ArtifactFolder(tmp_path), _refuse), small_manifest()[0]
    for artifact in (b"one", b"bug", b"two"):
        prover.ask(Prove(manifest, artifact))
    answers = _wait(prover, 3)
    prover.stop()
    causes = [answer.refused.cause for answer in answers if isinstance(answer, ModelFailed)]
    assert causes == [Cause.NOT_ONNX, Cause.CRASHED, Cause.NOT_ONNX]


def _found(folder: ArtifactFolder, *questions: Unpack) -> list[object]:
    """What was found, a refusal by its cause."""
    prover = Prover(folder, _refuse)
    for question in questions:
        prover.ask(question)
    answers = [answer.found for answer in _wait(prover, len(questions)) if isinstance(answer, Unpacked)]
    prover.stop()
    return [answer.cause if isinstance(answer, ModelRefused) else answer for answer in answers]


def test_chunks_are_unpacked_and_what_is_wrong_with_them_is_the_answer(tmp_path: Path) -> None:
    manifest, chunks = small_manifest()
    bomb, other = (manifest.model_copy(update=claim) for claim in ({"size": 1000}, {"sha256": "cd" * 32}))
    questions = [Unpack(one, tuple(chunks)) for one in (manifest, bomb, other)]
    assert _found(ArtifactFolder(tmp_path), *questions) == [small_model()[0], Cause.BOMB, Cause.BAD_DIGEST]


def test_what_is_on_disk_is_found_the_artifact_else_the_chunks_that_are_still_what_they_were(tmp_path: Path) -> None:
    folder, (manifest, chunks) = ArtifactFolder(tmp_path), small_manifest(trees=240)
    assert _found(folder, Unpack(manifest, None)) == [{}]
    for number, chunk in enumerate(chunks[:2]):
        folder.keep_chunk(manifest.sha256, number, chunk)
    (tmp_path / f"{manifest.sha256}.chunks" / "0").write_bytes(b"torn")
    assert _found(folder, Unpack(manifest, None)) == [{1: chunks[1]}]
    folder.save(manifest.sha256, small_model(trees=240)[0])
    assert _found(folder, Unpack(manifest, None)) == [small_model(trees=240)[0]]


def test_asking_returns_at_once_and_so_does_stopping_with_nothing_asked(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(artifact: bytes, manifest: Manifest) -> Predictor:
        gate.wait(PATIENCE_S)
        return _refuse(artifact, manifest)

    prover = Prover(ArtifactFolder(tmp_path), slow)
    prover.stop()
    prover.ask(Prove(small_manifest()[0], b"one"))
    assert prover.answers() == []
    gate.set()
    assert len(_wait(prover, 1)) == 1
    prover.stop()
    assert "prover" not in {thread.name for thread in threading.enumerate()}
