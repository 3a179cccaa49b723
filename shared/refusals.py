"""Why an edge refuses a model: one word each, reported to central as `reason` and counted, with a sentence beside it.

The order is that of the gate: what costs least and says most comes first.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """The check that a manifest or an artifact failed."""

    # who says so
    NO_TRUSTED_KEYS = "no_trusted_keys"  # the edge was given no key to trust
    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"  # signed, but by no key that the edge trusts; a retired one is no longer trusted
    BAD_SIGNATURE = "bad_signature"
    # whether it is meant for this edge, now
    EXPIRED = "expired"
    VALID_TOO_LONG = "valid_too_long"  # a claim that never ends could be replayed for ever
    OTHER_ROLE = "other_role"  # signed to run in the shadow and put in the champion's place, or the other way
    VERSION_NOT_NEWER = "version_not_newer"  # and not signed as a step back from what was accepted last
    OTHER_SITE = "other_site"
    EDGE_TOO_OLD = "edge_too_old"
    TOO_LARGE = "too_large"
    BAD_CHUNKS = "bad_chunks"  # number, sizes and digests of the chunks do not hang together
    OTHER_FORECAST = "other_forecast"  # another step, horizon or set of quantiles than this edge publishes
    UNKNOWN_FEATURES = "unknown_features"
    # whether the bytes are what was claimed
    BAD_CHUNK = "bad_chunk"  # one chunk is not what the manifest says; the transfer goes on without it
    BAD_DIGEST = "bad_digest"
    BOMB = "bomb"  # inflates to more than it claims
    # whether the graph is harmless
    NOT_ONNX = "not_onnx"
    TOO_COMPLEX = "too_complex"  # more nodes, trees or constants than a forecast needs
    EXTERNAL_DATA = "external_data"
    FOREIGN_DOMAIN = "foreign_domain"
    FOREIGN_OPERATOR = "foreign_operator"
    OTHER_GRAPH = "other_graph"  # names, types or shapes of input and output, or the metadata, are not those claimed
    # whether it computes what was claimed, in bounds
    GOLDEN_ROWS = "golden_rows"
    TOO_SLOW = "too_slow"
    TOO_MUCH_MEMORY = "too_much_memory"
    CRASHED = "crashed"  # the process that tried it out ended
    # after it was swapped in
    FAILED_RUNNING = "failed_running"
    WITHDRAWN = "withdrawn"  # central took it back, and has none to run instead


# Of claims that nobody trusted signed: whoever can write to the broker makes as many as he likes.
UNVOUCHED: Final = frozenset({Cause.NO_TRUSTED_KEYS, Cause.UNSIGNED, Cause.UNKNOWN_KEY, Cause.BAD_SIGNATURE})
