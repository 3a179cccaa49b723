"""What a training tells the registry, without the library that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is kept of one training: all flat, and files by their names."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    started_ms: int
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run that MLflow holds."""

    run_id: str
    artifact_uri: str
