"""`central models`: what was accepted, what runs where, and letting a waiting model go."""

from __future__ import annotations

import json

from central.bootstrap import open_registry, work_folder
from central.delivery import load_rollout
from central.rollout import RolloutState
from central.trainings import FLEET, Result, results_in
from central.work import replace_text
from shared.errors import MetercastError
from shared.params import Params

COLUMNS = ("version", "role", "reason", "trained_rows", "mase", "until", "sites")


def listed(params: Params, *, as_json: bool) -> str:
    """Accepted models with their role and where they run, as a table or JSON."""
    work = work_folder(params)
    state = load_rollout(work)
    rows = [_row(result, state) for _, result in results_in(work.trainings) if result.version is not None]
    rows.sort(key=lambda row: int(str(row["version"])))
    if as_json:
        return json.dumps(rows, indent=1)
    lines = [[str(row[name]) for name in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [list(COLUMNS), *lines]) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in [COLUMNS, *lines]
    )


def _row(result: Result, state: RolloutState) -> dict[str, object]:
    shown = result.model_dump(mode="json", exclude={"manifest", "reasons"})
    mase = None if result.mase is None else round(result.mase, 4)
    return shown | {"mase": mase, "role": _role(result.version, state), "sites": _sites(result.version, state)}


def _role(version: int | None, state: RolloutState) -> str:
    for role, manifest in (("champion", state.champion), ("challenger", state.challenger)):
        if manifest is not None and manifest.version == version:
            return role
    return "waiting" if version in [manifest.version for manifest in state.waiting] else "past"


def _sites(version: int | None, state: RolloutState) -> list[str]:
    reports = {site: report for site, report in state.sites.items() if report is not None}
    return [site for site, r in reports.items() if r.champion is not None and r.champion.version == version]


def approve(params: Params, version: int) -> str:
    """Let a waiting version go: `run` takes it up within seconds. Raises MetercastError when it does not wait."""
    work = work_folder(params)
    waiting = [manifest.version for manifest in load_rollout(work).waiting]
    if version not in waiting:
        raise MetercastError(f"models: version {version} does not wait for approval; waiting: {waiting or 'none'}")
    replace_text(work.approvals / str(version), "")
    return f"version {version} is approved; `central run` rolls it out"


def promote(params: Params, version: int, predecessor: int | None) -> None:
    """Let the registry's aliases tell who is champion and who challenger."""
    registry = open_registry(params)
    registry.alias(FLEET, "champion", version)
    if predecessor is not None:
        registry.alias(FLEET, "challenger", predecessor)
    if registry.aliases(FLEET).get("candidate") == version:
        registry.drop_alias(FLEET, "candidate")


def prepare(params: Params) -> None:
    """Create MLflow's store and experiment."""
    open_registry(params).prepare()
