"""Wiring of a running central: the only place that connects parts, opens files and listens to signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from central import keys_doctor
from central.asking import RestoreDesk
from central.delivery import Delivery, load_rollout
from central.drift import DriftWatch
from central.intake import Intake
from central.jobs import Jobs, new_training
from central.journal import Journal
from central.keyring import Keyring
from central.oversight import Oversight
from central.record import Record
from central.recorder import HELD_IN_ALL
from central.restore import restore_parts
from central.rollout import Rollout
from central.runtime import CLIENT_ID, Central, filters
from central.stalls import Stall
from central.telemetry import CentralMetrics
from central.trainings import Reason, Result, Training, trained_until_us
from central.triggers import Triggers
from central.work import WorkFolder, replace_bytes
from shared.bindings import Bindings
from shared.calendars import site_calendar
from shared.clock import wall_now
from shared.errors import ExitCode, MetercastError, ParamsError
from shared.messages import MAX_UPLINK_BYTES
from shared.mqtt import Connection
from shared.params import Params
from shared.telemetry import serve_metrics

if TYPE_CHECKING:
    from central.candidate import Champion
    from central.registry import Registry

log = logging.getLogger(__name__)


def work_folder(params: Params) -> WorkFolder:
    """The work folder the parameters name."""
    return WorkFolder(params.central.work_dir)


def open_record(params: Params, *, aside: bool = False) -> Record:
    """The record the parameters name, not yet looked at; `aside` for who reads while this process records."""
    return Record(params.central.record_uri or str(work_folder(params).record), aside=aside)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def asked(number: int, _frame: FrameType | None) -> None:
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    return stop


def run(params: Params) -> ExitCode:
    """Serve until SIGTERM or SIGINT. Raises MetercastError when a part cannot start."""
    require_built(params)
    stop = stop_on_signals()
    work = work_folder(params)
    with work.held():
        keys_doctor.warn(Keyring.of(params, work))
        record = open_record(params)
        record.create()
        metrics = CentralMetrics()
        metrics.record_version.set(record.version)
        serve_metrics(metrics.registry, params.central.metrics_host, params.central.metrics_port)
        connection = Connection(
            params.mqtt, client_id=CLIENT_ID, filters=filters(params.mqtt.root), keep_bytes=MAX_UPLINK_BYTES
        )
        restores = restore_desk(params, connection)
        jobs = Jobs(params, work)
        central = _wire(params, work, record, metrics, connection, jobs, restores)
        connection.start()
        if not mlflow_uri(params) and not work.mlflow.exists():
            jobs.errand("models", "prepare")  # creating the database takes as long as a training
        try:
            central.run(stop)
        finally:
            restores.stop()
            jobs.stop()
            connection.stop()
    return ExitCode.OK


def restore_desk(params: Params, connection: Connection) -> RestoreDesk:
    """Answers edges that begin with an empty state, with a reader of the record of its own."""
    answer = partial(restore_parts, open_record(params, aside=True), grid=params.grid, bindings=Bindings(params.meters))
    return RestoreDesk(answer, connection, root=params.mqtt.root)


def _wire(
    params: Params,
    work: WorkFolder,
    record: Record,
    metrics: CentralMetrics,
    connection: Connection,
    jobs: Jobs,
    restores: RestoreDesk,
) -> Central:
    root, event_clock = params.mqtt.root, params.clock == "event"
    journal = Journal(work.journal, Stall("journal", metrics.stalled))
    rollout, keyring = Rollout(load_rollout(work), params.rollout), Keyring.of(params, work)
    delivery = Delivery(rollout, connection, work, jobs, journal, metrics, root=root, keyring=keyring)
    oversight = Oversight(
        DriftWatch(params.drift, step_s=params.step_s),
        Triggers(params.training),
        jobs,
        delivery,
        journal,
        metrics,
        connection,
        work,
        root=root,
        event_clock=event_clock,
    )
    oversight.rebuild(record, wall_now())
    held_at_most = max(1, min(HELD_IN_ALL, params.mqtt.receive_maximum // 4))
    intake = Intake(record, connection, metrics, root=root, held_at_most=held_at_most)
    return Central(
        root=root,
        connection=connection,
        intake=intake,
        oversight=oversight,
        delivery=delivery,
        restores=restores,
        metrics=metrics,
    )


def open_registry(params: Params) -> Registry:
    """MLflow: the server that is named, else SQLite and artifacts in the work folder."""
    from central.registry import Registry  # takes seconds, which only trainings and `models` should wait for

    return Registry(mlflow_uri(params), work_folder(params).mlflow)


def mlflow_uri(params: Params) -> str:
    """The tracking server that is named, empty for none."""
    return params.central.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI", "")


def train(params: Params, *, reason: Reason, until_us: int | None, out: Path | None) -> Result:
    """Train, judge and leave the result in the work folder, where `run` finds it."""
    from central.candidate import Order, Workshop

    require_built(params)
    work, started = work_folder(params), wall_now()
    training = Training(out) if out is not None else new_training(work, reason, started)
    champion = _champion(work)
    lock = nullcontext() if out is not None else training.held()  # `run` holds the lock of what it starts
    with lock, ThreadPoolExecutor(1) as aside:  # MLflow takes seconds to import, LightGBM leaves the other core idle
        registry = aside.submit(open_registry, params)
        workshop = Workshop(params, open_record(params), registry.result, champion)
        made = workshop.make(Order(training.id, reason, until_us, started))
        if made.artifact is not None and made.result.manifest is not None:
            replace_bytes(work.artifact(made.result.manifest.sha256), made.artifact)
        training.finish(made.result)
    return made.result


def _champion(work: WorkFolder) -> Champion | None:
    """The model that serves, with what it was trained on; None when none does."""
    from central.candidate import Champion

    manifest = load_rollout(work).champion
    if manifest is None:
        return None
    path = work.artifact(manifest.sha256)
    try:
        artifact = path.read_bytes()
    except OSError as error:
        raise MetercastError(f"champion {path}: {error.strerror}; fetch it from the registry's run") from error
    return Champion(manifest, artifact, trained_until_us(work.trainings, manifest))


def require_built(params: Params) -> None:
    """Refuse what can be asked for and is not there yet; raises ParamsError."""
    if params.training.scope != "fleet":
        raise ParamsError(f"training.scope: {params.training.scope} is not built yet; only fleet")
    site_calendar(params.calendar)
