"""From messages to events, by topic. What is of no topic of ours, and a retained message that was cleared, is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge.effects import (
    AckedArrived,
    ChunkArrived,
    CovariatesArrived,
    DesiredArrived,
    Event,
    HistoryArrived,
    ReadingsArrived,
    RestoreArrived,
)
from shared.packets import Incoming
from shared.topics import SiteTopics, parse_artifact_chunk


def events_of(messages: Sequence[Incoming], topics: SiteTopics) -> Iterator[Event]:
    """The events of a batch: its readings, its history, its covariates, then each message of central's by itself."""
    readings = tuple(message for message in messages if topics.meter_of(message.topic) is not None)
    if readings:
        yield ReadingsArrived(readings)
    if len(readings) == len(messages):  # nearly always
        return
    others = [message for message in messages if topics.meter_of(message.topic) is None]
    history = tuple(message for message in others if topics.backfilled_meter_of(message.topic) is not None)
    if history:
        yield HistoryArrived(history)
    covariates = tuple(message for message in others if topics.covariate_of(message.topic) is not None)
    if covariates:
        yield CovariatesArrived(covariates)
    for message in others:
        event = _of_central(message, topics)
        if event is not None:
            yield event


def _of_central(message: Incoming, topics: SiteTopics) -> Event | None:
    topic, payload = message.topic, message.payload
    if topic == topics.acked:
        return AckedArrived(topic, payload, live=not message.retain)
    if topic == topics.restore:
        return RestoreArrived(topic, payload)
    if topic == topics.desired and payload:
        return DesiredArrived(topic, payload)
    chunk = parse_artifact_chunk(topics.root, topic)
    return ChunkArrived(*chunk, payload) if chunk is not None else None
