"""Whatever chunks come in whatever order, they make the artifact or nothing, and never more than was claimed."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifacts import ArtifactFolder
from edge.kept import ATTEMPTS_AT_MOST
from edge.transfer import FEW, Offered, Transfer, fitting
from shared.errors import ModelRefused
from shared.manifest import CHUNK_BYTES, Manifest, Packed, digest_of, pack, unpack
from tests.unit.test_admission import CLAIMS

ARTIFACT = random.Random(1).randbytes(3 * CHUNK_BYTES + 5_000)  # does not shrink: four chunks
PACKED = pack(ARTIFACT)


def _manifest(packed: Packed = PACKED, **claims: object) -> Manifest:
    return Manifest(**(CLAIMS | packed.claims | claims))


_NUMBERS = st.integers(-2, 6)
_CONTENT = st.one_of(st.sampled_from(PACKED.chunks), st.binary(max_size=64), st.just(b"x" * (CHUNK_BYTES + 1)))


@given(st.lists(st.tuples(_NUMBERS, _CONTENT), max_size=30), st.permutations(range(len(PACKED.chunks))))
def test_any_chunks_in_any_order_make_the_artifact_or_nothing(
    garbage: list[tuple[int, bytes]], order: list[int]
) -> None:
    transfer = Transfer(_manifest())
    for number, content in garbage:
        transfer.offer(number, content)
        assert sum(map(len, transfer.chunks.values())) <= transfer.manifest.compressed_size
    for number in order:
        transfer.offer(number, PACKED.chunks[number])
    assert transfer.missing == []
    assert unpack(transfer.manifest, transfer.in_order()) == ARTIFACT


def test_a_chunk_is_taken_once_ignored_when_here_and_bad_when_it_is_another() -> None:
    transfer = Transfer(_manifest())
    assert transfer.offer(0, PACKED.chunks[1]) is Offered.BAD
    assert transfer.offer(0, PACKED.chunks[0]) is Offered.TAKEN
    assert transfer.offer(0, PACKED.chunks[0]) is Offered.IGNORED
    assert transfer.offer(1, b"") is Offered.IGNORED  # the broker was told to forget it
    assert transfer.offer(4, PACKED.chunks[0]) is Offered.IGNORED
    assert (transfer.bad, transfer.missing) == (1, [1, 2, 3])


def test_what_is_asked_for_is_all_of_it_at_first_and_then_what_is_missing() -> None:
    transfer = Transfer(_manifest())
    assert transfer.wanted_filters("m") == [f"m/artifacts/{PACKED.sha256}/+"]
    transfer.offer(2, PACKED.chunks[2])
    assert transfer.wanted_filters("m") == [f"m/artifacts/{PACKED.sha256}/{number}" for number in (0, 1, 3)]
    many = Transfer(_manifest(chunks=FEW + 2), chunks={0: b"x"})
    assert many.wanted_filters("m") == [f"m/artifacts/{PACKED.sha256}/+"]


def test_chunks_kept_on_disk_are_taken_up_and_those_damaged_there_are_not(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    for number in (0, 1, 3):
        folder.keep_chunk(PACKED.sha256, number, PACKED.chunks[number])
    folder.keep_chunk(PACKED.sha256, 99, b"of another")
    (tmp_path / f"{PACKED.sha256}.chunks" / "1").write_bytes(b"torn")
    transfer = Transfer(_manifest(), fitting(_manifest(), folder.chunks(PACKED.sha256)))
    assert transfer.missing == [1, 2]


def test_chunks_of_an_artifact_no_longer_on_its_way_leave_no_file(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    folder.keep_chunk(PACKED.sha256, 0, PACKED.chunks[0])
    folder.keep_only(frozenset({PACKED.sha256}))
    assert folder.chunks(PACKED.sha256) == {0: PACKED.chunks[0]}
    folder.keep_only(frozenset())
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_saved_whole_again_where_its_file_was_damaged(tmp_path: Path) -> None:
    folder, sha256 = ArtifactFolder(tmp_path / "models"), digest_of(ARTIFACT)
    folder.save(sha256, ARTIFACT)
    (tmp_path / "models" / f"{sha256}.onnx").write_bytes(ARTIFACT[:100])
    assert folder.read(sha256) is None
    later = ArtifactFolder(tmp_path / "models")
    later.save(sha256, ARTIFACT)
    assert later.read(sha256) == ARTIFACT


def test_an_artifact_that_ended_three_processes_in_a_row_while_it_was_loaded_is_loaded_no_more(tmp_path: Path) -> None:
    ended = []
    for _ in range(ATTEMPTS_AT_MOST):
        ended.append(ArtifactFolder(tmp_path).loading(PACKED.sha256))
        ended[-1].__enter__()  # and no more: the process is gone
    folder = ArtifactFolder(tmp_path)
    with pytest.raises(ModelRefused, match="ended 3 times in a row while it loaded it"), folder.loading(PACKED.sha256):
        pass
    folder.keep_only(frozenset({PACKED.sha256}))
    assert len(list(tmp_path.iterdir())) == 1
    folder.keep_only(frozenset())
    assert list(tmp_path.iterdir()) == []


def test_processes_that_end_while_an_artifact_is_loaded_count_in_a_row_only(tmp_path: Path) -> None:
    folder, ended = ArtifactFolder(tmp_path), []
    for _ in range(2):
        for _ in range(ATTEMPTS_AT_MOST - 1):
            ended.append(folder.loading(PACKED.sha256))
            ended[-1].__enter__()
        with folder.loading(PACKED.sha256):
            assert list(tmp_path.iterdir())
        assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_note_an_artifact_is_loaded_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")  # no folder can be made here
    with ArtifactFolder(tmp_path / "models").loading(PACKED.sha256):
        loaded = True
    assert loaded


@pytest.mark.parametrize("claims", [{"size": 100}, {"size": len(ARTIFACT) + 1}, {"sha256": digest_of(b"other")}])
def test_chunks_that_are_as_claimed_but_make_another_artifact_are_refused(claims: dict[str, Any]) -> None:
    transfer = Transfer(_manifest(**claims))
    for number, chunk in enumerate(PACKED.chunks):
        transfer.offer(number, chunk)
    with pytest.raises(ModelRefused):
        unpack(transfer.manifest, transfer.in_order())
