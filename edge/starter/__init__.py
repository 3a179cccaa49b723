"""The starter: the model that ships with the edge, for meters that no champion can serve yet.

It is made by `central train --starter FOLDER` (docs/starter.md) and is part of the release: unsigned and not tried out
aside, but its digest, schema, graph and golden rows are checked like any other model's. `judged.json` says how it did
on data sets it was not trained on, and from what history on it was at least as good as every rung below it; below that
history it does not serve.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge import inference
from edge.gate import Wanted
from edge.inference import Predictor
from edge.starter.finer import hour_of, hours_of, steps_of
from shared.calendars import Calendar
from shared.errors import ModelRefused
from shared.features import feature_matrix, to_load
from shared.manifest import Manifest, unpack
from shared.metrics import at_quantiles
from shared.refusals import Cause

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).parent
MODEL_FILE: Final = "model.onnx.gz"
MANIFEST_FILE: Final = "manifest.json"
JUDGED_FILE: Final = "judged.json"
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Starter:
    """A checked starter, the least history, in steps, of a meter that it serves, and how many steps it takes for one.

    `per_step` of the site's steps are one of its own: more than one where the site's is shorter (finer.py).
    """

    model: Predictor
    min_history_steps: int
    per_step: int = 1

    def forecast(
        self,
        windows: NDArray[np.float32],
        origin_us: int,
        *,
        horizon_steps: int,
        quantiles: tuple[float, ...],
        calendar: Calendar,
    ) -> NDArray[np.float64]:
        """Return kW [N, L, Q] of windows [N, W] at an origin, at leads 1 … horizon and any quantiles.

        Quantiles it was not trained for are interpolated (`at_quantiles`). Raises ModelRefused when the model fails to
        run.
        """
        per, own = self.per_step, self.model.manifest
        leads = np.arange(1, -(-horizon_steps // per) + 1)
        origins_us = np.full(len(windows), origin_us, dtype=np.int64)
        seen, at_us = (windows, origins_us) if per == 1 else (hours_of(windows, per), hour_of(origins_us))
        matrix = feature_matrix(seen, at_us, leads, step_s=own.step_s, calendar=calendar)
        output = self.model.run(matrix.x).astype(np.float64)
        load_kw = to_load(at_quantiles(output, own.quantiles, quantiles), matrix)
        if per == 1:
            return load_kw
        return steps_of(load_kw, windows, origins_us, calendar=calendar, per_hour=per)[:, :horizon_steps]


def load(*, step_s: int, folder: Path = FOLDER) -> Starter:
    """Return the starter behind the gate of every model, for a site's step, its own or one that divides it.

    Raises ModelRefused with what is missing or did not pass.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        packed = (folder / MODEL_FILE).read_bytes()
        min_history_h = float(json.loads((folder / JUDGED_FILE).read_text(encoding="utf-8"))["min_history_h"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(Cause.NOT_ONNX, f"the starter cannot be read: {str(error).splitlines()[0]}") from error
    fits = manifest.step_s == step_s or (manifest.step_s == _HOUR_S and _HOUR_S % step_s == 0)
    wanted = Wanted(manifest.step_s if fits else step_s, manifest.horizon_steps, tuple(manifest.quantiles))
    model = inference.load(unpack(manifest, [packed]), manifest, wanted)
    return Starter(model, round(min_history_h * 3600 / step_s), manifest.step_s // step_s)


def shipped(*, step_s: int) -> Starter | None:
    """Return the starter of this release; None, with a line in the log, where it cannot serve."""
    try:
        return load(step_s=step_s)
    except ModelRefused as reason:
        log.warning("the starter does not serve", extra={"reason": str(reason)})
        return None
