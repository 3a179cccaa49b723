"""Every message we write, byte for byte as its golden file; every reader, against whatever arrives."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.covariates import Covariate
from shared.errors import MessageRefused, ModelRefused
from shared.manifest import Golden, Manifest
from shared.messages import (
    Acked,
    DeadLetter,
    Desired,
    Drift,
    Forecast,
    ForecastQuality,
    Message,
    ModelIdentity,
    Refusal,
    Reported,
    Restore,
    RestoredMeter,
    Running,
    Status,
    Uplink,
    columns_of,
    dead_letter,
)
from shared.signing import SigningKey, signed, trusted_by_id, verify

GOLDEN = Path(__file__).parent / "golden"
SHA = "ab" * 32
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
CLAIM = Manifest(
    name="metercast-fleet",
    version=3,
    sha256=SHA,
    size=700_000,
    compressed_size=150_000,
    chunks=2,
    chunk_sha256=["01" * 32, "23" * 32],
    created="2026-01-05T09:00:00Z",
    expires="2026-04-05T09:00:00Z",
    features=["lag_24h", "lead_h"],
    schema_hash="0123456789abcdef",
    step_s=3600,
    horizon_steps=48,
    quantiles=[0.1, 0.5, 0.9],
    golden=Golden(inputs=[[1.5, None]], outputs=[[-0.5, 0.0, 0.5]]),
    role="champion",
    predecessor=2,
    reason="drift",
    run_id="0f" * 16,
    record_version=41,
)
MANIFEST = signed(CLAIM, [KEY])
REFUSAL = Refusal(
    sha256="cd" * 32, version=4, reason="bad_digest", detail="sha256 is not as claimed", at="2026-01-05T11:00:00Z"
)
MESSAGES: dict[str, Message] = {
    "forecast": Forecast(
        site="plant-7",
        meter="feeder.1",
        issued_at="2026-01-05T10:00:00Z",
        origin="2026-01-05T10:00:00Z",
        step_s=3600,
        quantiles={"0.1": [0.5, 0.25], "0.5": [1.0, 0.75], "0.9": [2.0, 1.5]},
        rung="champion",
        model=ModelIdentity(name="metercast-fleet", version=3, sha256=SHA, run_id="0f" * 16, record_version=41),
        quality=ForecastQuality(history_h=700.0, completeness=0.9722),
    ),
    "forecast_fallback": Forecast(
        site="plant-7",
        meter="feeder.1",
        issued_at="2026-01-05T10:00:00Z",
        origin="2026-01-05T10:00:00Z",
        step_s=3600,
        quantiles={"0.5": [1.0]},
        rung="seasonal_naive_168",
        reason="no model of this site yet",
        quality=ForecastQuality(history_h=200.0, completeness=0.2778),
    ),
    "deadletter": DeadLetter(
        id="00" * 16,
        topic="metercast/plant-7/readings/m1",
        payload="{",
        reason="not JSON: Expecting property name",
        received_at="2026-01-05T10:00:00Z",
    ),
    "status": Status(
        state="online",
        instance="7408b0d3",
        epoch="b03f54d18ed040cd",
        version="0.1.0",
        started_at="2026-01-05T09:00:00Z",
        meters=24,
        champion=3,
        watermark="2026-01-05T10:00:00Z",
        outbox=2,
    ),
    "uplink": Uplink(
        site="plant-7",
        epoch="b03f54d18ed040cd",
        seq=7,
        at="2026-01-05T10:00:00Z",
        kinds={"readings": columns_of(("meter_id", "ts_us", "value"), [("m1", 1, 1.5), ("m2", 2, 2.5)])},
    ),
    "acked": Acked(epoch="b03f54d18ed040cd", seq=6, missing=[(7, 9)], at="2026-01-05T10:00:01Z"),
    "desired": Desired(champion=MANIFEST, challenger=None),
    "reported": Reported(
        champion=Running(name="metercast-fleet", version=3, sha256=SHA, since="2026-01-05T10:00:00Z"),
        refused=[REFUSAL],
    ),
    "restore": Restore(
        site="plant-7",
        epoch="b03f54d18ed040cd",
        part=1,
        parts=2,
        step_s=3600,
        meters={"m1": RestoredMeter(first="2026-01-05T00:00:00Z", load_kw=[0.5, None, 1.25])},
    ),
    "covariate": Covariate(
        issued_at="2026-01-05T06:00:00Z",
        start="2026-01-05T10:00:00Z",
        step="1h",
        values=[-1.5, None, 0.25],
        unit="°C",
    ),
    "drift": Drift(
        site="plant-7",
        at="2026-01-12T00:00:00Z",
        meters=["m1", "m2"],
        statistic="daily absolute error at lead 24 over its seasonal naive",
        since="2026-01-05T00:00:00Z",
        decision="train",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_is_its_golden_file(name: str) -> None:
    assert json.loads(MESSAGES[name].encode()) == json.loads((GOLDEN / f"{name}.json").read_text())
    assert next(iter(json.loads(MESSAGES[name].encode()))) == "schema"


@pytest.mark.parametrize("name", MESSAGES)
def test_the_golden_file_reads_back_as_the_message(name: str) -> None:
    message = MESSAGES[name]
    assert type(message).decode((GOLDEN / f"{name}.json").read_bytes(), "topic") == message


@pytest.mark.parametrize("name", MESSAGES)
def test_a_reader_takes_the_previous_schema_and_newer_keys_and_refuses_newer_schemas(name: str) -> None:
    message, content = MESSAGES[name], json.loads((GOLDEN / f"{name}.json").read_text())
    type(message).decode(json.dumps(content | {"schema": 0, "added_later": 1}).encode(), "topic")
    with pytest.raises(MessageRefused, match=r"a/topic: schema"):
        type(message).decode(json.dumps(content | {"schema": 2}).encode(), "a/topic")


@given(st.sampled_from(list(MESSAGES)), st.binary() | st.text().map(str.encode))
def test_whatever_arrives_is_a_message_or_a_refusal(name: str, payload: bytes) -> None:
    with pytest.raises(MessageRefused):
        type(MESSAGES[name]).decode(payload, "topic")
    with pytest.raises(MessageRefused):
        Uplink.decompress(payload, "topic")


def test_an_uplink_batch_survives_compression_and_is_refused_when_cut_or_uneven() -> None:
    batch = MESSAGES["uplink"]
    assert isinstance(batch, Uplink)
    packed = batch.compress()
    assert Uplink.decompress(packed, "topic") == batch
    assert packed == batch.compress()
    with pytest.raises(MessageRefused, match="cut short"):
        Uplink.decompress(packed[:-9], "topic")
    uneven = batch.model_copy(update={"kinds": {"readings": {"a": [1], "b": []}}})
    with pytest.raises(MessageRefused, match="columns of readings differ"):
        Uplink.decompress(uneven.compress(), "topic")


def test_nan_never_appears() -> None:
    content = json.loads((GOLDEN / "acked.json").read_text())
    with pytest.raises(MessageRefused):
        Acked.decode(json.dumps(content | {"seq": float("nan")}).encode(), "topic")


@given(st.binary(max_size=6000))
def test_a_dead_letter_holds_any_payload_bounded(payload: bytes) -> None:
    letter = dead_letter("t", payload, "reason", "2026-01-05T10:00:00Z")
    assert len(letter.encode()) < 30_000
    assert DeadLetter.decode(letter.encode(), "t") == letter


def test_the_golden_signature_is_verified_over_what_was_said() -> None:
    desired = Desired.decode((GOLDEN / "desired.json").read_bytes(), "desired")
    assert desired.champion is not None
    verify(desired.champion, trusted_by_id([KEY.trusted]))
    with pytest.raises(ModelRefused):
        verify(desired.champion.model_copy(update={"version": 4}), trusted_by_id([KEY.trusted]))
