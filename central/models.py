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
from central.models_table import answers, manifest_known, row, table, versions
from central.rollout_events import Verb
from central.rollout_state import RolloutState
from central.steering import objection, on_order
from central.trainings import FLEET, Result, results_in
from central.transitions import newest_begun
from central.work import WorkFolder
from shared.errors import MetercastError
from shared.params import Params

_DONE = {
    "approve": "is approved",
    "reject": "is rejected",
    "promote": "goes to the whole fleet",
    "rollback": "is rolled back",
}
_HALTS = {"pause": "the rollout is paused", "resume": "the rollout goes on", "stop": "the rollout is stopped"}


def listed(params: Params, *, as_json: bool) -> str:
    """Accepted models, how far each got and where it runs, as a table or JSON."""
    work = work_folder(params)
    state, results = load_rollout(work), _accepted(work)
    rows = [row(version, results, state, params.rollout) for version in versions(results, state)]
    if as_json:
        return json.dumps(rows, indent=1)
    return "\n".join([*table(rows), *_remarks(params, work, state, results)])


def shown(params: Params, version: int, *, as_json: bool) -> str:
    """One version: its training, how far its rollout got, and what each site says. Raises MetercastError."""
    work = work_folder(params)
    state, results = load_rollout(work), _accepted(work)
    if version not in versions(results, state):
        raise MetercastError(f"models: version {version} is unknown here; `central models` lists those that are known")
    manifest = manifest_known(version, results, state)
    page: dict[str, Any] = row(version, results, state, params.rollout)
    page["ended"] = [end.model_dump(mode="json") for end in state.ended if end.version == version]
    page["answers"] = answers(manifest, state) if manifest is not None else []
    return json.dumps(page, indent=1) if as_json else _page(page)


def order(params: Params, verb: Verb, version: int | None, to: int | None, *, wall: datetime) -> str:
    """Leave an order for `run`, which takes it up within seconds. Raises MetercastError when it cannot be followed."""
    work = work_folder(params)
    state = _expected(work)
    if verb == "rollback":
        version = newest_begun(state) or None
    left = orders.Order(verb=verb, version=version, to=to)
    try:
        wrong = objection(state, orders.ordered(work, left))
    except orders.NoTarget as error:
        raise MetercastError(f"models: {error}") from error
    if wrong:
        raise MetercastError(f"models: {wrong}")
    orders.leave(work, left, wall)
    told = _HALTS.get(verb) or f"version {version} {_DONE[verb]}" + (f" to version {to}" if to is not None else "")
    return f"{told}; " + (
        "`central run` sees to it" if work.is_held else "that is, once `central run` is up again here"
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


def _remarks(params: Params, work: WorkFolder, state: RolloutState, results: Sequence[Result]) -> list[str]:
    """What holds everything up, if anything does."""
    remarks = []
    if state.stopped or state.paused:
        remarks.append(f"the rollout is {'stopped' if state.stopped else 'paused'}: `central models resume`")
    if not versions(results, state):
        remarks.append("no model was accepted yet")
    missing = Keyring.of(params, work).missing()
    if missing:
        remarks.append(missing)
    return remarks


def _page(page: dict[str, Any]) -> str:
    shown = {name: value for name, value in page.items() if value not in (None, "", [], ())}
    told, ended = shown.pop("answers", []), shown.pop("ended", [])
    width = max(map(len, shown))
    lines = [f"{name:<{width}}  {_plain(value)}" for name, value in shown.items()]
    lines += [f"ended       {end['state']}: {end['reason']}".rstrip(": ") for end in ended]
    lines += [f"site {said['site']}: {said['answer']}" + _because(said) for said in told]
    return "\n".join(lines)


def _because(said: dict[str, Any]) -> str:
    words = [said["reason"], said["detail"]]
    told = f" (told {said['told']})" if said["told"] is not None else ""
    return told + "".join(f", {word}" for word in words if word)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
