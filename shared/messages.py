"""Every message on the wire: what we write, and how we read it back.

Invariants: each message that we write carries `schema`; a reader accepts its own and the previous one; NaN never
appears in JSON. Whatever bytes arrive, a reader here returns a message or raises MessageRefused (ReadingRefused for
readings), never another error.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.clock import parse_instant_us
from shared.errors import MessageRefused
from shared.manifest import VERSION_AT_MOST, Manifest

SCHEMA: Final = 1
MAX_UPLINK_BYTES: Final = 262_144
MAX_UPLINK_JSON_BYTES: Final = 32 * 1024 * 1024  # a batch that inflates to more is no batch of ours
MAX_DEAD_LETTER_PAYLOAD: Final = 4096
MAX_REASON: Final = 500  # a sentence; one that quotes its input could be as long as that


READING_COLUMNS: Final = ("meter_id", "ts_us", "value", "unit", "kind", "period_s", "quality", "received_us")
SCORE_COLUMNS: Final = (
    "meter_id",
    "valid_us",
    "lead",
    "role",
    "rung",
    "model_version",
    "y_kw",
    "forecast_kw",
    "low_kw",
    "high_kw",
    "naive_kw",
)
DEAD_LETTER_COLUMNS: Final = ("id", "topic", "payload", "payload_b64", "reason", "received_us", "count")
# An issue of a covariate a row; `values` is a list, null where nothing is said.
COVARIATE_COLUMNS: Final = ("name", "issued_us", "start_us", "step_s", "values", "unit", "received_us")
EVENT_COLUMNS: Final = ("at_us", "event", "detail")
# What a full outbox gave up, a row a meter; the batch that carries it is number `to_seq` and stands for the range.
GAP_COLUMNS: Final = ("from_seq", "to_seq", "meter_id", "readings", "reason", "at_us")
RESTORE_WANTED: Final = (
    "restore wanted: closed intervals may be missing"  # an edge's reason in its status; central answers it
)


def _accepted(schema: object) -> object:
    if schema not in (SCHEMA, SCHEMA - 1):
        raise ValueError(f"schema {schema!r} is unknown here; this version reads {SCHEMA}")
    return schema


class Message(BaseModel):
    """A JSON message; unknown keys are kept out, not refused, so that newer writers can add some."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", allow_inf_nan=False)
    schema_: Annotated[int, BeforeValidator(_accepted)] = Field(SCHEMA, alias="schema")

    def encode(self) -> bytes:
        """UTF-8 JSON."""
        return self.model_dump_json(by_alias=True).encode()

    @classmethod
    def decode(cls, payload: bytes, topic: str) -> Self:
        """Read `payload`; raises MessageRefused naming `topic`."""
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MessageRefused(f"{topic}: {where + ': ' if where else ''}{first['msg']}") from error


class ModelIdentity(Message):
    """Which model made a forecast, back to the record it was trained on."""

    schema_: int = Field(SCHEMA, alias="schema", exclude=True)
    name: str
    version: int
    sha256: str
    run_id: str
    record_version: int


class ForecastQuality(BaseModel):
    """What the forecast stands on."""

    history_h: float
    completeness: float
    flags: list[str] = []


class Forecast(Message):
    """One meter's latest forecast: quantile arrays in kW, index 0 is the interval that starts at `origin`."""

    site: str
    meter: str
    issued_at: str
    origin: str
    step_s: int
    unit: Literal["kW"] = "kW"
    revision: int = 0
    quantiles: dict[str, list[float]]
    rung: str
    reason: str = ""
    model: ModelIdentity | None = None
    quality: ForecastQuality


class DeadLetter(Message):
    """Input that could not be taken, and why. Copies with one id count once."""

    id: str
    topic: str
    payload: str | None = None
    payload_b64: str | None = None
    reason: str
    received_at: str
    count: int = 1

    def encode(self) -> bytes:
        """UTF-8 JSON with either `payload` or `payload_b64`."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class Status(Message):
    """How an edge is. The will is the same message with state offline."""

    state: Literal["online", "degraded", "offline"]
    instance: str
    epoch: str
    version: str
    started_at: str
    meters: int = 0
    champion: int | None = None
    watermark: str | None = None
    outbox: int = 0
    reasons: list[str] = []


class Acked(Message):
    """What of one epoch's uplink is in the record."""

    epoch: str
    seq: int
    missing: list[tuple[int, int]] = []
    at: str

    @property
    def at_us(self) -> int:
        """`at` in microseconds; 0 for what is no instant."""
        try:
            return parse_instant_us(self.at)
        except ValueError:
            return 0


class Desired(Message):
    """The models an edge should run. Without a champion nothing is said of that: what runs goes on."""

    champion: Manifest | None
    challenger: Manifest | None = None


class Running(BaseModel):
    """A model that runs at an edge."""

    name: str
    version: int = Field(le=VERSION_AT_MOST)
    sha256: str
    since: str


class Refusal(BaseModel):
    """A model an edge did not take: `reason` is one word (shared/refusals.py), `detail` the sentence beside it."""

    sha256: str
    version: int = Field(0, le=VERSION_AT_MOST)
    reason: str
    detail: str = ""
    at: str


class Reported(Message):
    """What an edge runs, and what it refused."""

    champion: Running | None = None
    challenger: Running | None = None
    refused: list[Refusal] = []


class Drift(Message):
    """What central saw drift, and what it decided."""

    site: str
    at: str
    meters: list[str]
    statistic: str
    since: str
    decision: str


class Uplink(Message):
    """A numbered batch: for each kind, columns of equal length."""

    site: str
    epoch: str = Field(min_length=1, max_length=64)
    seq: int = Field(ge=1)
    at: str
    kinds: dict[str, dict[str, list[Any]]]

    def compress(self) -> bytes:
        """Gzip of the JSON; mtime 0 so that equal batches are equal bytes."""
        return gzip.compress(self.encode(), compresslevel=5, mtime=0)

    @classmethod
    def decompress(cls, payload: bytes, topic: str) -> Self:
        """Read a batch, bounded before it is inflated; raises MessageRefused naming `topic`."""
        return cls.decode(inflate(payload, MAX_UPLINK_JSON_BYTES, topic), topic)

    @classmethod
    def decode(cls, payload: bytes, topic: str) -> Self:
        """Read a batch's JSON; raises MessageRefused naming `topic`."""
        batch = super().decode(payload, topic)
        for kind, columns in batch.kinds.items():
            if len({len(column) for column in columns.values()}) > 1:
                raise MessageRefused(f"{topic}: the columns of {kind} differ in length")
        return batch


class RestoredMeter(BaseModel):
    """One meter's closed intervals: load in kW from the interval that starts at `first` on, null where missing."""

    model_config = ConfigDict(allow_inf_nan=False)
    first: str
    load_kw: list[float | None]


class Restore(Message):
    """What central's record knows of a site's closed intervals, for the edge of this epoch; part 1 … `parts`."""

    site: str
    epoch: str
    part: int = Field(1, ge=1)
    parts: int = Field(1, ge=1)
    step_s: int = Field(ge=1)
    meters: dict[str, RestoredMeter] = {}

    def compress(self) -> bytes:
        """Gzip of the JSON, equal for equal content."""
        return gzip.compress(self.encode(), compresslevel=5, mtime=0)

    @classmethod
    def decompress(cls, payload: bytes, topic: str) -> Self:
        """Read a part, bounded before it is inflated; raises MessageRefused naming `topic`."""
        return cls.decode(inflate(payload, MAX_UPLINK_JSON_BYTES, topic), topic)


def inflate(payload: bytes, limit: int, source: str) -> bytes:
    """Gunzip at most `limit` bytes; raises MessageRefused for what is no gzip or would grow beyond it."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(payload, limit)
    except zlib.error as error:
        raise MessageRefused(f"{source}: not gzip: {error}") from error
    if not unpacker.eof:
        raise MessageRefused(f"{source}: gzip is cut short or inflates beyond {limit} bytes")
    return text


def dead_letter(topic: str, payload: bytes, reason: str, received_at: str, *, item: int | None = None) -> DeadLetter:
    """A dead letter whose id follows from topic, payload and item, so that a redelivery is the same letter."""
    digest = hashlib.sha256(b"\0".join([topic.encode(), payload, str(item).encode()]))
    kept = payload[:MAX_DEAD_LETTER_PAYLOAD]
    try:
        text, raw = kept.decode(), None
    except UnicodeDecodeError:
        text, raw = None, base64.b64encode(kept).decode()
    return DeadLetter(
        id=digest.hexdigest()[:32],
        topic=topic,
        payload=text,
        payload_b64=raw,
        reason=reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…",
        received_at=received_at,
    )


def columns_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows in the order of `names` as columns."""
    return dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True)) if rows else {}
