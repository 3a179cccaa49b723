"""`central train --tune N`: search, say how it goes, and put what was found where it can be taken from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from central.bootstrap import open_record, work_folder
from central.folds import Judge, folds_before
from central.panels import newest_us, training_panel
from central.params_edit import shown, snippet, with_values
from central.progress import teller
from central.record import Record
from central.tuning import Data, Outcome, Tuning, with_training
from central.work import replace_text
from shared.calendars import site_calendar
from shared.clock import duration_us, iso
from shared.errors import MetercastError
from shared.params import Params

DATABASE: Final = "tuning.db"
SECTION: Final = "training"

_say = teller("tune")


def tune(params: Params, count: int, *, file: Path | None, until_us: int | None) -> Params:
    """Make a study of `count` trials whole and return the parameters with what was found.

    `file` is the parameters file that was named, None when none was: then what was found is printed. Raises
    MetercastError; a KeyboardInterrupt ends it with what is done kept.
    """
    record = open_record(params)
    tuning = Tuning(work_folder(params).root / DATABASE, params)
    newest = until_us if until_us is not None else newest_us(params, record)
    stale_us = duration_us(params.training.every) if until_us is None else 1
    data = tuning.open(Data(record.version, newest), stale_us=stale_us)
    judge = judge_of(params, record, data)
    _say(f"{len(judge.panel.meters)} meters before {iso(judge.panel.end_us)}, {len(tuning.trials)} trials done")
    try:
        tuning.run(judge, count, _say)
        outcome = tuning.outcome(judge)
    except KeyboardInterrupt:
        _say(f"interrupted after {len(tuning.trials)} of {count} trials; the same command goes on from there")
        raise
    except ValueError as error:
        raise MetercastError(f"tune: {error}") from error
    _say(_verdict(outcome))
    if not outcome.values:
        return params
    _hand_over(outcome, file)
    return with_training(params, outcome.values)


def judge_of(params: Params, record: Record, data: Data) -> Judge:
    """Return what judges recipes on the record as it was, before the holdout. Raises MetercastError."""
    panel = training_panel(params, record, version=data.record_version, until_us=data.until_us)
    length_us = duration_us(params.training.criteria.holdout)
    before = panel.until(panel.end_us - length_us)
    try:
        folds = folds_before(before, length_us=length_us, horizon_steps=params.horizon_steps)
    except ValueError as error:
        raise MetercastError(f"tune: {error}") from error
    return Judge(before, folds, params.forecast.modelled, params.horizon_steps, site_calendar(params.calendar))


def _verdict(outcome: Outcome) -> str:
    compared = f"wql {outcome.best_wql:.5f}, the recipe in force {outcome.in_force_wql:.5f}"
    if outcome.values:
        return f"trial {outcome.best_trial} of {outcome.trials} is better, also at another seed: {compared}"
    return f"nothing is better than the recipe in force by more than noise (best {compared}); nothing is written"


def _hand_over(outcome: Outcome, file: Path | None) -> None:
    """Write what was found into the file, or print it where it cannot be written or none was named."""
    if file is not None:
        try:
            place = file.resolve()
            mode = place.stat().st_mode
            replace_text(place, with_values(place.read_text(encoding="utf-8"), SECTION, outcome.values))
            place.chmod(mode)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            _say(f"{file} is left as it was: {error}")
        else:
            _say(f"written into {file}: " + ", ".join(f"{SECTION}.{k}={shown(v)}" for k, v in outcome.values.items()))
            return
    pairs = " ".join(f"--set {SECTION}.{key}={shown(value)}" for key, value in outcome.values.items())
    sys.stdout.write(f"{snippet(SECTION, outcome.values)}\n\n{pairs}\n")
    sys.stdout.flush()
