"""Wiring of a running central: the only place that connects parts, opens files and listens to signals."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from central.intake import Intake
from central.record import Record
from central.runtime import CLIENT_ID, Central, filters
from central.telemetry import CentralMetrics
from central.work import WorkFolder
from shared.errors import ExitCode
from shared.mqtt import Connection
from shared.params import Params
from shared.telemetry import serve_metrics

log = logging.getLogger(__name__)


def work_folder(params: Params) -> WorkFolder:
    """The work folder the parameters name."""
    return WorkFolder(params.central.work_dir)


def open_record(params: Params) -> Record:
    """The record the parameters name, not yet looked at."""
    return Record(params.central.record_uri or str(work_folder(params).record))


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
    stop = stop_on_signals()
    with work_folder(params).held():
        record = open_record(params)
        record.create()
        metrics = CentralMetrics()
        metrics.record_version.set(record.version)
        serve_metrics(metrics.registry, params.central.metrics_host, params.central.metrics_port)
        connection = Connection(params.mqtt, client_id=CLIENT_ID, filters=filters(params.mqtt.root))
        intake = Intake(record, connection, metrics, root=params.mqtt.root, event_clock=params.clock == "event")
        connection.start()
        try:
            Central(root=params.mqtt.root, connection=connection, intake=intake).run(stop)
        finally:
            connection.stop()
    return ExitCode.OK
