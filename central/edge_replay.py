"""An edge replayed over a panel, origin by origin: calibration by source, stand-down, and what judged windows are sent.

`replay` goes through a hindcast as rounds do: the interval that has just ended settles what was issued for it, by the
model and by the simple rungs each for itself; then the next is issued, by the simple rungs where the model is stood
down or gives nothing.

Invariant: what an origin's forecast is made with knows no load at or after it, and none that was received later. What
came late or was corrected has taught nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import Forecaster, Windows
from central.hindcast import Hindcast
from shared.calibration import States, calibrated, fresh, learned
from shared.features import load_floor
from shared.quantiles import Quantiles, spread_places
from shared.standing import RECORD, decay_of, lead_weights, of_version, weighed

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK: Final = 512  # windows forecast at once
_SEASON_S: Final = 168 * 3600


@dataclass(frozen=True, slots=True)
class Ladder:
    """What serves where a model does not, how far it forecasts, and the modelled quantiles, the model's too."""

    simple: Forecaster
    horizon_steps: int
    quantiles: Quantiles


@dataclass(frozen=True, slots=True)
class Replay:
    """What each origin's forecast is made with: calibration states [M, O, K, STATE], and who is stood down [M, O]."""

    model: States
    simple: States
    down: Bools


def replay(panel: Panel, raw: Hindcast, ladder: Ladder | None = None) -> Replay:
    """Go through the hindcast; without a ladder nobody is stood down, and only the model is calibrated."""
    course = _Course(panel, raw, ladder)
    meters, origins = raw.version.shape
    shape = (meters, origins, *course.model.states.shape[1:])
    passed = Replay(np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros((meters, origins), dtype=bool))
    for origin in range(origins):
        if origin:
            course.settle(origin)
        course.issue(origin)
        passed.model[:, origin], passed.simple[:, origin] = course.model.states, course.simple.states
        passed.down[:, origin] = course.down
    return passed


def served_windows(
    panel: Panel, windows: Windows, model_kw: Floats, raw: Hindcast, ladder: Ladder
) -> tuple[Floats, Floats, Bools]:
    """Return what judged windows are sent, before and after calibration [N, L, Q], and where the model is stood down.

    `model_kw` [N, L, Q] is NaN where the model gives nothing. `raw` must reach from before the first to the last of
    the windows' origins; all is made on what was known at each one's origin.
    """
    passed = replay(panel, raw, ladder)
    place = windows.meters, panel.column(windows.origins_us) - raw.first
    stood_down = passed.down[place]
    served = np.isfinite(model_kw).all(axis=(1, 2)) & ~stood_down
    sent_kw, moved_kw = model_kw.copy(), np.empty_like(model_kw)
    for first in range(0, len(windows), _BLOCK):
        block = slice(first, first + _BLOCK)
        history = panel.windows(windows.meters[block], windows.origins_us[block])
        left = np.flatnonzero(~served[block])
        if len(left):
            sent_kw[first + left] = ladder.simple(history[left], windows.origins_us[first + left], windows.leads)
        by_model = served[block][:, None, None]
        moved_kw[block] = calibrated(
            sent_kw[block],
            np.where(by_model, passed.model[place][block], passed.simple[place][block]),
            leads=windows.leads,
            knots=raw.knots,
            quantiles=ladder.quantiles,
            floor_kw=load_floor(history),
        )
    return sent_kw, moved_kw, stood_down


@dataclass(slots=True)
class _Source:
    """One source of forecasts: its calibration, and what it issued [M, O, K, 3], NaN where it was not asked."""

    issued_kw: NDArray[np.float32]
    states: States = field(init=False)

    def __post_init__(self) -> None:
        meters, _origins, knots, _ = self.issued_kw.shape
        self.states = fresh(meters, knots)

    def learn(self, origin: int, truth_kw: Floats, panel: Panel, raw: Hindcast) -> Floats:
        """Hold what was issued for the interval before `origin` against its load; returns the errors [M, K] in kW."""
        errors_kw = np.full((len(truth_kw), len(raw.knots)), np.nan)
        for knot, lead in enumerate(raw.knots):
            if origin >= lead:
                met = self.issued_kw[:, origin - lead, knot]
                errors_kw[:, knot] = np.abs(truth_kw - met[:, 1])
                self.states[:, knot] = learned(
                    self.states[:, knot], truth_kw, met, outer=(raw.quantiles[0], raw.quantiles[2]), step_s=panel.step_s
                )
        return errors_kw

    def issue(self, origin: int, meters: Ints, spread_kw: Floats, raw: Hindcast) -> None:
        """Issue forecasts [N, K, 3] of some meters, calibrated."""
        self.issued_kw[meters, origin] = calibrated(
            spread_kw,
            self.states[meters],
            leads=raw.leads,
            knots=raw.knots,
            quantiles=raw.quantiles,
            floor_kw=raw.floor_kw[meters, origin],
        )


class _Course:
    """How far a replay has come."""

    def __init__(self, panel: Panel, raw: Hindcast, ladder: Ladder | None) -> None:
        self._panel, self._raw, self._ladder = panel, raw, ladder
        self._records = np.zeros(len(panel.meters), dtype=RECORD)
        self._weights = lead_weights(raw.knots, ladder.horizon_steps) if ladder else np.zeros(len(raw.knots))
        self._decay = decay_of(panel.step_s)
        self._season = _SEASON_S // panel.step_s
        self.model = _Source(np.full(raw.spread_kw.shape, np.nan, dtype=np.float32))
        self.simple = _Source(np.full(raw.spread_kw.shape, np.nan, dtype=np.float32))

    @property
    def down(self) -> Bools:
        """For which meters [M] the model is stood down."""
        down: Bools = self._records["down"].copy()
        return down

    def settle(self, origin: int) -> None:
        """Learn from the interval that ends where `origin` begins."""
        column = self._raw.first + origin - 1
        truth_kw = self._panel.as_it_ended(column)
        errors_kw = self.model.learn(origin, truth_kw, self._panel, self._raw)
        if self._ladder is None:
            return
        self.simple.learn(origin, truth_kw, self._panel, self._raw)
        before = of_version(self._records, self._raw.version[:, origin])
        own_kw = np.where(self._of_who_serves(origin), errors_kw, np.nan)
        met = np.repeat(np.abs(truth_kw - self._naive(column))[:, None], len(self._raw.knots), axis=1)
        self._records = weighed(before, own_kw, met, weights=self._weights, decay=self._decay)

    def _of_who_serves(self, origin: int) -> Bools:
        """Which forecasts [M, K] that meet their truth at `origin` are of the model that serves there.

        What its predecessor issued before the swap says nothing of it.
        """
        issued = np.maximum(origin - self._raw.leads, 0)
        same: Bools = self._raw.version[:, issued] == self._raw.version[:, [origin]]
        return same

    def _naive(self, column: int) -> Floats:
        """Weekly seasonal naive [M] of an interval, from what had been received when it ended."""
        earlier = column - self._season
        if earlier < 0:
            return np.full(len(self._panel.meters), np.nan)
        return self._panel.as_known(earlier, column + 1)

    def issue(self, origin: int) -> None:
        """Issue the forecasts of one origin."""
        spread_kw = self._raw.spread_kw[:, origin].astype(np.float64)
        self.model.issue(origin, np.arange(len(spread_kw)), spread_kw, self._raw)
        if self._ladder is None:
            return
        served = np.isfinite(spread_kw).all(axis=(1, 2)) & ~self.down
        left: Ints = np.flatnonzero(~served & (self._raw.version[:, origin] > 0))
        if len(left):
            self.simple.issue(origin, left, self._simple_kw(origin, left, self._ladder), self._raw)

    def _simple_kw(self, origin: int, meters: Ints, ladder: Ladder) -> Floats:
        """Return the simple rungs' [N, K, 3], of all leads at first: how many of them it answers decides on a rung."""
        origins_us = np.full(len(meters), self._panel.start_us + (self._raw.first + origin) * self._panel.step_us)
        all_leads = np.arange(1, ladder.horizon_steps + 1)
        made = ladder.simple(self._panel.windows(meters, origins_us), origins_us, all_leads)
        return made[:, self._raw.leads - 1][:, :, spread_places(ladder.quantiles)]
