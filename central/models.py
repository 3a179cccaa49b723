"""`central models`: what was accepted, what runs where, how far a rollout got, and steering it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from central import orders
from central.bootstrap import open_registry, work_folder
from central.delivery import load_rollout
from central.keyring import Keyring
from central.models_page import page
from central.models_table import answers, manifest_known, row, table, versions
from central.next_model import Trained, next_model
from central.rollout_events import Verb
from central.rollout_state import RolloutState
from central.steering import objection, on_order
from central.trainings import FLEET, Result, results_in, starts_in, trained_until_us, trainings_in
from central.transitions import newest_begun
from central.work import WorkFolder
from shared.clock import to_us
from shared.errors import MetercastError
from shared.params import Params

_DONE = {
    "approve": "is approved",
    "reject": "is rejected",
    "promote": "goes to the whole fleet",
    "rollback": "is rolled back",
}
_HALTS = {"pause": "the rollout is paused", "resume": "the rollout goes on", "stop": "the rollout is stopped"}


def listed(params: Params, *, as_json: bool, wall: datetime) -> str:
    """Accepted models, how far each got and where it runs, as a table or JSON."""
    work = work_folder(params)
    state, results = load_rollout(work), _accepted(work)
    rows = [row(version, results, state, params.rollout) for version in versions(results, state)]
    if as_json:
        return json.dumps(rows, indent=1)
    return "\n".join([*table(rows), *_remarks(params, work, state, results, wall)])


def shown(params: Params, version: int, *, as_json: bool) -> str:
    """One version: its training, how far its rollout got, and what each site says. Raises MetercastError."""
    work = work_folder(params)
    state, results = load_rollout(work), _accepted(work)
    if version not in versions(results, state):
        raise MetercastError(f"models: version {version} is unknown here; `central models` lists those that are known")
    manifest = manifest_known(version, results, state)
    shown: dict[str, Any] = row(version, results, state, params.rollout)
    shown["ended"] = [end.model_dump(mode="json") for end in state.ended if end.version == version]
    shown["answers"] = answers(manifest, state) if manifest is not None else []
    return json.dumps(shown, indent=1) if as_json else page(shown)


def order(params: Params, verb: Verb, version: int | None, to: int | None, *, wall: datetime) -> str:
    """Leave an order for `run`, which takes it up within seconds. Raises MetercastError when it cannot be followed."""
    work = work_folder(params)
    state = _expected(work)
    if verb == "rollback":
        version = newest_begun(state) or None
    left = orders.Order(verb=verb, version=version, to=to)
    after = _followed(work, state, left)
    orders.leave(work, left, wall)
    told = _HALTS.get(verb) or f"version {version} {_DONE[verb]}"
    if to is not None:
        told = f"the fleet goes from version {version} to {to}, signed as a step back"
    whether = "`central run` sees to it" if work.is_held else "that is, once `central run` is up again here"
    following = next_model(after, _trained(params, after, wall), params.training)
    return "\n".join([f"{told}; {whether}", *_aftermath(state, after, following)])


def _followed(work: WorkFolder, state: RolloutState, left: orders.Order) -> RolloutState:
    """The rollout once an order is followed. Raises MetercastError when it cannot be."""
    try:
        ordered = orders.ordered(work, left)
    except orders.NoTarget as error:
        raise MetercastError(f"models: {error}") from error
    wrong = objection(state, ordered)
    if wrong:
        raise MetercastError(f"models: {wrong}")
    return on_order(state, ordered, None)[0]


def _aftermath(before: RolloutState, after: RolloutState, following: str) -> list[str]:
    """What an order ends for good, and what comes after it."""
    ended = [end for end in after.ended if end not in before.ended]
    over = [end.version for end in ended if end.state not in ("passed", "superseded")]
    lines = [f"version {version} does not go out again by itself" for version in over]
    if after.stopped and not before.stopped:
        lines.append("until `central models resume` nothing goes out")
    return [*lines, following] if lines and following else lines


def _trained(params: Params, state: RolloutState, wall: datetime) -> Trained:
    """What the work folder tells of trainings."""
    folder = work_folder(params).trainings
    seen = [site.seen_us for site in state.sites.values() if site.seen_us is not None]
    return Trained(
        None if state.champion is None else trained_until_us(folder, state.champion),
        max(starts_in(folder), default=None),
        any(not training.taken and training.runs for training in trainings_in(folder)),
        to_us(wall) if params.clock == "wall" else max(seen, default=None),
    )


def aliases(params: Params, champion: int, challenger: int, candidate: int) -> None:
    """Let the registry's aliases name these versions; 0 takes an alias away."""
    registry = open_registry(params)
    there = registry.aliases(FLEET)
    for name, version in (("champion", champion), ("challenger", challenger), ("candidate", candidate)):
        if version and there.get(name) != version:
            registry.alias(FLEET, name, version)
        elif not version and name in there:
            registry.drop_alias(FLEET, name)


def prepare(params: Params) -> None:
    """Create MLflow's store and experiment."""
    open_registry(params).prepare()


def _expected(work: WorkFolder) -> RolloutState:
    """The rollout once `run` has followed the orders left before.

    Those are read before the state: one that was followed meanwhile is refused here, and changes nothing.
    """
    before = [order for _, order in orders.left(work)]
    state = load_rollout(work)
    for order in before:
        with suppress(orders.NoTarget):
            state, _ = on_order(state, orders.ordered(work, order), None)
    return state


def _accepted(work: WorkFolder) -> list[Result]:
    return [result for _, result in results_in(work.trainings) if result.version is not None]


def _remarks(
    params: Params, work: WorkFolder, state: RolloutState, results: Sequence[Result], wall: datetime
) -> list[str]:
    """What holds everything up, if anything does, and what comes next where nothing is coming."""
    remarks = []
    if state.stopped or state.paused:
        remarks.append(f"the rollout is {'stopped' if state.stopped else 'paused'}: `central models resume`")
    if not versions(results, state):
        remarks.append("no model was accepted yet")
    following = next_model(state, _trained(params, state, wall), params.training)
    if following:
        remarks.append(following)
    missing = Keyring.of(params, work).missing()
    if missing:
        remarks.append(missing)
    return remarks
