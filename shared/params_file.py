"""Where parameters come from: file, environment and `--set`; and the schema written out for people.

Invariants: what wins is `--set`, then the environment (`METERCAST_` and the key, dots as `_`, upper case), then the
file, then the default. A value takes its key's type, so `site=001` stays text. Every mistake is one line.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from shared.errors import ParamsError
from shared.params import Params, Section

ENVIRONMENT_PREFIX: Final = "METERCAST_"
REQUIRED: Final = "required"  # in place of the default of a key that has none
PLACE: Final = "N"  # in the name of a key inside a list of sections: `meters.N.kind`


@dataclass(frozen=True, slots=True)
class Key:
    """One parameter: its dotted name, what it is for, its default and its type.

    `in_list` is one inside a list of sections, N for its place: it is set with the whole list, never by itself.
    """

    name: str
    description: str
    default: object
    type: object
    in_list: bool = False


def all_keys(section: type[Section] = Params, prefix: str = "") -> Iterator[Key]:
    """Every parameter, in the order of the file, those inside lists of sections right after their list."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from all_keys(annotation, f"{prefix}{name}.")
        else:
            default = section().model_dump(mode="json", include={name}).get(name)
            yield Key(prefix + name, field.description or "", default, annotation)
            yield from _keys_in_list(annotation, f"{prefix}{name}.{PLACE}.")


def known_keys() -> Iterator[Key]:
    """Every parameter that can be set by its name."""
    return (key for key in all_keys() if not key.in_list)


def _keys_in_list(annotation: object, prefix: str) -> Iterator[Key]:
    item = _item_section(annotation)
    for name, field in item.model_fields.items() if item is not None else ():
        default = REQUIRED if field.is_required() else field.default
        yield Key(prefix + name, field.description or "", default, field.annotation, in_list=True)


def _item_section(annotation: object) -> type[Section] | None:
    """The section a list is of, or None."""
    items = get_args(annotation) if get_origin(annotation) is tuple else ()
    return items[0] if items and isinstance(items[0], type) and issubclass(items[0], Section) else None


def load(
    path: Path | None = None, *, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Params:
    """Read the parameters of `path` (None: `params.yaml` here, if there is one), environment and `--set` pairs.

    Raises ParamsError with one line that names the file, variable or option, the key and what was expected.
    """
    source = path if path is not None else Path("params.yaml")
    given = _read_file(source, required=path is not None)
    _check(given, f"{source}")
    known = {key.name: key for key in known_keys()}
    for variable, value in (environment or {}).items():
        name = _key_of_variable(variable, known)
        if name is not None:
            _put(given, name, _typed(known[name], value))
            _check(given, variable)
    for pair in overrides:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParamsError(f"--set {pair}: expected key=value")
        if name not in known:
            raise ParamsError(f"--set {pair}: unknown key {name!r}{_nearest(name, known)}")
        _put(given, name, _typed(known[name], value))
        _check(given, "--set")
    return Params.model_validate(given)


def as_markdown() -> str:
    """The schema as a Markdown table, one row per key."""
    rows = [f"| `{key.name}` | {_shown(key.default)} | {key.description} |" for key in all_keys()]
    return "\n".join(["| key | default | what it is |", "|---|---|---|", *rows])


def as_yaml() -> str:
    """The schema as a parameters file: every key with its default, its description above it."""
    lines = ["# Parameters of both sides. Every key may be left out; its default stands here."]
    lines += ["# `--set key=value` beats the environment (METERCAST_KEY, dots as _), which beats this file."]
    _yaml_lines(Params, "", lines)
    return "\n".join(lines) + "\n"


def _yaml_lines(section: type[Section], indent: str, lines: list[str]) -> None:
    defaults = section().model_dump(mode="json")
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            lines += ["", f"{indent}# {_sentence(inner)}", f"{indent}{name}:"]
            _yaml_lines(inner, indent + "  ", lines)
        else:
            held = list(_keys_in_list(inner, ""))
            lines += ["", f"{indent}# {field.description}"] if held else [f"{indent}# {field.description}"]
            lines += [f"{indent}# {'-' if key is held[0] else ' '} {key.name}: {key.description}" for key in held]
            lines.append(f"{indent}{name}: {_shown(defaults[name]).strip('`')}")


def _sentence(section: type[Section]) -> str:
    return (section.__doc__ or "").split("\n", 1)[0].rstrip(".")


def _shown(default: object) -> str:
    return f"`{yaml.safe_dump(default, default_flow_style=True).removesuffix(chr(10)).removesuffix('...').strip()}`"


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise ParamsError(f"{path}: no such file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected keys and values at the top")
    return content


def _check(given: Mapping[str, Any], source: str) -> None:
    try:
        Params.model_validate(given)
    except ValidationError as error:
        raise ParamsError(f"{source}: {_first_line(error)}") from error


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {name!r}{_nearest(name, [key.name for key in all_keys()])}"
    message = "expected keys and values" if first["type"] == "model_type" else first["msg"]
    message = message.removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to `name`, whose places in lists stand in it as numbers."""
    place = re.search(r"\.(\d+)\.", name)
    names = [key.replace(f".{PLACE}.", place[0]) if place else key for key in known]
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _key_of_variable(variable: str, known: Mapping[str, Key]) -> str | None:
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return None
    wanted = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    return next((name for name in known if name.replace(".", "_") == wanted), None)


def _typed(key: Key, text: str) -> object:
    """The value `text` stands for under `key`: text for text, YAML for lists, else what pydantic reads from text."""
    options = get_args(key.type) if get_origin(key.type) in (Union, types.UnionType) else (key.type,)
    if any(get_origin(option) is tuple for option in options):
        try:
            value = yaml.safe_load(text if text.startswith("[") else f"[{text}]")
        except yaml.YAMLError as error:
            raise ParamsError(f"{key.name}: {text!r:.60} is no list") from error
        return value if isinstance(value, list) else text
    return None if text in ("", "null") and types.NoneType in options else text


def _put(given: dict[str, Any], name: str, value: object) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        inner = given.setdefault(section, {})
        if inner is None:
            given[section] = inner = {}
        given = inner
    given[leaf] = value
