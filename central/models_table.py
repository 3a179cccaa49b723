"""What `central models` shows: pure views of trainings and rollout as rows, a table and a page for one version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from central.rollout_state import Comparison, Ended, RolloutState, Site
from central.stages import answer_of, counted, due_us, gate, refusal_of, stage_name, tally
from central.trainings import Result
from shared.clock import iso
from shared.manifest import Manifest
from shared.params import RolloutParams

COLUMNS: Final = ("version", "state", "sites", "since", "next", "live", "mase", "trained", "why")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a version got. `since` and `next_at` go by the parameter `clock`."""

    state: str
    sites: int = 0
    running: int = 0
    refused: int = 0
    blocked: int = 0
    silent: int = 0
    refused_anew: int = 0  # of those that run it: as it is signed now, say with another key
    since: str | None = None
    next_at: str | None = None
    live_ratio: float | None = None
    live_pairs: int = 0
    live_against: str = ""
    why: str = ""


def versions(results: Iterable[Result], state: RolloutState) -> list[int]:
    """Every version that was accepted or is remembered, oldest first."""
    accepted = {result.version for result in results if result.version is not None}
    known = {m.version for m in (*state.wanted().values(), *state.undecided)}
    return sorted(accepted | known | {ended.version for ended in state.ended})


def progress(version: int, state: RolloutState, params: RolloutParams) -> Progress:
    """How far the rollout of a version got."""
    rolling, ended = state.rolling, _ended(version, state)
    if rolling is not None and rolling.manifest.version == version:
        due = due_us(state, params)
        now = gate(state, params, due) if due is not None else None
        why = now.reason if now is not None and (now.hold == "paused" or rolling.held_up) else ""
        following = None if due is None else iso(due)
        name = f"{stage_name(rolling)}, watched" if rolling.fleet else stage_name(rolling)
        return _counted(name, rolling.manifest, state, state.members, rolling.live, rolling.since_us, following, why)
    if state.champion is not None and state.champion.version == version:
        passed = ended is not None and ended.state == "passed"
        live, since_us = (ended.live, ended.at_us) if ended is not None and passed else (Comparison(), None)
        others = tuple(site for site in state.sites if rolling is None or site not in rolling.sites)
        return _counted("fleet", state.champion, state, others, live, since_us)
    if version in [manifest.version for manifest in state.waiting]:
        return Progress("waiting", why="for a person: `central models approve` or `reject`")
    if state.queued is not None and state.queued.version == version:
        return Progress("next", why=_why_queued(state))
    if ended is None:
        return Progress("past")
    shown = "past" if ended.state == "passed" else ended.state
    since = None if ended.at_us is None else iso(ended.at_us)
    return Progress(shown, since=since, why=ended.reason, **_live(ended.live))


def row(version: int, results: Iterable[Result], state: RolloutState, params: RolloutParams) -> dict[str, Any]:
    """One version as JSON: its training, its role, and how far it got."""
    result = next((result for result in results if result.version == version), None)
    trained = {} if result is None else result.model_dump(mode="json", exclude={"manifest", "reasons"})
    mase = trained.get("mase")
    return {
        **trained,
        "version": version,
        "mase": None if mase is None else round(mase, 4),
        "role": role_of(version, state),
        **asdict(progress(version, state, params)),
        "runs_at": [site for site, kept in state.sites.items() if _runs(kept.reported, version)],
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as lines of a table."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def role_of(version: int, state: RolloutState) -> str:
    """Champion, challenger, waiting or past: as the registry's aliases have it."""
    rolling = state.rolling
    if state.champion is not None and state.champion.version == version:
        return "champion"
    shadow = state.challenger is not None and state.challenger.version == version
    if shadow or (rolling is not None and rolling.manifest.version == version):
        return "challenger"
    return "waiting" if version in [manifest.version for manifest in state.undecided] else "past"


def answers(manifest: Manifest, state: RolloutState) -> list[dict[str, Any]]:
    """What each site says of a version that was told it or has answered."""
    rows = []
    for site, kept in sorted(state.sites.items()):
        answer, _ = answer_of(kept, manifest)
        told, _ = state.told(site)
        if answer == "silent" and told != manifest:
            continue
        refusal = refusal_of(kept, manifest)
        rows.append(
            {
                "site": site,
                "told": told.version if told is not None else None,
                "answer": answer,
                "reason": refusal.reason if refusal is not None else "",
                "detail": refusal.detail if refusal is not None else "",
            }
        )
    return rows


def manifest_known(version: int, results: Iterable[Result], state: RolloutState) -> Manifest | None:
    """The manifest of a version, of the rollout or its training."""
    of_trainings = (result.manifest for result in results if result.manifest is not None)
    known = (*state.wanted().values(), *state.undecided, *of_trainings)
    return next((manifest for manifest in known if manifest.version == version), None)


def _counted(
    name: str,
    manifest: Manifest,
    state: RolloutState,
    members: Sequence[str],
    live: Comparison,
    since_us: int | None,
    next_at: str | None = None,
    why: str = "",
) -> Progress:
    sites = [state.sites[site] for site in members if site in state.sites]
    count, anew = tally(manifest, sites), refused_anew(manifest, sites)
    told = [f"{anew.total()} of those that run it refuse it as it is signed now: {counted(anew)}"] if anew else []
    return Progress(
        name,
        count.sites,
        count.running,
        count.refused,
        count.blocked,
        count.silent,
        anew.total(),
        None if since_us is None else iso(since_us),
        next_at,
        why="; ".join([why or count.told, *told] if why or count.told else told),
        **_live(live),
    )


def refused_anew(manifest: Manifest, sites: Iterable[Site]) -> Counter[str]:
    """Why sites that run a version refuse what is signed now; they go on with it, and will take no later one either."""
    running = [site for site in sites if answer_of(site, manifest)[0] == "running"]
    return Counter(refusal.reason for refusal in (refusal_of(site, manifest) for site in running) if refusal)


def _live(live: Comparison) -> dict[str, Any]:
    ratio = None if live.ratio is None else round(live.ratio, 4)
    return {"live_ratio": ratio, "live_pairs": live.pairs, "live_against": live.against if live.pairs else ""}


def _ended(version: int, state: RolloutState) -> Ended | None:
    return next((ended for ended in reversed(state.ended) if ended.version == version), None)


def _why_queued(state: RolloutState) -> str:
    if state.stopped:
        return "the rollout is stopped: `central models resume`"
    if state.paused:
        return "the rollout is paused: `central models resume`"
    if state.rolling is None:
        return "begins as soon as there is a private key"
    return f"for version {state.rolling.manifest.version}, which is on its way"


def _runs(reported: Any, version: int) -> bool:
    return reported is not None and reported.champion is not None and reported.champion.version == version


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    counts = [(row[answer], answer) for answer in ("running", "refused", "blocked", "silent")]
    sites = f"{row['sites']}: " + ", ".join(f"{n} {answer}" for n, answer in counts if n) if row["sites"] else ""
    ratio = "" if row["live_ratio"] is None else f"{row['live_ratio']:.2f} of {row['live_against']}"
    mase = "" if row["mase"] is None else f"{row['mase']:.3f}"
    found = (row["version"], row["state"], sites, row["since"], row["next_at"], ratio, mase, row.get("reason"))
    return (*("" if cell is None else str(cell) for cell in found), row["why"])
