"""Models that are awaited: their artifacts are fetched in chunks or read from disk, unpacked, and tried out.

    awaited ─┬─ Subscribe ─► chunks ─┬─ Unpack ─► Unpacked ── Prove ─► ModelProven ─► runs (edge/models.py)
             └─ on disk, in part ────┘                            └──► ModelFailed ─► refused

Invariants: what is awaited was admitted (edge/admission.py) and does not run yet; nothing is inflated, read whole or
tried out here, where forecasts would have to wait for it, but in a thread aside (edge/prover.py); one proof is under
way at a time, the newest awaited first; an answer about what is no longer awaited changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from edge.effects import Effect, Found, KeepChunk, Prove, SaveArtifact, Subscribe, Unpack, Unsubscribe
from edge.refused import Refused
from edge.transfer import Offered, Transfer, of_same_chunks
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.refusals import Cause
from shared.topics import SiteTopics, artifact_chunks


class Shelf(Protocol):
    """What is on disk of artifacts."""

    def has(self, sha256: str) -> bool:
        """Whether there is a file or are chunks of it; whether they are whole shows when they are read."""

    def read(self, sha256: str) -> bytes | None:
        """The artifact, or None when it is not here or damaged."""


class Underway:
    """The models that are awaited, and how far each has come."""

    def __init__(self, topics: SiteTopics, shelf: Shelf, refused: Refused) -> None:
        self.awaited: dict[str, Manifest] = {}  # by role, the newest last
        self.chunks: Counter[str] = Counter()  # that came, by what became of them
        self._topics = topics
        self._shelf = shelf
        self._refused = refused
        self._transfers: dict[str, Transfer] = {}  # by sha256
        self._stale: set[str] = set()  # sha256s that an earlier process was subscribed to
        self._unpacking: set[str] = set()  # sha256s of which it is being found out what their chunks or files hold
        self._ready: dict[str, bytes] = {}  # by sha256: artifacts that came whole and wait for their proof
        self._proving: Prove | None = None

    @property
    def transfers(self) -> list[str]:
        """Digests of the artifacts that this process, or one before it, is subscribed to."""
        return sorted({*self._transfers, *self._stale})

    def resume(self, transfers: Iterable[str]) -> None:
        """Know what an earlier process was subscribed to, to end that unless it is awaited again."""
        self._stale = set(transfers)

    # -- what is awaited -------------------------------------------------------------------------------------------

    def begin(self, role: str, manifest: Manifest) -> list[Effect]:
        """Await a model in a role: its artifact is fetched, unless it is here."""
        self.drop(role)
        self.awaited[role] = manifest
        sha256 = manifest.sha256
        if sha256 in self._ready or sha256 in self._unpacking:
            return []
        if sha256 not in self._transfers and self._shelf.has(sha256):
            return self._unpack(manifest, None)
        return self._fetch(manifest)

    def begin_again(self, role: str, manifest: Manifest) -> None:
        """Await a model whose file on disk is not what it was; `stalled` asks for its chunks."""
        self.awaited[role] = manifest
        self._fetch(manifest)

    def drop(self, role: str) -> None:
        """Await nothing in a role; what was on its way for it ends with `forget_unawaited`."""
        self.awaited.pop(role, None)

    def drop_artifact(self, sha256: str) -> None:
        """Await an artifact in no role, whatever is claimed of it."""
        for role in [role for role, manifest in self.awaited.items() if manifest.sha256 == sha256]:
            del self.awaited[role]
        self._ready.pop(sha256, None)

    @property
    def sha256s(self) -> set[str]:
        """Whose files and chunks on disk are needed: of earlier processes too, until it is known what is awaited."""
        return {manifest.sha256 for manifest in self.awaited.values()} | self._stale

    def forget_earlier(self) -> list[Effect]:
        """Give up what an earlier process fetched and this one does not."""
        gone = [sha256 for sha256 in self._stale if not self._is_awaited(sha256)]
        self._stale.clear()
        return [effect for sha256 in gone for effect in self._end_transfer(sha256)]

    def forget_unawaited(self) -> list[Effect]:
        """Give up what was on its way for a model that is awaited no more."""
        gone = [sha256 for sha256 in self._transfers if not self._is_awaited(sha256)]
        self._ready = {sha256: artifact for sha256, artifact in self._ready.items() if self._is_awaited(sha256)}
        return [effect for sha256 in gone for effect in self._end_transfer(sha256)]

    def _is_awaited(self, sha256: str) -> bool:
        return any(manifest.sha256 == sha256 for manifest in self.awaited.values())

    # -- chunks ----------------------------------------------------------------------------------------------------

    def _fetch(self, manifest: Manifest, kept: Mapping[int, bytes] | None = None) -> list[Effect]:
        """Ask for its chunks, but for those that were `kept` on disk and fit."""
        sha256 = manifest.sha256
        transfer = self._transfers.get(sha256)
        if transfer is None or not transfer.is_of(manifest):
            transfer = Transfer(manifest, dict(kept or {}), asked=transfer.asked if transfer else set())
            self._transfers[sha256] = transfer
        transfer.manifest = manifest  # the newest: what was claimed before is wanted no more
        if not transfer.missing:
            return self._end_whole(transfer)
        return [Subscribe(one) for one in transfer.wanted_filters(self._topics.root)]

    def on_chunk(self, sha256: str, number: int, payload: bytes, at: str) -> list[Effect]:
        """Take one chunk; after the last one it is found out what they make together."""
        transfer = self._transfers.get(sha256)
        if transfer is None:
            self.chunks["unwanted"] += 1
            return []
        offered = transfer.offer(number, payload)
        self.chunks[offered.name.lower()] += 1
        if offered is Offered.BAD:  # told once: the right one may come yet
            wrong = ModelRefused(Cause.BAD_CHUNK, f"chunk {number} is not what the manifest says")
            self._refused.note(transfer.manifest, wrong, at)
        if offered is not Offered.TAKEN:
            return []
        return [KeepChunk(sha256, number, payload)] if transfer.missing else self._end_whole(transfer)

    def _end_whole(self, transfer: Transfer) -> list[Effect]:
        return [*self._end_transfer(transfer.manifest.sha256), *self._unpack(transfer.manifest, transfer.in_order())]

    def stalled(self) -> list[Effect]:
        """Ask again for what is missing of artifacts of which nothing came of late."""
        waiting = [transfer for transfer in self._transfers.values() if not transfer.moves]
        for transfer in self._transfers.values():
            transfer.moves = False
        return [Subscribe(one) for transfer in waiting for one in transfer.wanted_filters(self._topics.root)]

    def _end_transfer(self, sha256: str) -> list[Effect]:
        transfer = self._transfers.pop(sha256, None)
        topics = {artifact_chunks(self._topics.root, sha256)}
        topics |= set(transfer.asked if transfer else ())
        return [Unsubscribe(topic) for topic in sorted(topics)]

    # -- artifacts -------------------------------------------------------------------------------------------------

    def _unpack(self, manifest: Manifest, chunks: tuple[bytes, ...] | None) -> list[Effect]:
        self._unpacking.add(manifest.sha256)
        return [Unpack(manifest, chunks)]

    def on_unpacked(self, manifest: Manifest, found: Found, at: str) -> list[Effect]:
        """Try out an artifact that is what it should be; of one that is on disk in part or not at all, fetch the rest.

        Meanwhile the same artifact may have come to be awaited in other pieces.
        """
        sha256 = manifest.sha256
        self._unpacking.discard(sha256)
        if isinstance(found, ModelRefused):
            self._refuse_chunks(manifest, found, at)
        elif isinstance(found, bytes) and self._is_awaited(sha256):
            self._ready[sha256] = found
        kept = found if isinstance(found, dict) else {}
        missing = [one for one in self.awaited.values() if one.sha256 == sha256 and sha256 not in self._ready]
        asked = [
            effect for one in missing for effect in self._fetch(one, kept if of_same_chunks(one, manifest) else None)
        ]
        return [*asked, *self.prove_next()]

    def _refuse_chunks(self, manifest: Manifest, refused: ModelRefused, at: str) -> None:
        """The chunks are what was signed and make something else: whatever else is claimed of them, it is in vain."""
        same = {role: one for role, one in self.awaited.items() if of_same_chunks(one, manifest)}
        for role, one in same.items():
            del self.awaited[role]
            self._refused.note(one, refused, at, in_vain=True)
        if not same:
            self._refused.note(manifest, refused, at, in_vain=True)

    # -- proofs ----------------------------------------------------------------------------------------------------

    def prove_next(self) -> list[Effect]:
        """Begin with the newest awaited model that is whole, unless a proof is under way."""
        if self._proving is not None:
            return []
        for manifest in reversed(self.awaited.values()):
            if manifest.sha256 in self._ready:
                self._proving = Prove(manifest, self._ready[manifest.sha256])
                return [self._proving]
        return []

    def on_proven(self, manifest: Manifest) -> tuple[dict[str, Manifest], list[Effect]]:
        """The roles that this model was awaited in, under which manifest each, and what to do; they wait no more."""
        question, self._proving = self._proving, None
        arrived = self._leave(manifest)
        saved = [SaveArtifact(manifest.sha256, question.artifact)] if question is not None and arrived else []
        return arrived, [*saved, *self._end_wait(manifest.sha256), *self.prove_next()]

    def on_failed(self, manifest: Manifest, refused: ModelRefused, at: str) -> list[Effect]:
        """Await a model no more that did not pass, and do not try the same claim again; what fails here, never."""
        self._proving = None
        self._leave(manifest)
        if refused.cause is Cause.FAILED_RUNNING:
            self._refused.fail(manifest, refused, at)
        else:
            self._refused.note(manifest, refused, at, in_vain=True)
        return [*self._end_wait(manifest.sha256), *self.prove_next()]

    def _leave(self, manifest: Manifest) -> dict[str, Manifest]:
        roles = [role for role, awaited in self.awaited.items() if awaited.is_same_model(manifest)]
        return {role: self.awaited.pop(role) for role in roles}

    def _end_wait(self, sha256: str) -> list[Effect]:
        """Hold an artifact no longer, and fetch it no more, unless it waits for the proof of another claim."""
        if self._is_awaited(sha256):
            return []
        self._ready.pop(sha256, None)
        return self._end_transfer(sha256) if sha256 in self._transfers else []
