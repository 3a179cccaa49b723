"""`summary.json`: every figure of a run, counted on the wire, read back from the record or computed from both; none
written by hand.
"""

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from demo.archive import CHAMPION
from demo.observer import SERVED, SHADOW, ModelPushed, Observer
from demo.retrain import Retrain
from demo.scores import Comparison, Hindsight, Medians, compare, coverage, mase
from shared.clock import HOUR_US, iso

DECIMALS: Final = 4


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `central export` gave back: rows of readings, and readings among its dead letters."""

    readings: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The retrain in figures: both models and seasonal naive on the changed and on the other meters."""

    changed: Comparison
    unchanged: Comparison
    coverage_80: float
    coverage_80_old: float


@dataclass(slots=True)
class Outcome:
    """Everything the end of a run knows; the picture and the summary are drawn from it."""

    observer: Observer
    hindsight: Hindsight
    changed: NDArray[np.bool_]
    last_origins: NDArray[np.int64]
    retrain: Retrain | None
    recorded: Recorded
    seconds: float
    edge_memory: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def until(self) -> int:
        """Index after the last interval that came true."""
        known = np.flatnonzero(np.isfinite(self.hindsight.kw).any(axis=0))
        return int(known[-1]) + 1 if known.size else 0

    def verdict(self) -> Verdict | None:
        """Compare old and new model on the weeks both forecast; None without a retrain or without an old model."""
        if self.retrain is None or self.retrain.old_version == 0:
            return None
        served, shadow = self.observer.archives[SERVED], self.observer.archives[SHADOW]
        old = Medians.of(self.retrain.old_version, served, shadow).from_origin(self.retrain.origin)
        new = Medians.of(self.retrain.push.version, served, shadow).from_origin(self.retrain.origin)
        changed, unchanged = (
            compare(old, new, self.hindsight, chosen, self.until) for chosen in (self.changed, ~self.changed)
        )
        after = np.arange(served.origins) >= self.retrain.origin
        by_new = (served.version == new.version) & (served.rung == CHAMPION) & after
        by_old = (shadow.version == old.version) & after
        truth = self.hindsight.truth
        return Verdict(changed, unchanged, coverage(served, truth, by_new), coverage(shadow, truth, by_old))


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return the summary; a figure that could not be measured is None."""
    observer, verdict = outcome.observer, outcome.verdict()
    served = observer.archives[SERVED]
    summary: dict[str, Any] = {
        "meters": int((served.messages > 0).any(axis=1).sum()),
        "readings_published": observer.readings_published,
        "readings_recorded": outcome.recorded.readings,
        "dead_letters": outcome.recorded.dead_letters,
        "dead_letters_on_topic": observer.dead_letter_readings,
        "forecasts_published": observer.counts.forecasts,
        "fallback_forecasts": observer.counts.fallbacks,
        "shadow_forecasts": observer.counts.shadow,
        "drift_events": len(observer.drift),
        "models": [_model(push, outcome) for push in observer.pushed],
        "models_refused": len(observer.refused),
        **_figures(verdict),
        "missed_forecasts": served.missed(outcome.last_origins),
        "edge_rss_mb": outcome.edge_memory.get("VmRSS"),
        "edge_rss_peak_mb": outcome.edge_memory.get("VmHWM"),
        "seconds": outcome.seconds,
    }
    rounded: dict[str, Any] = _rounded(summary)
    return rounded


def _figures(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        names = ("mase_seasonal_naive", "mase_before_retrain", "mase_after_retrain", "coverage_80")
        return dict.fromkeys(names)
    return {
        "mase_seasonal_naive": verdict.changed.mase_naive,
        "mase_before_retrain": verdict.changed.mase_old,
        "mase_after_retrain": verdict.changed.mase_new,
        "coverage_80": verdict.coverage_80,
        "coverage_80_old_model": verdict.coverage_80_old,
        "changed_meters": asdict(verdict.changed),
        "unchanged_meters": asdict(verdict.unchanged),
    }


def _model(push: ModelPushed, outcome: Outcome) -> dict[str, Any]:
    observer = outcome.observer
    served = observer.archives[SERVED]
    origin = served.first_origin_of(push.version)
    serving = next((model for model in observer.serving if model.version == push.version), None)
    own = Medians.of(push.version, served, observer.archives[SHADOW])
    trained = outcome.trained.get(push.version, {})
    return {
        "version": push.version,
        "trained_rows": trained.get("trained_rows"),
        "mase": trained.get("mase"),
        "mase_live": mase(outcome.hindsight.scaled_errors(own.values), np.isfinite(own.values[:, :, 0])),
        "reason": push.manifest.get("reason"),
        "record_version": push.manifest.get("record_version"),
        "pushed_at": iso(push.event_us),
        "swapped_at": None if origin is None else iso(observer.scenario.start_us + origin * HOUR_US),
        "pushed_s": push.wall_s,
        "swapped_s": None if serving is None else serving.wall_s,
    }


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case float():
            return round(value, DECIMALS) if math.isfinite(value) else None
        case _:
            return value


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON for people and programs."""
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_export(readings: Path, dead_letters: Path) -> Recorded:
    """Count what `central export` wrote; a dead letter may stand for several readings, ids count once."""
    dead = pd.read_parquet(dead_letters)
    if "id" in dead:
        dead = dead.drop_duplicates("id")
    return Recorded(len(pd.read_parquet(readings)), int(dead["count"].sum()) if "count" in dead else len(dead))


def read_models(argv: Sequence[str], cwd: Path) -> dict[int, dict[str, Any]]:
    """Ask central for its registered models (`central models --json`): version → what it was trained on and how it
    scored.
    """
    answer = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    try:
        models = json.loads(answer.stdout)
        return {int(model["version"]): dict(model) for model in models}
    except (ValueError, KeyError, TypeError):
        return {}


def resident_mb(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB (10⁶ bytes), now (`VmRSS`) and at its peak (`VmHWM`); empty without /proc."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return {}
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}
