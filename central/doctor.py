"""`central doctor`: is everything that central needs in order, and if not, what to mend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from central.bootstrap import open_record, open_registry, work_folder
from shared.errors import MetercastError
from shared.mqtt import Connection
from shared.params import Params


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'FAIL'}  {self.what}: {self.detail}"


def examine(params: Params) -> list[Finding]:
    """Look at broker, record, work folder and MLflow."""
    checks: dict[str, Callable[[Params], str]] = {
        "broker": _broker,
        "record": _record,
        "work folder": _work,
        "mlflow": _mlflow,
    }
    return [_finding(what, check, params) for what, check in checks.items()]


def _finding(what: str, check: Callable[[Params], str], params: Params) -> Finding:
    try:
        return Finding(what, True, check(params))
    except MetercastError as error:
        return Finding(what, False, str(error))


def _broker(params: Params) -> str:
    connection = Connection(params.mqtt, client_id="metercast-central-doctor")
    connection.start(timeout_s=5)
    connection.stop()
    return f"{params.mqtt.host}:{params.mqtt.port} accepts us over MQTT 5"


def _record(params: Params) -> str:
    record = open_record(params)
    return f"readings at version {record.version}, {record.spans().num_rows} meters"


def _work(params: Params) -> str:
    folder = work_folder(params).root
    probe = folder / ".doctor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise MetercastError(f"central.work_dir {folder}: {error.strerror}") from error
    return f"{folder} is writable"


def _mlflow(params: Params) -> str:
    open_registry(params).prepare()
    return "the experiment is there"
