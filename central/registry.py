"""Runs, metrics, registered versions and their aliases; the only home of mlflow.

MLflow takes seconds to import, so `central run` itself never does: the training job and `central models` do.
"""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

# Before the import: MLflow reads these once, and would else warn, call home and look for git.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
warnings.filterwarnings("ignore", module=r"mlflow(\..*)?")

from mlflow import MlflowClient  # noqa: E402 (silenced first)
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402 (what it lets through of its database)

from central.runs import LoggedRun, RunRecord  # noqa: E402
from shared.errors import MetercastError  # noqa: E402

for chatty in ("mlflow", "alembic"):  # after the import, which sets levels of its own
    logging.getLogger(chatty).setLevel(logging.WARNING)

EXPERIMENT: Final = "metercast"
LONGEST_PARAM: Final = 500
_FOREIGN: Final = (MlflowException, SQLAlchemyError, OSError)


class Registry:
    """One tracking server or database, and the models registered there."""

    def __init__(self, uri: str, folder: Path) -> None:
        """`uri` is a server's, or empty for SQLite and artifacts in `folder`."""
        self._folder = folder
        self._local = not uri
        self._uri = uri or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._opened: MlflowClient | None = None
        self._experiment = ""

    def prepare(self) -> None:
        """Create or migrate the store and the experiment; raises MetercastError."""
        with self._guard("prepare"), self._alone():
            client = self._client()
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                self._experiment = found.experiment_id
                return
            place = str((self._folder / "artifacts").absolute()) if self._local else None
            self._experiment = client.create_experiment(EXPERIMENT, artifact_location=place)

    def log(self, run: RunRecord, *, finished_ms: int, failed: bool = False) -> LoggedRun:
        """Keep one run, ended; raises MetercastError."""
        if not self._experiment:
            self.prepare()
        with self._guard("log the run"):
            client = self._client()
            made = client.create_run(self._experiment, start_time=run.started_ms, run_name=run.name)
            run_id = made.info.run_id
            client.log_batch(
                run_id,
                metrics=[Metric(key, value, finished_ms, 0) for key, value in run.metrics.items()],
                params=[Param(key, str(value)[:LONGEST_PARAM]) for key, value in run.params.items()],
                tags=[RunTag(key, value) for key, value in run.tags.items()],
            )
            self._put(client, run_id, run.files)
            client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end_time=finished_ms)
            return LoggedRun(run_id, made.info.artifact_uri)

    def add_file(self, run_id: str, name: str, content: bytes) -> None:
        """Put one more file to a run; raises MetercastError."""
        with self._guard("add a file"):
            self._put(self._client(), run_id, {name: content})

    def files(self, run_id: str, folder: str) -> dict[str, bytes]:
        """Return the files of a run's artifact folder by their names there; raises MetercastError."""
        with self._guard("read a run's files"), TemporaryDirectory() as place:
            client = self._client()
            paths = [info.path for info in client.list_artifacts(run_id, folder) if not info.is_dir]
            return {
                path.rpartition("/")[2]: Path(client.download_artifacts(run_id, path, place)).read_bytes()
                for path in paths
            }

    def register(self, model: str, run: LoggedRun, folder: str, *, tags: Mapping[str, str]) -> int:
        """Register the run's artifact `folder` as the model's next version, and return that; raises MetercastError."""
        with self._guard("register the model"):
            client = self._client()
            try:
                client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{run.artifact_uri}/{folder}"
            made = client.create_model_version(model, source, run_id=run.run_id, tags=dict(tags))
            return int(made.version)

    def alias(self, model: str, name: str, version: int) -> None:
        """Let the alias `name` point to a version; raises MetercastError."""
        with self._guard("set an alias"):
            self._client().set_registered_model_alias(model, name, str(version))

    def drop_alias(self, model: str, name: str) -> None:
        """Take an alias away, if it is there; raises MetercastError."""
        with self._guard("drop an alias"):
            self._client().delete_registered_model_alias(model, name)

    def aliases(self, model: str) -> dict[str, int]:
        """Which version each alias points to; raises MetercastError."""
        with self._guard("read aliases"):
            found = self._client().get_registered_model(model)
            return {name: int(version) for name, version in found.aliases.items()}

    def _client(self) -> MlflowClient:
        if self._opened is None:
            self._opened = MlflowClient(self._uri, self._uri)
        return self._opened

    def _put(self, client: MlflowClient, run_id: str, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            folder, _, leaf = name.rpartition("/")
            path = self._folder / "outgoing" / run_id / leaf
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            client.log_artifact(run_id, str(path), folder or None)
            path.unlink()
            path.parent.rmdir()

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _FOREIGN as error:
            reason = str(error).strip().splitlines()[0]
            raise MetercastError(f"mlflow {self._uri}: cannot {doing}: {reason}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that create the same SQLite database at once break it: one waits for the other."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
