"""Making a candidate: from the record at one version to a judged, proven, registered model.

    record → panel → train before the holdout → judge on it → refit on all → ONNX, parity, golden rows → registry

Invariant: what a candidate or the champion is judged on, it was not trained on. The refit has the same recipe, and is
what serves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from central.covariates import covariate_columns_of
from central.criteria import Duel, Limits, Score, judge
from central.dataset import Panel
from central.evaluation import (
    Forecaster,
    Windows,
    all_pairs,
    forecast_windows,
    judged_score,
    judged_windows,
    measure,
    model_forecaster,
    naive_forecaster,
)
from central.explain import run_files
from central.export import OnnxForecaster, proven
from central.panels import newest_us, training_panel
from central.recipes import recipe_of
from central.record import Record
from central.runs import LoggedRun, RunRecord
from central.training import TrainedModel, train
from central.trainings import FLEET, Reason, Result
from shared.calendars import site_calendar
from shared.clock import HOUR_US, duration_us, iso, to_us
from shared.covariates import schema_hash_of, with_columns
from shared.errors import MetercastError
from shared.features import feature_matrix
from shared.manifest import Golden, Manifest, pack
from shared.params import Params

if TYPE_CHECKING:
    from central.registry import Registry

log = logging.getLogger(__name__)

MODEL_FILE: Final = "model/model.onnx"
HOLDOUT_SPACING_H: Final = 7  # no divisor of a day, so that origins fall on all hours
EXPIRES_AFTER: Final = timedelta(days=90)
PROOF_WINDOWS: Final = 64
LEAD_BUCKETS_H: Final = ((1, 6), (7, 12), (13, 24), (25, 48))


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that serves, to be judged against on what came after `until_us`: it was trained on all before."""

    manifest: Manifest
    artifact: bytes
    until_us: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained: why, on what ended by `until_us` (None: all there is), called `id`, from `started` on."""

    id: str
    reason: Reason
    until_us: int | None
    started: datetime


@dataclass(frozen=True, slots=True)
class Scores:
    """The held-out scores that decide; `duel` is with the champion, and `unmatched` says why there is none."""

    candidate: Score
    naive: Score
    duel: Duel | None
    unmatched: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A result, and the artifact when it was accepted."""

    result: Result
    artifact: bytes | None = None


class Workshop:
    """Parameters and places that a training needs."""

    def __init__(
        self, params: Params, record: Record, registry: Callable[[], Registry], champion: Champion | None
    ) -> None:
        """`registry` is asked for when the first thing is logged."""
        self._params = params
        self._record = record
        self._registry = registry
        self._champion = champion
        self._calendar = site_calendar(params.calendar)
        self._recipe = recipe_of(params.training)

    def make(self, order: Order) -> Made:
        """Train, judge and, when accepted, export and register. Raises MetercastError when that cannot be done."""
        began = time.monotonic()
        record_version = self._record.version
        with _said("read the record"):
            until_us = order.until_us if order.until_us is not None else newest_us(self._params, self._record)
            panel = training_panel(self._params, self._record, version=record_version, until_us=until_us)
        cutoff_us = panel.end_us - duration_us(self._params.training.criteria.holdout)
        with _said("train before the holdout"):
            model = self._train(panel, cutoff_us)
        windows = self._holdout(panel, cutoff_us)
        with _said("judge on the holdout"):
            scores = self._scores(panel, model, windows)
            verdict = judge(scores.candidate, scores.duel, scores.naive, self._limits())
            detail = self._detail(panel, model, windows)
        result = Result(
            id=order.id,
            reason=order.reason,
            outcome="accepted" if verdict.accepted else "rejected",
            reasons=[*verdict.reasons, *filter(None, [scores.unmatched])],
            started_at=iso(to_us(order.started)),
            until=iso(panel.end_us),
            record_version=record_version,
            trained_rows=model.trained_rows,
            meters=len(panel.meters),
            mase=scores.candidate.mase,
            mase_champion=scores.duel.champion.mase if scores.duel else None,
            mase_naive=scores.naive.mase,
            coverage_80=scores.candidate.coverage_80,
        )
        if verdict.accepted:
            return self._accepted(order, panel, result, scores, detail, began)
        files = run_files(model, self._proof_rows(panel))
        logged = self._log(order, result, scores, detail, model, files)
        return Made(result.model_copy(update={"run_id": logged.run_id, "seconds": time.monotonic() - began}))

    def _train(self, panel: Panel, until_us: int) -> TrainedModel:
        try:
            return train(
                panel,
                until_us=until_us,
                quantiles=self._params.forecast.modelled,
                horizon_steps=self._params.horizon_steps,
                recipe=self._recipe,
                calendar=self._calendar,
            )
        except ValueError as error:
            raise MetercastError(f"train: {error}") from error

    def _holdout(self, panel: Panel, cutoff_us: int) -> Windows:
        last_us = panel.end_us - 24 * HOUR_US
        origins = np.arange(cutoff_us, max(last_us, cutoff_us + 1), HOLDOUT_SPACING_H * HOUR_US, dtype=np.int64)
        meters, origins_us = all_pairs(panel, origins // panel.step_us * panel.step_us)
        return judged_windows(panel, meters, origins_us, horizon_steps=self._params.horizon_steps)

    def _scores(self, panel: Panel, model: TrainedModel, windows: Windows) -> Scores:
        quantiles = self._params.forecast.modelled
        naive = naive_forecaster(quantiles, season_h=168, step_s=panel.step_s)
        candidate = model_forecaster(model, self._calendar)
        duel, unmatched = self._duel(panel, candidate, windows)
        return Scores(
            judged_score(panel, candidate, windows, quantiles),
            judged_score(panel, naive, windows, quantiles),
            duel,
            unmatched,
        )

    def _duel(self, panel: Panel, candidate: Forecaster, windows: Windows) -> tuple[Duel | None, str]:
        """Candidate and champion on the windows that neither was trained on; else why there is no telling."""
        if self._champion is None:
            return None, ""
        fresh = _chosen(windows, windows.origins_us >= self._champion.until_us)
        if len(fresh) < self._limits().min_windows:
            return None, f"it was not judged against the champion: only {len(fresh)} windows are new to that"
        try:
            champion = OnnxForecaster(self._champion.artifact, calendar=self._calendar)
        except ValueError as error:  # made by another version of us: the new one has nothing to be compared with
            return None, f"it was not judged against the champion: {error}"
        if champion.step_s != panel.step_s:
            return None, f"it was not judged against the champion: that forecasts steps of {champion.step_s} s"
        own = judged_score(panel, candidate, fresh, self._params.forecast.modelled)
        return Duel(own, judged_score(panel, champion, fresh, champion.quantiles)), ""

    def _limits(self) -> Limits:
        criteria = self._params.training.criteria
        return Limits(
            max_vs_naive=criteria.max_vs_naive,
            max_vs_champion=criteria.max_vs_champion,
            coverage_80=criteria.coverage_80,
        )

    def _detail(self, panel: Panel, model: TrainedModel, windows: Windows) -> dict[str, float]:
        """Metrics by lead bucket and by group of meters (small, middle and large loads)."""
        quantiles = self._params.forecast.modelled
        forecast = forecast_windows(panel, windows, model_forecaster(model, self._calendar))
        steps_per_hour = 3600 / panel.step_s
        detail = dict(measure(windows, forecast, quantiles, slice(None)))
        for first_h, last_h in LEAD_BUCKETS_H:
            leads = slice(round((first_h - 1) * steps_per_hour), round(last_h * steps_per_hour))
            if leads.start < forecast.shape[1]:
                found = measure(windows, forecast, quantiles, leads)
                detail |= {f"lead_{first_h}_to_{last_h}h.{name}": value for name, value in found.items()}
        for name, members in _groups(panel).items():
            chosen = np.isin(windows.meters, members)
            if chosen.any():
                found = measure(_chosen(windows, chosen), forecast[chosen], quantiles, slice(None))
                detail |= {f"meters_{name}.{measured}": value for measured, value in found.items()}
        return {name: value for name, value in detail.items() if np.isfinite(value)}

    def _accepted(
        self, order: Order, panel: Panel, result: Result, scores: Scores, detail: dict[str, float], began: float
    ) -> Made:
        with _said("refit on everything"):
            model = self._train(panel, panel.end_us)
        with _said("export and prove"):
            artifact, golden = proven(model, self._proof_rows(panel))
        with _said("explain"):
            files = {MODEL_FILE: artifact, **run_files(model, self._proof_rows(panel))}
        logged = self._log(order, result, scores, detail, model, files)
        tags = {"reason": order.reason, "record_version": str(result.record_version)}
        version = self._registry().register(FLEET, logged, "model", tags=tags)
        manifest = self._manifest(order, result, model, artifact, golden, version, logged)
        self._registry().add_file(
            logged.run_id, "model/manifest.json", manifest.model_dump_json(by_alias=True).encode()
        )
        self._registry().alias(FLEET, "candidate", version)
        done = {
            "version": version,
            "run_id": logged.run_id,
            "trained_rows": model.trained_rows,
            "manifest": manifest,
            "seconds": time.monotonic() - began,
        }
        return Made(result.model_copy(update=done), artifact)

    def _proof_rows(self, panel: Panel) -> NDArray[np.float32]:
        """Feature rows of the latest origins of up to PROOF_WINDOWS meters."""
        meters = np.arange(len(panel.meters), dtype=np.int64)[:PROOF_WINDOWS]
        origins_us = np.full(len(meters), panel.end_us, dtype=np.int64)
        leads = np.arange(1, self._params.horizon_steps + 1, dtype=np.int64)
        windows = panel.windows(meters, origins_us)
        x = feature_matrix(windows, origins_us, leads, step_s=panel.step_s, calendar=self._calendar).x
        known = panel.covariates_of(meters)
        return with_columns(x, covariate_columns_of(known, known.names if known else (), origins_us, leads))

    def _manifest(
        self,
        order: Order,
        result: Result,
        model: TrainedModel,
        artifact: bytes,
        golden: Golden,
        version: int,
        logged: LoggedRun,
    ) -> Manifest:
        return Manifest(
            name=FLEET,
            version=version,
            **pack(artifact).claims,
            created=iso(to_us(order.started)),
            expires=iso(to_us(order.started + EXPIRES_AFTER)),
            features=list(model.features),
            schema_hash=schema_hash_of(model.covariates),
            zone=self._params.calendar.zone,
            country=self._params.calendar.country,
            step_s=model.step_s,
            horizon_steps=model.horizon_steps,
            quantiles=list(model.quantiles),
            golden=golden,
            predecessor=self._champion.manifest.version if self._champion else None,
            reason=order.reason,
            run_id=logged.run_id,
            record_version=result.record_version or 0,
        )

    def _log(
        self,
        order: Order,
        result: Result,
        scores: Scores,
        detail: dict[str, float],
        model: TrainedModel,
        files: dict[str, bytes],
    ) -> LoggedRun:
        metrics = detail | {
            "trained_rows": float(model.trained_rows),
            "naive.mase": scores.naive.mase,
            "naive.wql": scores.naive.wql,
        }
        if scores.duel is not None:
            metrics |= {"champion.mase": scores.duel.champion.mase, "champion.wql": scores.duel.champion.wql}
        metrics |= {f"importance.{name}": share for name, share in list(model.importances.items())[:20]}
        settings = {
            "record_version": result.record_version,
            "until": result.until,
            "meters": result.meters,
            "reason": order.reason,
        }
        run = RunRecord(
            name=order.id,
            params={**self._recipe.as_params(), **settings},
            metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
            tags={"outcome": result.outcome, "reasons": "; ".join(result.reasons)},
            started_ms=to_us(order.started) // 1000,
            files=files,
        )
        with _said("log to mlflow"):
            return self._registry().log(run, finished_ms=int(time.time() * 1000))


def _groups(panel: Panel) -> dict[str, NDArray[np.int64]]:
    """Meters by their mean load, in thirds: indices into the panel."""
    order = np.argsort(np.nanmean(panel.load_kw, axis=1)).astype(np.int64)
    return dict(zip(("small", "middle", "large"), np.array_split(order, 3), strict=True))


def _chosen(windows: Windows, kept: NDArray[np.bool_]) -> Windows:
    return Windows(
        windows.meters[kept],
        windows.origins_us[kept],
        windows.leads,
        windows.step_s,
        windows.actual[kept],
        windows.scale[kept],
    )


@contextmanager
def _said(doing: str) -> Iterator[None]:
    """Log what the job does and how long it took."""
    began = time.monotonic()
    log.info("%s", doing)
    yield
    log.info("done: %s", doing, extra={"seconds": f"{time.monotonic() - began:.1f}"})
