"""A manifest: the claim about an artifact that an edge checks before the artifact may serve.

Invariants: the artifact is named by the sha256 of its raw bytes; sizes and the digest of every chunk are in the
manifest, so a receiver bounds what it takes before it takes it. Signatures travel in `signatures` and cover
`claim_bytes()` (see shared/signing.py).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.errors import ModelRefused
from shared.refusals import Cause

CHUNK_BYTES: Final = 131_072
INPUT: Final = "features"  # name of the graph's one input, float32 [N, F]
OUTPUT: Final = "quantiles"  # name of its one output, float32 [N, Q]
Role = Literal["champion", "challenger"]  # whose forecasts are published, and who runs beside it in the shadow
VERSION_AT_MOST: Final = 2**31 - 1  # as what is kept of each version has room for
SHA256: Final = r"^[0-9a-f]{64}$"
# What manifests of one model may differ in: for whom, as what, how long, why and in what pieces; never what it is and
# computes.
_PASSING: Final = {
    "created", "expires", "sites", "role", "reason", "predecessor", "step_back_from", "withdrawn", "min_edge_version",
    "compressed_size", "chunks", "chunk_sha256", "signatures",
}  # fmt: skip


class Golden(BaseModel):
    """Rows with their expected outputs, run again on the edge's own CPU. None stands for NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    inputs: list[list[float | None]] = Field(min_length=1, max_length=256)
    outputs: list[list[float]] = Field(min_length=1, max_length=256)
    absolute: float = Field(1e-5, ge=0, description="allowed |difference| is absolute + relative·|expected|")
    relative: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _rectangular(self) -> Golden:
        for name, rows in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len({len(row) for row in rows}) != 1:
                raise ValueError(f"the rows of {name} differ in length")
        return self


class Signature(BaseModel):
    """One key's signature of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key_id: str = Field(max_length=64)
    ed25519: str = Field(max_length=128, description="base64 of the 64 bytes")


class Manifest(BaseModel):
    """What an artifact is, what it needs and what it must compute."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    schema_: Literal[1] = Field(1, alias="schema")
    name: str
    version: int = Field(ge=1, le=VERSION_AT_MOST)
    sha256: str = Field(pattern=SHA256)
    size: int = Field(ge=1, description="bytes of the ONNX file")
    compressed_size: int = Field(ge=1, description="bytes of its gzip")
    chunks: int = Field(ge=1)
    chunk_sha256: list[str] = Field(default_factory=list, description="digest of each chunk, in order")
    created: str
    expires: str = Field(description="instant up to which it may be installed; one that serves goes on")
    min_edge_version: str = "0.1.0"
    features: list[str] = Field(min_length=1)
    schema_hash: str
    zone: str = Field("", description="IANA zone whose local time it was trained on; empty when not said")
    country: str = Field("", description="country whose holidays it was trained on")
    step_s: int = Field(ge=1)
    horizon_steps: int = Field(ge=1)
    quantiles: list[float] = Field(min_length=1)
    golden: Golden
    sites: list[str] = Field(default_factory=list, description="sites it is meant for; none means all")
    role: Role | None = Field(None, description="what it is meant to be there; none means either")
    predecessor: int | None = None
    step_back_from: int | None = Field(
        None,
        le=VERSION_AT_MOST,
        description="the newest version that this older one is to take the place of; else versions only rise",
    )
    withdrawn: bool = Field(False, description="not to be run any more, though there is none to step back to")
    reason: str
    run_id: str
    record_version: int
    signatures: list[Signature] = Field(default_factory=list, max_length=16)

    def claim_bytes(self) -> bytes:
        """Canonical JSON of everything but the signatures: what is signed.

        Of what was said and nothing else, so that a reader that knows more keys, with defaults, signs the same bytes.
        """
        claim = self.model_dump(mode="json", by_alias=True, exclude={"signatures"}, exclude_unset=True)
        return json.dumps(claim, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def is_same_model(self, other: Manifest) -> bool:
        """Whether two manifests are of one model: the same bytes, said to be and to compute the same."""
        return all(getattr(self, name) == getattr(other, name) for name in _LASTING)

    def spelled_out(self) -> Manifest:
        """The same with every default said, as it is read back from the wire."""
        return Manifest.model_validate(self.model_dump(mode="json", by_alias=True))


_LASTING: Final = tuple(name for name in Manifest.model_fields if name not in _PASSING)


@dataclass(frozen=True)
class Packed:
    """An artifact as it travels: gzip in chunks of at most CHUNK_BYTES."""

    sha256: str
    size: int
    chunks: list[bytes]

    @cached_property
    def claims(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "sha256": self.sha256,
            "size": self.size,
            "compressed_size": sum(map(len, self.chunks)),
            "chunks": len(self.chunks),
            "chunk_sha256": [digest_of(chunk) for chunk in self.chunks],
        }


def digest_of(content: bytes) -> str:
    """Its sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def pack(artifact: bytes) -> Packed:
    """Compress an artifact and cut it into chunks; equal artifacts give equal chunks."""
    packed = gzip.compress(artifact, mtime=0)
    chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
    return Packed(digest_of(artifact), len(artifact), chunks)


def unpack(manifest: Manifest, chunks: Sequence[bytes]) -> bytes:
    """The artifact's raw bytes, checked against the manifest; never more of them than it says are made.

    Raises ModelRefused with the reason.
    """
    packed_size = sum(map(len, chunks))
    if packed_size != manifest.compressed_size:
        raise ModelRefused(
            Cause.BAD_DIGEST, f"compressed size is {packed_size} bytes, the manifest says {manifest.compressed_size}"
        )
    artifact = _inflated(chunks, manifest.size)
    if digest_of(artifact) != manifest.sha256:
        raise ModelRefused(Cause.BAD_DIGEST, f"sha256 is {digest_of(artifact)}, the manifest says {manifest.sha256}")
    return artifact


def _inflated(chunks: Iterable[bytes], size: int) -> bytes:
    """What they inflate to, chunk by chunk: zlib holds the interpreter for no longer than one takes."""
    inflater, parts, left = zlib.decompressobj(wbits=31), list[bytes](), size
    for chunk in chunks:
        try:
            parts.append(inflater.decompress(chunk, left + 1))
        except zlib.error as error:
            raise ModelRefused(Cause.BAD_DIGEST, f"the artifact is not gzip: {error}") from error
        left -= len(parts[-1])
        if left < 0:
            raise ModelRefused(Cause.BOMB, f"the artifact inflates beyond the manifest's {size} bytes")
    if left or not inflater.eof:
        raise ModelRefused(Cause.BAD_DIGEST, f"the artifact does not inflate to the manifest's {size} bytes")
    return b"".join(parts)
