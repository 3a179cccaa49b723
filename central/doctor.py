"""`central doctor`: is everything that central needs in order, and if not, what to mend."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from central import keys_doctor
from central.bootstrap import open_record, open_registry, require_built, work_folder
from central.keyring import Keyring
from central.work import replace_bytes
from shared.errors import MetercastError, RecordError
from shared.findings import Finding, ok, to_mend
from shared.mqtt import Connection
from shared.params import Params

PROBE_BYTES: Final = 1_048_576  # what a commit may take


@dataclass(frozen=True, slots=True)
class _Look:
    """`look` returns what is good, or raises MetercastError; `mend` is what to do then."""

    subject: str
    look: Callable[[Params], str]
    mend: str


def examine(params: Params) -> list[Finding]:
    """Look at parameters, broker, record, work folder, MLflow and keys; never raises for what it finds."""
    keys = keys_doctor.examine(Keyring.of(params, work_folder(params)))
    return [*(_finding(look, params) for look in _LOOKS), *keys]


def _finding(look: _Look, params: Params) -> Finding:
    try:
        return ok(look.subject, look.look(params))
    except MetercastError as error:
        return to_mend(look.subject, str(error).removeprefix(f"{look.subject} "), look.mend)


def _params(params: Params) -> str:
    require_built(params)
    return "what they ask for is built"


def _broker(params: Params) -> str:
    connection = Connection(params.mqtt, client_id="metercast-central-doctor", lasting=False)
    connection.start(timeout_s=5)
    connection.stop()
    return f"{params.mqtt.host}:{params.mqtt.port} accepts us over MQTT 5"


def _record(params: Params) -> str:
    record = open_record(params)
    told = f"readings at version {record.version}, {record.spans().num_rows} meters"
    uri = params.central.record_uri
    if not uri or "://" in uri:
        return told
    try:
        return f"{told}, {_room(Path(uri))}"
    except OSError as error:
        raise RecordError(f"record {uri}: {error.strerror}") from error


def _work(params: Params) -> str:
    folder = work_folder(params).root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return f"{folder} is writable, {_room(folder)}"
    except OSError as error:
        raise MetercastError(f"central.work_dir {folder}: {error.strerror}") from error


def _room(folder: Path) -> str:
    """How much room there is; raises OSError where a file of PROBE_BYTES is not taken."""
    probe = folder / ".doctor"
    try:
        replace_bytes(probe, bytes(PROBE_BYTES))
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free"


def _mlflow(params: Params) -> str:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # its default keeps a person waiting for minutes
    open_registry(params).prepare()
    return "the experiment is there"


_LOOKS = (
    _Look("parameters", _params, "set it to what the sentence names, or leave it out"),
    _Look("broker", _broker, "start the broker, or set mqtt.host, mqtt.port and credentials"),
    _Look(
        "work folder",
        _work,
        "make room, change its owner, or set central.work_dir; a `central run` that waits for room goes on by itself",
    ),
    _Look(
        "record",
        _record,
        "`central run` makes one at its first start; else make room, or set central.record_uri to where it is",
    ),
    _Look("mlflow", _mlflow, "start the server, or set central.mlflow_uri; empty is SQLite in the work folder"),
)
