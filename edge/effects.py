"""What the core is told and what it asks for: closed sets of events and effects."""

from __future__ import annotations

from dataclasses import dataclass

from edge.changes import Changes
from edge.inference import Predictor
from shared.errors import ModelRefused
from shared.manifest import Manifest
from shared.packets import Incoming

Found = bytes | ModelRefused | dict[int, bytes]


@dataclass(frozen=True, slots=True)
class ReadingsArrived:
    """A batch of messages from readings topics; they are acknowledged after the commit it leads to."""

    messages: tuple[Incoming, ...]


@dataclass(frozen=True, slots=True)
class HistoryArrived:
    """A batch of messages from backfill topics; acknowledged like readings."""

    messages: tuple[Incoming, ...]


@dataclass(frozen=True, slots=True)
class CovariatesArrived:
    """A batch of messages from covariates topics; acknowledged like readings."""

    messages: tuple[Incoming, ...]


@dataclass(frozen=True, slots=True)
class RestoreArrived:
    """Central gives closed intervals back."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class NumbersInDoubt:
    """Another life of this disk may have used the numbers that we give: it was restored from an image, perhaps."""


@dataclass(frozen=True, slots=True)
class StateMended:
    """At the start the state was found damaged, and is what could be saved of it; `lost` are ranges of batches."""

    detail: str
    lost: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class GapMade:
    """A gap entry of `size` bytes, under number `last`, has taken the place of batches `first` … `last`."""

    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class AckedArrived:
    """Central says what is in the record; `live` is what it says now, and not what a broker had kept."""

    topic: str
    payload: bytes
    live: bool = True


@dataclass(frozen=True, slots=True)
class DesiredArrived:
    """Central says which models should run."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A piece of an artifact."""

    sha256: str
    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What `Unpack` found: the artifact, or what is wrong with its chunks, or those of them that are on disk."""

    manifest: Manifest
    found: Found


@dataclass(frozen=True, slots=True)
class ModelProven:
    """The model that `Prove` named passed the gate and is loaded; it may be swapped in."""

    manifest: Manifest
    model: Predictor


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model that `Prove` named did not pass the gate."""

    manifest: Manifest
    refused: ModelRefused


@dataclass(frozen=True, slots=True)
class ForecastsConfirmed:
    """The broker has these forecasts: (row, origin number)."""

    delivered: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, or there is room to forecast.

    `caught_up`: what waited at the broker has come. Before that, a meter without readings is not silent, we are late.
    """

    caught_up: bool


@dataclass(frozen=True, slots=True)
class EpochRenewed:
    """The waiting batches, (seq, bytes), are numbered anew under this epoch."""

    epoch: str
    waiting: tuple[tuple[int, int], ...]


Event = (
    EpochRenewed
    | StateMended
    | NumbersInDoubt
    | GapMade
    | ReadingsArrived
    | HistoryArrived
    | CovariatesArrived
    | RestoreArrived
    | AckedArrived
    | DesiredArrived
    | ChunkArrived
    | Unpacked
    | ModelProven
    | ModelFailed
    | ForecastsConfirmed
    | Tick
)


@dataclass(frozen=True, slots=True)
class Commit:
    """Write these changes in one transaction before any effect after it."""

    changes: Changes


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish at QoS 1; `forecast` is (row, origin number) where its confirmation matters."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    forecast: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to the chunks of an artifact (again, where they did not all come)."""

    topic_filter: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The artifact is here, or no longer wanted."""

    topic_filter: str


@dataclass(frozen=True, slots=True)
class KeepChunk:
    """Keep a chunk that is what its manifest says, so that a transfer goes on after a restart."""

    sha256: str
    number: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class Unpack:
    """Find out aside, while forecasts go on, what these chunks make, or for None what is on disk; see `Unpacked`."""

    manifest: Manifest
    chunks: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class Prove:
    """Try a model out aside, while forecasts go on; the answer is ModelProven or ModelFailed."""

    manifest: Manifest
    artifact: bytes


@dataclass(frozen=True, slots=True)
class SaveArtifact:
    """Keep an artifact that passed every check, before it serves."""

    sha256: str
    artifact: bytes


@dataclass(frozen=True, slots=True)
class KeepArtifacts:
    """Delete every kept artifact but these."""

    sha256s: frozenset[str]


@dataclass(frozen=True, slots=True)
class RenewEpoch:
    """Number the waiting batches anew, under this epoch."""

    epoch: str


@dataclass(frozen=True, slots=True)
class MakeGap:
    """Put one gap entry in the place of the waiting batches `first` … `last`."""

    first: int
    last: int
    reason: str
    at_us: int


Effect = (
    Commit
    | RenewEpoch
    | MakeGap
    | Publish
    | Subscribe
    | Unsubscribe
    | KeepChunk
    | Unpack
    | Prove
    | SaveArtifact
    | KeepArtifacts
)
