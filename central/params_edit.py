"""Values put into a parameters file in place: comments, order and everything else of it stay."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml


def with_values(text: str, section: str, values: Mapping[str, object]) -> str:
    """Return the text of a YAML file with `values` under its top-level `section`.

    Raises ValueError when the file is written so that its lines cannot be changed one by one.
    """
    lines = text.splitlines()
    head = next((at for at, line in enumerate(lines) if re.fullmatch(rf"{section}:\s*(#.*)?", line)), None)
    if head is None:
        changed = [*lines, *([""] if lines else []), *snippet(section, values).splitlines()]
    else:
        end = next((at for at in range(head + 1, len(lines)) if re.match(r"[^\s#]", lines[at])), len(lines))
        changed = [*lines[: head + 1], *_changed(lines[head + 1 : end], values), *lines[end:]]
    made = "\n".join(changed) + "\n"
    _check(text, made, section, values)
    return made


def snippet(section: str, values: Mapping[str, object]) -> str:
    """Return `values` as the lines of a parameters file."""
    return "\n".join([f"{section}:", *(f"  {key}: {shown(value)}" for key, value in values.items())])


def shown(value: object) -> str:
    """Return a scalar as YAML has it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("...").strip()


def _changed(block: list[str], values: Mapping[str, object]) -> list[str]:
    """Return the lines of a section with each value in its key's line, or in a new one at the top."""
    indent = next((line[: len(line) - len(line.lstrip())] for line in block if line.strip()[:1] not in ("", "#")), "  ")
    added = []
    for key, value in values.items():
        own = re.compile(rf"({re.escape(indent)}{re.escape(key)}:)\s*?([ \t]+[^#\s][^#]*?)?([ \t]+#.*)?")
        for at, line in enumerate(block):
            match = own.fullmatch(line.rstrip())
            if match is not None:
                block[at] = f"{match[1]} {shown(value)}{match[3] or ''}"
                break
        else:
            added.append(f"{indent}{key}: {shown(value)}")
    return added + block


def _check(before: str, after: str, section: str, values: Mapping[str, object]) -> None:
    """Raise ValueError unless `after` says what `before` did, and `values`."""
    try:
        old, new = yaml.safe_load(before) or {}, yaml.safe_load(after)
        whole = section not in old or re.search(rf"^{section}:\s*(#.*)?$", before, re.MULTILINE)
        wanted = {**old, section: {**(old.get(section) or {}), **values}}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ValueError(f"{section} cannot be changed in place") from error
    if not whole or new != wanted:
        raise ValueError(f"{section} cannot be changed in place")
