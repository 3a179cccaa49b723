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

    def spelled_out(self) -> Manifest:
        """The same with every default said, as it is read back from the wire."""
        return Manifest.model_validate(self.model_dump(mode="json", by_alias=True))


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


def unpack(manifest: Manifest, chunks: list[bytes]) -> bytes:
    """The artifact's raw bytes, checked against the manifest. Raises ModelRefused with the reason."""
    packed = b"".join(chunks)
    if len(packed) != manifest.compressed_size:
        raise ModelRefused(
            Cause.BAD_DIGEST, f"compressed size is {len(packed)} bytes, the manifest says {manifest.compressed_size}"
        )
    inflater = zlib.decompressobj(wbits=31)
    try:
        artifact = inflater.decompress(packed, manifest.size + 1)
    except zlib.error as error:
        raise ModelRefused(Cause.BAD_DIGEST, f"the artifact is not gzip: {error}") from error
    if len(artifact) > manifest.size:
        raise ModelRefused(Cause.BOMB, f"the artifact inflates beyond the manifest's {manifest.size} bytes")
    if len(artifact) != manifest.size or not inflater.eof:
        raise ModelRefused(Cause.BAD_DIGEST, f"the artifact does not inflate to the manifest's {manifest.size} bytes")
    if digest_of(artifact) != manifest.sha256:
        raise ModelRefused(Cause.BAD_DIGEST, f"sha256 is {digest_of(artifact)}, the manifest says {manifest.sha256}")
    return artifact
