"""`central models show`: one version as a page to be read at night, sites that say the same in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

SITES_NAMED: Final = 10  # in a line; `--json` names all
_FIRST: Final = ("version", "state", "role", "since", "next_at", "why")  # what is asked first; then the training's
_ELSEWHERE: Final = ("sites", "running", "refused", "blocked", "silent", "refused_anew", "runs_at", "answers", "ended")


def page(shown: Mapping[str, Any]) -> str:
    """What `central models show --json` tells, as text; what is empty or 0 is left out."""
    names = [*_FIRST, *(name for name in shown if name not in (*_FIRST, *_ELSEWHERE))]
    lines = [(name, shown.get(name)) for name in names]
    lines += [("ended", f"{end['state']}: {end['reason']}".rstrip(": ")) for end in shown["ended"]]
    width = max(map(len, names))
    told = [f"{name:<{width}}  {_plain(value)}" for name, value in lines if value]
    return "\n".join([*told, *_by_answer(shown["answers"])])


def _by_answer(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for all sites that say the same, the most first."""
    sites: dict[str, list[str]] = {}
    for said in answers:
        words = [said["reason"], said["detail"]]
        told = f" (told {said['told']})" if said["told"] is not None else ""
        sites.setdefault(said["answer"] + told + "".join(f", {word}" for word in words if word), []).append(
            said["site"]
        )
    most_first = sorted(sites.items(), key=lambda item: -len(item[1]))
    return [f"{_count(named)} {answer}: {_named(named)}" for answer, named in most_first]


def _count(sites: Sequence[str]) -> str:
    return "1 site" if len(sites) == 1 else f"{len(sites)} sites"


def _named(sites: Sequence[str]) -> str:
    more = len(sites) - SITES_NAMED
    return ", ".join(sites[:SITES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
