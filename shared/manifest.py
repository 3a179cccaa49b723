"""A manifest: the claim about an artifact that an edge checks before the artifact may serve.

Invariants: the artifact is named by the sha256 of its raw bytes; sizes and chunk count are in the manifest, so a
receiver bounds what it takes before it takes it. Signatures travel in `signatures` and cover `claim_bytes()`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.errors import ModelRefused

CHUNK_BYTES: Final = 131_072
INPUT: Final = "features"  # name of the graph's one input, float32 [N, F]
OUTPUT: Final = "quantiles"  # name of its one output, float32 [N, Q]
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
    key_id: str
    ed25519: str


class Manifest(BaseModel):
    """What an artifact is, what it needs and what it must compute."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    schema_: Literal[1] = Field(1, alias="schema")
    name: str
    version: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)
    size: int = Field(ge=1, description="bytes of the ONNX file")
    compressed_size: int = Field(ge=1, description="bytes of its gzip")
    chunks: int = Field(ge=1)
    created: str
    expires: str
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
    predecessor: int | None = None
    reason: str
    run_id: str
    record_version: int
    signatures: list[Signature] = Field(default_factory=list)

    def claim_bytes(self) -> bytes:
        """Canonical JSON of everything but the signatures: what is signed."""
        claim = self.model_dump(mode="json", by_alias=True, exclude={"signatures"})
        return json.dumps(claim, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pack(artifact: bytes) -> tuple[str, list[bytes]]:
    """(sha256 of the raw bytes, gzip of them in chunks of at most CHUNK_BYTES)."""
    packed = gzip.compress(artifact, mtime=0)
    chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
    return hashlib.sha256(artifact).hexdigest(), chunks


def unpack(manifest: Manifest, chunks: list[bytes]) -> bytes:
    """The artifact's raw bytes, checked against the manifest. Raises ModelRefused with the reason."""
    packed = b"".join(chunks)
    if len(packed) != manifest.compressed_size:
        raise ModelRefused(f"compressed size is {len(packed)} bytes, the manifest says {manifest.compressed_size}")
    inflater = zlib.decompressobj(wbits=31)
    try:
        artifact = inflater.decompress(packed, manifest.size + 1)
    except zlib.error as error:
        raise ModelRefused(f"the artifact is not gzip: {error}") from error
    if len(artifact) != manifest.size or not inflater.eof:
        raise ModelRefused(f"the artifact does not inflate to the manifest's {manifest.size} bytes")
    digest = hashlib.sha256(artifact).hexdigest()
    if digest != manifest.sha256:
        raise ModelRefused(f"digest mismatch: sha256 is {digest}, the manifest says {manifest.sha256}")
    return artifact
