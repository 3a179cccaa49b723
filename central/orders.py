"""What a person orders, as files in the work folder: a command leaves them, `run` follows them in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from central.rollout_events import Ordered, Verb
from central.trainings import results_in
from central.work import WorkFolder, read_object, replace_text
from shared.errors import MetercastError
from shared.manifest import Manifest

log = logging.getLogger(__name__)


class NoTarget(MetercastError):
    """A version cannot be rolled back to; the text says why."""


class Order(BaseModel):
    """One order. `to` is the version a rollback goes to, None for the predecessor."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    verb: Verb
    version: int | None = None
    to: int | None = None


def leave(work: WorkFolder, order: Order, wall: datetime) -> None:
    """Leave an order for `run`, which takes it up within seconds. Raises MetercastError when it cannot be written."""
    path = work.orders / f"{wall:%Y%m%dT%H%M%S%f}-{order.verb}.json"
    try:
        replace_text(path, order.model_dump_json())
    except OSError as error:
        raise MetercastError(f"{path}: {error.strerror}") from error


def left(work: WorkFolder) -> Iterator[tuple[Path, Order]]:
    """Orders in the order they were given, with the file that is to be removed; one that is none is removed here."""
    if not work.orders.is_dir():
        return
    for path in sorted(work.orders.glob("[!.]*.json")):
        try:
            yield path, Order.model_validate(read_object(path) or {})
        except (MetercastError, ValidationError) as error:
            log.error("not an order", extra={"path": str(path), "reason": str(error).splitlines()[0]})
            path.unlink(missing_ok=True)


def ordered(work: WorkFolder, order: Order) -> Ordered:
    """The order as the rollout takes it. Raises NoTarget."""
    return Ordered(order.verb, order.version, None if order.to is None else rollback_target(work, order.to))


def rollback_target(work: WorkFolder, version: int) -> Manifest:
    """The manifest of a version that was accepted here and whose artifact is still there. Raises NoTarget."""
    for _, result in results_in(work.trainings):
        if result.version == version and result.manifest is not None:
            path = work.artifact(result.manifest.sha256)
            if not path.exists():
                raise NoTarget(f"version {version}: {path} is missing; fetch it from the registry's run")
            return result.manifest
    raise NoTarget(f"version {version} was never accepted here; `central models` lists those that were")
