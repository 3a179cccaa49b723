"""The search for a better recipe; the only home of optuna.

A study is bound to one version of the record and one origin of the holdout, both noted in it: whoever goes on with it
goes on with the same data. It is named by what makes trials comparable, so that others are never mixed in.

Invariants: trial 0 is the recipe in force. No trial sees the holdout (see central/folds.py). The winner is confirmed
with another seed against the recipe in force, so that no luck of sampling is written down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from central.folds import FOLDS, SPACING_H, Judge, is_better
from central.recipes import recipe_of
from central.training import Recipe
from shared.errors import MetercastError
from shared.features import SCHEMA_HASH
from shared.params import Params, TrainingParams

Floats = NDArray[np.float64]
Values = dict[str, int | float | None]

_COMPLETE: Final = TrialState.COMPLETE
_DIGITS: Final = 3  # of a float: more would be noise in the parameters file


@dataclass(frozen=True, slots=True)
class Dimension:
    """Where a key of `training` is searched; one that `may_be_off` may be null as well."""

    key: str
    low: float
    high: float
    whole: bool = False
    log: bool = True
    may_be_off: bool = False

    def suggested(self, trial: optuna.Trial) -> int | float | None:
        """Return a value for a trial, as it may stand in a parameters file."""
        if self.may_be_off and trial.suggest_categorical(f"{self.key}.off", [True, False]):
            return None
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return float(f"{trial.suggest_float(self.key, self.low, self.high, log=self.log):.{_DIGITS}g}")


SPACE: Final = (
    Dimension("leaves", 8, 127, whole=True),
    Dimension("trees", 40, 400, whole=True),
    Dimension("learning_rate", 0.02, 0.3),
    Dimension("min_leaf_rows", 10, 500, whole=True),
    Dimension("feature_fraction", 0.2, 1.0, log=False),
    Dimension("dropout", 0.0, 0.6, log=False),
    Dimension("rows", 20_000, 200_000, whole=True),
    Dimension("half_life_days", 7.0, 180.0, may_be_off=True),
)


@dataclass(frozen=True, slots=True)
class Data:
    """What a study is about: the record's version, and the end of the training's panel in it."""

    record_version: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best of a study beside the recipe in force, at the seed they were confirmed with.

    `values` are those keys that differ; empty when nothing is better by more than noise.
    """

    values: Values
    best_trial: int
    best_wql: float
    in_force_wql: float
    trials: int


class Tuning:
    """One study in the work folder's database; raises MetercastError when that cannot be used."""

    def __init__(self, path: Path, params: Params, *, space: tuple[Dimension, ...] = SPACE) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._params = params
        self._space = space
        self._in_force = {one.key: getattr(params.training, one.key) for one in space}
        with self._guard():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
        self._study: optuna.Study | None = None

    @property
    def prefix(self) -> str:
        """What all studies are called whose trials can be compared, but for the data."""
        params = self._params
        fixed = params.training.model_dump(mode="json", include={"window", "seed", *self._in_force})
        said = [fixed, params.training.criteria.model_dump(mode="json", include={"holdout"})]
        said += [params.calendar.model_dump(mode="json"), params.grid.model_dump(mode="json")]
        digest = hashlib.sha256(json.dumps([said, repr(self._space), FOLDS, SPACING_H]).encode()).hexdigest()[:8]
        levels = ",".join(f"{q:g}" for q in params.forecast.modelled)
        return (
            f"features {SCHEMA_HASH}, {params.step_s} s x {params.horizon_steps}, quantiles {levels}, {digest}, record "
        )

    def open(self, now: Data, *, stale_us: int) -> Data:
        """Go on with the newest study whose data are less than `stale_us` older than `now`, or begin one on `now`."""
        with self._guard():
            names = [n for n in optuna.get_all_study_names(self._storage) if n.startswith(self.prefix)]
            studies = [optuna.load_study(study_name=name, storage=self._storage) for name in names]
            found = [(Data(**study.user_attrs["data"]), study) for study in studies if "data" in study.user_attrs]
            found = [pair for pair in found if 0 <= now.until_us - pair[0].until_us < stale_us]
            if not found:
                return self._begin(now)
            data, study = max(found, key=lambda pair: pair[0].until_us)
            self._study = self._with_methods(study)
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.tell(trial.number, state=TrialState.FAIL)  # whoever ran it was killed
            return data

    def _begin(self, now: Data) -> Data:
        name = f"{self.prefix}{now.record_version} until {now.until_us}"
        study = optuna.create_study(storage=self._storage, study_name=name, load_if_exists=True)
        self._study = self._with_methods(study)
        study.set_user_attr("data", {"record_version": now.record_version, "until_us": now.until_us})
        return now

    def _with_methods(self, study: optuna.Study) -> optuna.Study:
        seed = self._params.training.seed + len(study.get_trials(deepcopy=False))  # going on repeats no draw
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
        return study

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that ended: judged to the end, or given up early as hopeless."""
        assert self._study is not None, "open() comes first"
        with self._guard():
            return self._study.get_trials(deepcopy=False, states=(_COMPLETE, TrialState.PRUNED))

    def run(self, judge: Judge, count: int, say: Callable[[str], None]) -> None:
        """Make trials until `count` have ended. A KeyboardInterrupt goes on up, after its trial was put down."""
        while (ended := len(self.trials)) < count:
            with self._guard():
                wql = self._trial(judge)
            say(f"trial {ended + 1} of {count}: {'given up' if wql is None else f'wql {wql:.5f}'}; {self._standing()}")

    def _trial(self, judge: Judge) -> float | None:
        """Judge one recipe; returns its loss, None when it was given up."""
        assert self._study is not None, "open() comes first"
        in_force = self._in_force_trial() is None
        if in_force:
            self._study.enqueue_trial(self._clipped(self._in_force))
        trial = self._study.ask()
        trial.set_user_attr("in_force", in_force)
        try:
            values: Values = {one.key: one.suggested(trial) for one in self._space}
            losses: list[float] = []
            for number, fold in enumerate(judge.folds):
                losses += judge.losses(fold, self._recipe(self._in_force if in_force else values)).tolist()
                trial.report(float(np.mean(losses)), number)
                if not in_force and trial.should_prune():
                    self._study.tell(trial, state=TrialState.PRUNED)
                    return None
            trial.set_user_attr("values", values)
            self._study.tell(trial, float(np.mean(losses)))
        except BaseException:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        return float(np.mean(losses))

    def outcome(self, judge: Judge) -> Outcome:
        """Confirm the best trial against the recipe in force, at a seed that no trial had."""
        in_force, best = self._in_force_trial(), self._best_trial()
        assert in_force is not None, "run() comes first"
        if best.number == in_force.number:
            wql = float(in_force.value or 0.0)
            return Outcome({}, best.number, wql, wql, len(self.trials))
        values: Values = best.user_attrs["values"]
        ours, theirs = (self._confirmed(judge, each) for each in (values, self._in_force))
        better = is_better(ours, theirs, horizon_h=judge.horizon_steps * judge.panel.step_s / 3600)
        changed = {key: value for key, value in values.items() if value != self._in_force[key]} if better else {}
        return Outcome(changed, best.number, float(ours.mean()), float(theirs.mean()), len(self.trials))

    def _confirmed(self, judge: Judge, values: Mapping[str, int | float | None]) -> Floats:
        recipe = self._recipe(values)
        recipe = replace(recipe, seed=recipe.seed + 1)
        return np.concatenate([judge.losses(fold, recipe) for fold in judge.folds])

    def _recipe(self, values: Mapping[str, int | float | None]) -> Recipe:
        return recipe_of(with_training(self._params, values).training)

    def _clipped(self, values: Mapping[str, int | float | None]) -> dict[str, object]:
        """Return what is in force as a trial's parameters, moved into the space; what is judged are the values."""
        params: dict[str, object] = {}
        for one in self._space:
            value = values[one.key]
            if one.may_be_off:
                params[f"{one.key}.off"] = value is None
            if value is not None:
                params[one.key] = min(max(value, one.low), one.high)
        return params

    def _in_force_trial(self) -> FrozenTrial | None:
        return next((trial for trial in self.trials if trial.user_attrs.get("in_force")), None)

    def _best_trial(self) -> FrozenTrial:
        complete = [trial for trial in self.trials if trial.state == _COMPLETE]
        return min(complete, key=lambda trial: trial.value if trial.value is not None else np.inf)

    def _standing(self) -> str:
        in_force, best = self._in_force_trial(), self._best_trial()
        assert in_force is not None, "the first trial is the recipe in force"
        return f"best {best.value:.5f} (trial {best.number}), recipe in force {in_force.value:.5f}"

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (optuna.exceptions.OptunaError, SQLAlchemyError, OSError) as error:
            raise MetercastError(f"{self._path}: {str(error).strip().splitlines()[0]}") from error


def with_training(params: Params, values: Mapping[str, int | float | None]) -> Params:
    """Return the parameters with other values under `training`."""
    content = params.training.model_dump() | dict(values)
    return params.model_copy(update={"training": TrainingParams.model_validate(content)})
