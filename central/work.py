"""The work folder: where central keeps what is not the record, and how files there are replaced whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.durable import sync
from shared.errors import MetercastError


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Names of everything in the work folder."""

    root: Path

    @property
    def record(self) -> Path:
        """The record, unless `central.record_uri` names another place."""
        return self.root / "record"

    @property
    def trainings(self) -> Path:
        """One folder for each training."""
        return self.root / "trainings"

    @property
    def artifacts(self) -> Path:
        """ONNX files, named by sha256."""
        return self.root / "artifacts"

    def artifact(self, sha256: str) -> Path:
        """One ONNX file."""
        return self.artifacts / f"{sha256}.onnx"

    @property
    def rollout(self) -> Path:
        """What is rolled out, and to whom."""
        return self.root / "rollout.json"

    @property
    def orders(self) -> Path:
        """One file for each thing a person ordered, until `run` has followed it."""
        return self.root / "orders"

    @property
    def journal(self) -> Path:
        """What happened, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def keys(self) -> Path:
        """Keys that sign manifests; see central/key_files.py."""
        return self.root / "keys"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts when no server is named."""
        return self.root / "mlflow"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder to this process while the context lasts; raises MetercastError when another has it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "lock").open("w")
        except OSError as error:
            raise MetercastError(f"central.work_dir {self.root}: {error.strerror}") from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise MetercastError(f"central.work_dir {self.root}: another central runs here") from error
            yield

    @property
    def is_held(self) -> bool:
        """Whether a `run` is up that has the folder to itself."""
        try:
            with (self.root / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, finds the old or the new one whole, and the new one afterwards."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """As `replace_text`, of bytes. Raises OSError; the old file stays, unless only the sync of its folder failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with suppress(OSError):  # on a full disk half a file is room that somebody needs
            fresh.unlink()
        raise
    sync(path.parent)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None when there is no file; raises MetercastError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MetercastError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise MetercastError(f"{path}: expected a JSON object")
    return content
