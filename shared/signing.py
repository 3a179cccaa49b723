"""Ed25519 keys as text, signing and verifying manifests; the only home of cryptography.

    ed25519:<base64 of 32 bytes> [comment]       a public key, one line
    key id                                       the first 16 hex digits of sha256 over the 32 bytes

Invariants: a manifest is verified over the bytes that were said (`Manifest.claim_bytes`); one good signature of a
trusted key is enough, so that keys can be changed one after the other; a bad signature of a trusted key refuses the
manifest whatever else it bears.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import ModelRefused
from shared.manifest import Manifest, Signature
from shared.refusals import Cause

SCHEME: Final = "ed25519:"
EXPECTED: Final = f"expected {SCHEME}<base64>, as `central keys list` prints it"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key by which manifests are verified."""

    public: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> TrustedKey:
        """Read a line; what follows the key is a comment. Raises ValueError with what is wrong."""
        word = text.split()[0] if text.split() else ""
        if "PRIVATE KEY" in text:
            raise ValueError(f"a private key stands where its public line is expected: {EXPECTED}")  # and is not told
        if not word.startswith(SCHEME):
            raise ValueError(f"{_short(text)}: {EXPECTED}")
        try:
            return cls(Ed25519PublicKey.from_public_bytes(base64.b64decode(word.removeprefix(SCHEME), validate=True)))
        except ValueError as error:
            raise ValueError(f"{_short(word)}: not an Ed25519 public key: {error}") from error

    @property
    def raw(self) -> bytes:
        """Its 32 bytes."""
        return self.public.public_bytes_raw()

    @property
    def id(self) -> str:
        """What signatures call it."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        """As `parse` reads it."""
        return SCHEME + base64.b64encode(self.raw).decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key."""

    private: Ed25519PrivateKey

    @classmethod
    def new(cls) -> SigningKey:
        """A fresh one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """Read an unencrypted PKCS 8 PEM. Raises ValueError with what is wrong."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # 4 MB, of no use to an edge

        try:
            private = load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise ValueError(
                "the private key is encrypted, and nobody is there to be asked for its password"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError("not a private key in PEM") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("a private key, but not an Ed25519 one")
        return cls(private)

    def pem(self) -> bytes:
        """As `from_pem` reads it."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def trusted(self) -> TrustedKey:
        """Its public half."""
        return TrustedKey(self.private.public_key())


def signed(manifest: Manifest, keys: Iterable[SigningKey]) -> Manifest:
    """The manifest, every default spelled out, with one signature by each key and no other."""
    said = manifest.spelled_out()
    claim = said.claim_bytes()
    signatures = [
        Signature(key_id=key.trusted.id, ed25519=base64.b64encode(key.private.sign(claim)).decode()) for key in keys
    ]
    return said.model_copy(update={"signatures": signatures})


def trusted_by_id(keys: Iterable[TrustedKey]) -> dict[str, TrustedKey]:
    """Keys by what signatures call them."""
    return {key.id: key for key in keys}


def verify(manifest: Manifest, trusted: Mapping[str, TrustedKey]) -> None:
    """Raise ModelRefused unless a trusted key signed the manifest and none of theirs is wrong."""
    if not trusted:
        raise ModelRefused(Cause.NO_TRUSTED_KEYS, "keys.trusted is empty: no model can be verified here")
    if not manifest.signatures:
        raise ModelRefused(Cause.UNSIGNED, "the manifest bears no signature")
    known = [signature for signature in manifest.signatures if signature.key_id in trusted]
    if not known:
        ids = ", ".join(signature.key_id for signature in manifest.signatures)
        raise ModelRefused(Cause.UNKNOWN_KEY, f"signed by {ids}, trusted are {', '.join(trusted)}")
    claim = manifest.claim_bytes()
    for signature in known:
        try:
            trusted[signature.key_id].public.verify(base64.b64decode(signature.ed25519, validate=True), claim)
        except (InvalidSignature, ValueError) as error:
            raise ModelRefused(
                Cause.BAD_SIGNATURE, f"the signature of key {signature.key_id} does not fit the manifest"
            ) from error


def _short(text: str) -> str:
    """Enough of it to be found again, however long it is."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
