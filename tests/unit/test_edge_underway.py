"""Models on their way to an edge: fetched, unpacked, tried out, or refused with the running one untouched."""

import gc
import gzip
import json
import tracemalloc
from typing import Any

import pytest

from edge.effects import (
    ChunkArrived,
    DesiredArrived,
    KeepArtifacts,
    ModelFailed,
    Prove,
    Publish,
    Subscribe,
    Unpack,
    Unsubscribe,
)
from shared.clock import DAY_US
from shared.errors import ModelRefused
from shared.manifest import CHUNK_BYTES, Golden, Manifest, digest_of, pack
from shared.messages import MAX_REASON, Desired
from shared.refusals import Cause
from tests.small_model import manifest_of, small_manifest, small_model
from tests.unit.edge_harness import START_US, EdgeAtDesk
from tests.unit.models_desk import (
    DESIRED,
    big,
    deliver,
    fail,
    install,
    last_report,
    next_forecast,
    want,
)


def test_a_model_whose_file_is_found_damaged_when_it_is_desired_again_is_fetched(desk: EdgeAtDesk) -> None:
    old, new = small_manifest(version=1), small_manifest(version=2, seed=2)
    install(desk, *old)
    install(desk, *new)
    (desk.folder / "models" / f"{old[0].sha256}.onnx").write_bytes(b"damaged")
    back = small_manifest(version=1, step_back_from=2)[0]
    want(desk, back)
    assert desk.node.models.underway.transfers == [back.sha256]
    want(desk, back)
    deliver(desk, *old)
    assert next_forecast(desk)["model"]["version"] == 1
    assert last_report(desk)["refused"] == []


def test_chunks_may_come_in_any_order_and_twice(desk: EdgeAtDesk) -> None:
    artifact, golden = small_model()
    manifest, chunks = manifest_of(artifact, golden), pack(artifact).chunks
    want(desk, manifest)
    for number in [*reversed(range(len(chunks))), 0]:
        desk.tell(ChunkArrived(manifest.sha256, number, chunks[number]))
    assert last_report(desk)["champion"]["version"] == 1


def _broken(**claims: Any) -> tuple[Manifest, list[bytes]]:
    return small_manifest(version=9, **claims)


def _not_onnx() -> tuple[Manifest, list[bytes]]:
    artifact = b"this is not a model" * 100
    return manifest_of(artifact, small_model()[1], 9), pack(artifact).chunks


def _flipped() -> tuple[Manifest, list[bytes]]:
    manifest, chunks = small_manifest(version=9, seed=2)
    damaged = bytearray(chunks[0])
    damaged[len(damaged) // 2] ^= 1
    return manifest, [bytes(damaged), *chunks[1:]]


def _wrong_golden() -> tuple[Manifest, list[bytes]]:
    artifact, golden = small_model()
    off = [[value + 0.01 for value in row] for row in golden.outputs]
    return manifest_of(artifact, golden.model_copy(update={"outputs": off}), 9), pack(artifact).chunks


def _of_another_artifact() -> tuple[Manifest, list[bytes]]:
    """What a manifest says of its chunks is true, but together they are another artifact."""
    other = pack(small_model(seed=2)[0])
    own, golden = small_model()
    return manifest_of(own, golden, 9, **other.claims | {"sha256": "0" * 64}), other.chunks


def _bomb() -> tuple[Manifest, list[bytes]]:
    """A few hundred kilobytes that inflate to 200 MB, and claim to be small."""
    packed = pack(b"\0" * 200_000_000)
    artifact, golden = small_model()
    return manifest_of(artifact, golden, 9, **packed.claims | {"size": 500_000}), packed.chunks


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_not_onnx, Cause.NOT_ONNX),
        (_flipped, Cause.BAD_CHUNK),
        (_wrong_golden, Cause.GOLDEN_ROWS),
        (_of_another_artifact, Cause.BAD_DIGEST),
        (_bomb, Cause.BOMB),
        (lambda: _broken(features=["lag_1_moon"]), Cause.UNKNOWN_FEATURES),
        (lambda: _broken(golden=Golden(inputs=[[1.0]], outputs=[[1.0]])), Cause.GOLDEN_ROWS),
    ],
)
def test_a_model_that_fails_a_check_is_refused_in_a_sentence_and_the_running_one_stays(
    desk: EdgeAtDesk, make: Any, reason: Cause
) -> None:
    install(desk, *small_manifest(version=1))
    manifest, chunks = make()
    install(desk, manifest, chunks)
    reported = last_report(desk)
    assert reported["champion"]["version"] == 1
    (refusal,) = reported["refused"]
    assert (refusal["reason"], refusal["version"]) == (reason, 9)
    assert " " in refusal["detail"]
    assert desk.node.models.refused.counts == {reason: 1}
    assert next_forecast(desk)["model"]["version"] == 1


def test_a_refusal_is_told_in_a_sentence_of_bounded_length(desk: EdgeAtDesk) -> None:
    want(desk, small_manifest(expires="x" * 10_000)[0])
    assert len(last_report(desk)["refused"][0]["detail"]) == MAX_REASON


def test_chunks_nobody_asked_for_and_chunks_too_large_are_not_kept(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    assert desk.tell(ChunkArrived(manifest.sha256, 0, b"x")) == []
    want(desk, manifest)
    assert desk.tell(ChunkArrived(manifest.sha256, 10_000, b"x")) == []
    desk.tell(ChunkArrived(manifest.sha256, 0, b"x" * (CHUNK_BYTES + 1)))
    assert desk.node.models.underway.chunks == {"unwanted": 1, "ignored": 1, "bad": 1}
    assert not list((desk.folder / "models").glob("*"))


def test_a_stalled_transfer_is_asked_for_again(desk: EdgeAtDesk) -> None:
    manifest, _chunks = small_manifest()
    want(desk, manifest)
    assert desk.node.models.stalled() == [Subscribe(f"metercast/artifacts/{manifest.sha256}/+")]


def test_an_artifact_packed_anew_while_on_its_way_is_fetched_in_its_new_pieces(desk: EdgeAtDesk) -> None:
    artifact, golden = small_model(trees=120)
    packed = gzip.compress(artifact, compresslevel=1, mtime=0)  # as another release of zlib might
    chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
    claims = {"compressed_size": len(packed), "chunks": len(chunks), "chunk_sha256": [digest_of(c) for c in chunks]}
    want(desk, manifest_of(artifact, golden, 1))
    desk.tell(ChunkArrived(pack(artifact).sha256, 0, pack(artifact).chunks[0]))
    install(desk, manifest_of(artifact, golden, 1, **claims), chunks)
    assert last_report(desk)["champion"]["version"] == 1


@pytest.mark.parametrize(("off_days", "reason"), [(-3650, "valid_too_long"), (3650, "expired")])
def test_what_a_wrong_clock_refused_is_asked_for_again_until_the_clock_is_right(
    desk: EdgeAtDesk, off_days: int, reason: str
) -> None:
    manifest, chunks = small_manifest()
    message = DesiredArrived(DESIRED, Desired(champion=manifest).encode())
    for _ in range(2):
        desk.tell_at_once(message, START_US + off_days * DAY_US)
        assert last_report(desk)["refused"][0]["reason"] == reason
        assert desk.node.models.stalled() == [Subscribe(DESIRED)]
    desk.tell_at_once(message, START_US)
    deliver(desk, manifest, chunks)
    assert desk.node.models.stalled() == []
    assert (last_report(desk)["champion"]["version"], last_report(desk)["refused"]) == (1, [])


def test_where_forecasts_are_made_chunks_are_only_handed_over_and_files_only_looked_for(desk: EdgeAtDesk) -> None:
    desk.proves = False
    (first, chunks), second = small_manifest(version=1), small_manifest(version=2, seed=2)
    install(desk, first, chunks)
    assert desk.asked == [Unpack(first, tuple(chunks))]
    while desk.asked:
        desk.prove()
    desk.proves = True
    install(desk, *second)
    desk.proves = False
    back = small_manifest(version=1, step_back_from=2)[0]
    want(desk, back)
    assert desk.asked == [Unpack(back, None)]


def test_chunks_that_make_nothing_condemn_no_others_of_the_same_artifact(desk: EdgeAtDesk) -> None:
    artifact, golden = small_model()
    false = pack(small_model(seed=2)[0])
    desk.proves = False
    install(desk, manifest_of(artifact, golden, 1, **false.claims | {"sha256": digest_of(artifact)}), false.chunks)
    true = manifest_of(artifact, golden, 2)
    want(desk, true)  # while it is being found out
    desk.prove()
    assert desk.node.models.underway.transfers == [true.sha256]
    desk.proves = True
    deliver(desk, true, pack(artifact).chunks)
    assert next_forecast(desk)["model"]["version"] == 2
    assert desk.node.models.refused.counts == {"bad_digest": 1}


# -- transfer ----------------------------------------------------------------------------------------------------------


def test_a_wrong_chunk_is_told_once_and_the_right_one_completes_the_transfer(desk: EdgeAtDesk) -> None:
    manifest, chunks = big()
    want(desk, manifest)
    for _ in range(3):
        desk.tell(ChunkArrived(manifest.sha256, 0, chunks[0][::-1]))
    (refusal,) = last_report(desk)["refused"]
    assert (refusal["reason"], refusal["detail"]) == ("bad_chunk", "chunk 0 is not what the manifest says")
    assert len(desk.of_topic("models/reported")) == 2
    deliver(desk, manifest, chunks)
    assert last_report(desk)["champion"]["version"] == 1
    assert last_report(desk)["refused"] == []


def test_a_transfer_goes_on_after_a_restart_with_what_is_missing(desk: EdgeAtDesk) -> None:
    manifest, chunks = big()
    want(desk, manifest)
    deliver(desk, manifest, chunks[:-1])
    desk.restart()
    desk.effects.clear()
    want(desk, manifest)
    last = len(chunks) - 1
    assert [effect for effect in desk.effects if isinstance(effect, Subscribe)] == [
        Subscribe(f"metercast/artifacts/{manifest.sha256}/{last}")
    ]
    desk.tell(ChunkArrived(manifest.sha256, last, chunks[last]))
    assert last_report(desk)["champion"]["version"] == 1
    assert [path.name for path in (desk.folder / "models").iterdir()] == [f"{manifest.sha256}.onnx"]


def test_chunks_stay_on_disk_until_it_is_known_what_is_wanted_whatever_else_is_cleared_up(desk: EdgeAtDesk) -> None:
    first, (manifest, chunks) = small_manifest(version=1), big(version=2)
    install(desk, *first)
    want(desk, manifest)
    deliver(desk, manifest, chunks[:-1])
    (desk.folder / "models" / f"{first[0].sha256}.onnx").write_bytes(b"damaged")
    desk.restart()
    desk.effects.clear()
    desk.tick()
    assert [type(effect) for effect in desk.effects if isinstance(effect, KeepArtifacts)] == [KeepArtifacts]
    want(desk, manifest)
    assert Subscribe(f"metercast/artifacts/{manifest.sha256}/{len(chunks) - 1}") in desk.effects


def test_chunks_that_are_all_on_disk_are_taken_up_without_another(desk: EdgeAtDesk) -> None:
    manifest, chunks = big()
    for number, chunk in enumerate(chunks):
        desk.artifacts.keep_chunk(manifest.sha256, number, chunk)
    want(desk, manifest)
    assert last_report(desk)["champion"]["version"] == 1


def test_a_chunk_that_was_damaged_on_disk_is_fetched_again(desk: EdgeAtDesk) -> None:
    manifest, chunks = big()
    want(desk, manifest)
    deliver(desk, manifest, chunks[:-1])
    desk.restart()
    (desk.folder / "models" / f"{manifest.sha256}.chunks" / "0").write_bytes(b"damaged")
    desk.effects.clear()
    want(desk, manifest)
    asked = [effect.topic_filter for effect in desk.effects if isinstance(effect, Subscribe)]
    assert [topic.rpartition("/")[2] for topic in asked] == ["0", str(len(chunks) - 1)]


def test_a_transfer_that_is_wanted_no_more_leaves_nothing(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    manifest, chunks = big(version=2)
    want(desk, manifest)
    deliver(desk, manifest, chunks[:1])
    effects = want(desk, small_manifest(version=3, seed=2)[0])
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects
    assert not list((desk.folder / "models").glob("*.chunks"))


def test_what_an_earlier_process_was_subscribed_to_is_unsubscribed(desk: EdgeAtDesk) -> None:
    manifest, _ = big(version=2)
    want(desk, manifest)
    for _ in range(2):
        desk.restart()
    effects = want(desk, small_manifest(version=3)[0])
    assert Unsubscribe(f"metercast/artifacts/{manifest.sha256}/+") in effects


# -- proofs ------------------------------------------------------------------------------------------------------------


def test_of_two_manifests_in_quick_succession_the_newer_wins_whichever_is_proven_first(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    desk.proves = False
    second, third = small_manifest(version=2, seed=2), small_manifest(version=3, seed=3)
    install(desk, *second)
    install(desk, *third)
    assert next_forecast(desk)["model"]["version"] == 1
    while desk.asked:
        desk.prove()
    assert [row["version"] for row in [next_forecast(desk)["model"]]] == [3]
    assert desk.node.models.swaps == 2
    assert last_report(desk)["refused"] == []


@pytest.mark.parametrize("is_first_true", [True, False])
def test_of_two_manifests_of_one_artifact_in_quick_succession_the_newer_is_proven_too(
    desk: EdgeAtDesk, is_first_true: bool
) -> None:
    artifact, golden = small_model()
    other = golden.model_copy(update={"outputs": [[cell + 1 for cell in row] for row in golden.outputs]})
    desk.proves = False
    install(desk, manifest_of(artifact, golden if is_first_true else other, 1), pack(artifact).chunks)
    want(desk, manifest_of(artifact, golden, 2))
    while desk.asked:
        desk.prove()
    assert next_forecast(desk)["model"]["version"] == 2
    assert last_report(desk)["refused"] == []
    assert desk.node.models.swaps == 1


def test_one_artifact_under_two_claims_is_proven_once_for_each_role(desk: EdgeAtDesk) -> None:
    champion, chunks = small_manifest(version=2)
    challenger = small_manifest(version=1)[0]
    want(desk, champion, challenger)
    deliver(desk, champion, chunks)
    assert [last_report(desk)[role]["version"] for role in ("champion", "challenger")] == [2, 1]
    assert len([effect for effect in desk.effects if isinstance(effect, Prove)]) == 2
    assert not desk.node.models.lineup.challenger


@pytest.mark.parametrize("is_unpacked", [True, False])
def test_a_model_that_is_wanted_away_and_back_while_it_is_proven_is_saved_and_fetched_no_more(
    desk: EdgeAtDesk, is_unpacked: bool
) -> None:
    install(desk, *small_manifest(version=1))
    desk.proves = False
    first, chunks = small_manifest(version=2, seed=2)
    install(desk, first, chunks)
    if is_unpacked:
        desk.prove()
    want(desk, small_manifest(version=3, seed=3)[0])
    want(desk, small_manifest(version=2, seed=2, step_back_from=3)[0])
    assert bool(desk.node.models.underway.transfers) == is_unpacked
    while desk.asked:
        desk.prove()
    assert desk.node.models.underway.transfers == []
    desk.restart()
    assert next_forecast(desk)["model"]["version"] == 2


def test_one_that_fails_costs_nothing_of_a_newer_one_that_is_on_its_way(desk: EdgeAtDesk) -> None:
    for version in (1, 2):
        install(desk, *small_manifest(version=version, seed=version))
    newest, chunks = small_manifest(version=3, seed=3)
    want(desk, newest)
    fail(desk, "champion")
    assert next_forecast(desk)["model"]["version"] == 1
    deliver(desk, newest, chunks)
    assert next_forecast(desk)["model"]["version"] == 3


def test_a_model_that_was_refused_is_not_tried_again_for_the_same_claim(desk: EdgeAtDesk) -> None:
    manifest, chunks = _wrong_golden()
    install(desk, manifest, chunks)
    assert not [effect for effect in want(desk, manifest) if isinstance(effect, Subscribe)]
    assert desk.node.models.refused.counts == {"golden_rows": 1}
    desk.restart()
    assert [effect for effect in want(desk, manifest) if isinstance(effect, Subscribe)]


def test_a_model_that_ended_the_process_each_time_it_was_loaded_is_never_tried_again(desk: EdgeAtDesk) -> None:
    manifest, chunks = small_manifest()
    desk.proves = False
    install(desk, manifest, chunks)
    desk.prove()  # unpacked
    assert [type(question) for question in desk.asked] == [Prove]
    ended = ModelRefused(Cause.FAILED_RUNNING, "the edge ended 3 times in a row while it loaded it")
    desk.tell(ModelFailed(manifest, ended))
    for _ in range(2):
        assert [refusal["reason"] for refusal in last_report(desk)["refused"]] == ["failed_running"]
        desk.restart()
        desk.asked.clear()
        install(desk, manifest, chunks)
        assert not desk.asked


def test_desired_messages_that_come_to_nothing_take_no_memory(desk: EdgeAtDesk) -> None:
    manifest, chunks = _wrong_golden()
    install(desk, manifest, chunks)
    stranger = manifest.model_copy(update={"version": 10})
    payloads = [Desired(champion=one).encode() for one in (manifest, stranger)]

    def held_after(count: int) -> int:
        for number in range(count):
            desk.node.handle(DesiredArrived(DESIRED, payloads[number % 2]), START_US)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before, after = held_after(30), held_after(100)
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


# -- what comes to nothing ---------------------------------------------------------------------------------------------


def test_what_is_refused_is_told_each_time_and_written_never(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    forged = small_manifest(version=2)[0].model_copy(update={"record_version": 1})
    kinds = []
    for _ in range(2):
        desk.effects.clear()
        want(desk, forged)
        kinds.append([type(effect) for effect in desk.effects])
        assert last_report(desk)["refused"][0]["reason"] == "bad_signature"
    assert kinds == [[Publish], [Publish]]


def test_however_many_are_refused_in_one_turn_of_the_loop_they_are_told_together(desk: EdgeAtDesk) -> None:
    install(desk, *small_manifest(version=1))
    forged = [small_manifest()[0].model_copy(update={"sha256": f"{number:064x}"}) for number in range(3)]
    for one in forged:
        assert desk.node.handle(DesiredArrived(DESIRED, Desired(champion=one).encode()), START_US) == []
    (told,) = desk.node.models.tell_changes()
    assert isinstance(told, Publish)
    assert [one["sha256"] for one in json.loads(told.payload)["refused"]] == [one.sha256 for one in forged]
    assert desk.node.models.tell_changes() == []
