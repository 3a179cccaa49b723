"""The keys an edge trusts, from `keys.trusted`: public lines, or files of them, one a line, with # comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from shared.errors import ParamsError
from shared.signing import SCHEME, TrustedKey, trusted_by_id

MOST_BYTES: Final = 65_536  # of a file of keys; a line has 52 and its comment


def trusted_keys(entries: Iterable[str]) -> tuple[TrustedKey, ...]:
    """The keys that `keys.trusted` names, each once, in its order; a file may hold none.

    Raises ParamsError that names `keys.trusted`, the entry and what is wrong with it.
    """
    keys = [key for entry in entries for key in _keys_of(entry)]
    return tuple(trusted_by_id(keys).values())


def key_files(entries: Iterable[str]) -> list[Path]:
    """The files among the entries."""
    return [Path(entry).expanduser() for entry in entries if entry.strip() and not _is_key(entry)]


def _keys_of(entry: str) -> Iterator[TrustedKey]:
    if not entry.strip():
        raise ParamsError(f"keys.trusted: an entry is empty; expected {SCHEME}… or the name of a file of such lines")
    if _is_key(entry):
        yield _key(entry, "keys.trusted")
        return
    for number, line in enumerate(_text_of(entry).splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _key(line, f"keys.trusted: {entry}, line {number}")


def _is_key(entry: str) -> bool:
    return entry.lstrip().startswith(SCHEME)


def _key(line: str, place: str) -> TrustedKey:
    try:
        return TrustedKey.parse(line)
    except ValueError as error:
        raise ParamsError(f"{place}: {error}") from error


def _text_of(entry: str) -> str:
    try:
        with Path(entry).expanduser().open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) <= MOST_BYTES:
            return content.decode("utf-8-sig")
        why = f"is over {MOST_BYTES:,} bytes long, and so no file of keys"
    except FileNotFoundError:
        why = f"there is no such file, and it is no key, which begins with {SCHEME}"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    except (ValueError, RuntimeError) as error:
        why = f"cannot be read: {error}"  # not text, a name that cannot be one, or a home that is unknown
    raise ParamsError(f"keys.trusted: {entry!r:.200}: {why}")
