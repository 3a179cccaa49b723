"""What will bring the next model, and what to do to have one now: a sentence for whoever asks at night. Pure.

A version that was stopped, rejected or stepped back does not go out again, since versions only rise; what an operator
then waits for is the next training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from central.rollout_state import RolloutState
from shared.clock import duration_us, iso
from shared.params import TrainingParams

NOW: Final = "`central train` makes one now"


@dataclass(frozen=True, slots=True)
class Trained:
    """What is known of trainings: up to when the champion was trained, when the last was started, if one runs.

    `now_us` is None where it is not known; all by the parameter `clock`.
    """

    champion_until_us: int | None = None
    last_start_us: int | None = None
    runs: bool = False
    now_us: int | None = None


def next_model(state: RolloutState, trained: Trained, params: TrainingParams) -> str:
    """What brings the next model; empty when one is on its way or waits."""
    if state.coming is not None:
        return ""
    if trained.runs:
        return "a training runs; what it makes is the next model if it is accepted"
    return f"the next model comes with a training, which starts {_when(state, trained, params)}; {NOW}"


def _when(state: RolloutState, trained: Trained, params: TrainingParams) -> str:
    if state.champion is None or trained.champion_until_us is None:
        when = "once half of the meters have training.min_history of readings"
    else:
        old_us = trained.champion_until_us + duration_us(params.every)
        when = f"when forecasts drift, or at {iso(old_us)} by age (training.every)"
    if trained.last_start_us is None:
        return when
    cool_us = trained.last_start_us + duration_us(params.cooldown)
    over = trained.now_us is not None and cool_us <= trained.now_us
    return when if over else f"{when}, and not before {iso(cool_us)} (training.cooldown)"
