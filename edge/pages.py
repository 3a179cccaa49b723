"""The rows of a SQLite file read page by page, without its trees: what can still be read when the trees cannot.

Every leaf page says for itself where its rows begin, so a row is found as long as its own page is whole, whatever
befell the pages above it. Source of the formats: sqlite.org/fileformat2.html.

Invariants: nothing is written; whatever the bytes are, a row is given or left out, and the work is bounded by the
size of the files. A row given is credible in form only: SQLite keeps no checksum of a page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES: Final = 4096  # SQLite's default, and so that of every state
LOG_SUFFIX: Final = "-wal"

Value = int | float | bytes | None  # text comes as bytes, undecoded
Words = NDArray[np.uint32]

TABLE_LEAF: Final = 13
INDEX_LEAF: Final = 10
INDEX_INTERIOR: Final = 2
_FILE_HEADER_BYTES: Final = 100
_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_BIG_ENDIAN_SUMS: Final = 0x377F0683
_MAGICS: Final = (_BIG_ENDIAN_SUMS - 1, _BIG_ENDIAN_SUMS)
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
_ROW_BYTES_AT_MOST: Final = 4_194_304


@dataclass(frozen=True, slots=True)
class Row:
    """One row as stored: `key` is the rowid, None where the table has none (WITHOUT ROWID, index)."""

    key: int | None
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A write-ahead log: for each frame, in order, the page it holds, and whether a transaction ends with it.

    `sound` frames have the checksum they should have, going on from the frame before. Frames of an earlier round have
    page 0 here.
    """

    page: tuple[int, ...]
    ends: tuple[bool, ...]
    sound: tuple[bool, ...]

    @property
    def whole(self) -> int:
        """How many frames SQLite goes through: all before the first that is not sound."""
        return next((number for number, sound in enumerate(self.sound) if not sound), len(self.sound))

    @property
    def damaged(self) -> bool:
        """Whether committed transactions stand behind a frame that is not sound.

        One alone may be the torn one: its pages reach the disk in any order. Before a second is begun, the first is
        synced.
        """
        return sum(self.ends[self.whole :]) >= 2

    def pages(self) -> dict[int, int]:
        """Page → the frame that holds its last committed content; in a damaged log, the last that is sound."""
        reach = len(self.ends) if self.damaged else self.whole
        committed = max((number for number in range(1, reach + 1) if self.ends[number - 1]), default=0)
        frames = zip(self.page[:committed], self.sound[:committed], strict=True)
        return {page: number for number, (page, sound) in enumerate(frames) if sound and page}


def log_of(database: Path) -> Path:
    """Where SQLite keeps the write-ahead log of a database."""
    return database.with_name(database.name + LOG_SUFFIX)


def read_log(path: Path, page_bytes: int = PAGE_BYTES) -> Log:
    """The write-ahead log at `path`; one without frames when there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raw = b""
    frame_bytes = _FRAME_HEADER.size + page_bytes
    frames = [
        _FRAME_HEADER.unpack_from(raw, start)
        for start in range(_WAL_HEADER.size, len(raw) - frame_bytes + 1, frame_bytes)
    ]
    if not frames:
        return Log((), (), ())
    sums, salts = _header_sums(raw)
    # A header that cannot be read leaves the first frame's salts to tell this round's frames from an earlier one's.
    salts = salts or frames[0][2:4]
    sound = tuple(_soundness(raw, frames, salts, sums, page_bytes))
    ours = [frame if frame[2:4] == salts else (0,) * 6 for frame in frames]
    return Log(tuple(frame[0] for frame in ours), tuple(frame[1] > 0 for frame in ours), sound)


def _header_sums(raw: bytes) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    """The checksum that the first frame goes on from, and the salts; None when the header is not whole."""
    magic, *_rest, salt_1, salt_2, sum_1, sum_2 = _WAL_HEADER.unpack_from(raw)
    if magic in _MAGICS:
        words = np.frombuffer(raw, dtype=_word(raw), count=6)
        if _summed(words, (0, 0), _weights(3)) == (sum_1, sum_2):
            return (sum_1, sum_2), (salt_1, salt_2)
    return None, ()


def _soundness(
    raw: bytes, frames: list[tuple[int, ...]], salts: tuple[int, ...], sums: tuple[int, int] | None, page_bytes: int
) -> Iterator[bool]:
    weights = _weights(1 + page_bytes // 8)
    for number, frame in enumerate(frames):
        start = _WAL_HEADER.size + number * (_FRAME_HEADER.size + page_bytes)
        content = raw[start : start + 8] + raw[start + _FRAME_HEADER.size : start + _FRAME_HEADER.size + page_bytes]
        own = (frame[4], frame[5])
        words = np.frombuffer(content, dtype=_word(raw))
        yield frame[2:4] == salts and sums is not None and _summed(words, sums, weights) == own
        sums = own


def _word(raw: bytes) -> np.dtype[np.uint32]:
    return np.dtype(">u4" if raw[3] & 1 else "<u4")


@cache
def _weights(pairs: int) -> Words:
    """How much each word counts in the two sums after `pairs` rounds of s1 += x + s2; s2 += y + s1, modulo 2³².

    Column 2k and 2k + 1 are of the words x, y of round k; the last two columns are of the sums at the beginning.
    """
    columns = np.zeros((2, 2 * pairs + 2), dtype=np.uint32)
    power = [[1, 0], [0, 1]]  # of the matrix [[1, 1], [1, 2]], which carries (s1, s2) over one round
    for k in range(pairs - 1, -1, -1):
        for line, (first, second) in enumerate(power):
            columns[line, 2 * k : 2 * k + 2] = (first + second) & 0xFFFFFFFF, second
        power = [[(a + b) & 0xFFFFFFFF, (a + 2 * b) & 0xFFFFFFFF] for a, b in power]
    columns[:, -2:] = power
    return columns


def _summed(words: Words, sums: tuple[int, int], weights: Words) -> tuple[int, int]:
    terms = np.append(words.astype(np.uint32), np.array(sums, dtype=np.uint32))
    first, second = (weights * terms).sum(axis=1, dtype=np.uint32).tolist()
    return first, second


class Pages:
    """The pages of a database as its write-ahead log has them; a page that cannot be read is empty."""

    def __init__(self, path: Path, page_bytes: int = PAGE_BYTES) -> None:
        self.page_bytes = page_bytes
        log = read_log(log_of(path), page_bytes)
        frame_bytes = _FRAME_HEADER.size + page_bytes
        self._in_log = {
            page: _WAL_HEADER.size + frame * frame_bytes + _FRAME_HEADER.size for page, frame in log.pages().items()
        }
        self._file = _opened(path)
        self._log_file = _opened(log_of(path))
        size = os.fstat(self._file).st_size if self._file is not None else 0
        self.count = max(-(-size // page_bytes), max(self._in_log, default=0))

    def close(self) -> None:
        """Close both files."""
        for file in (self._file, self._log_file):
            if file is not None:
                os.close(file)

    def __getitem__(self, number: int) -> bytes:
        if not 1 <= number <= self.count:
            return b""
        start = self._in_log.get(number)
        file, offset = (self._file, (number - 1) * self.page_bytes) if start is None else (self._log_file, start)
        if file is None:
            return b""
        try:
            return os.pread(file, self.page_bytes, offset)
        except OSError:  # a sector that cannot be read
            return b""

    def rows(self) -> Iterator[Row]:
        """Every row of every leaf page that is not on the list of free pages, and of interior pages that hold rows."""
        free = self._free()
        for number in range(1, self.count + 1):
            if number not in free:
                yield from self.rows_of(number)

    def _free(self) -> set[int]:
        """Pages given up: what they hold was deleted. A list that cannot be followed ends early."""
        free: set[int] = set()
        trunk = int.from_bytes(self[1][32:36])
        while 0 < trunk <= self.count and trunk not in free:
            page = self[trunk]
            free.add(trunk)
            leaves = page[8 : 8 + 4 * int.from_bytes(page[4:8])]
            free.update(int.from_bytes(leaves[place : place + 4]) for place in range(0, len(leaves), 4))
            trunk = int.from_bytes(page[:4])
        return free

    def rows_of(self, number: int) -> Iterator[Row]:
        """The rows of one page."""
        page, start = self[number], _FILE_HEADER_BYTES if number == 1 else 0
        kind = page[start] if len(page) > start + 12 else 0
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR):
            return
        first = start + (12 if kind == INDEX_INTERIOR else 8)
        for place in range(first, first + 2 * int.from_bytes(page[start + 3 : start + 5]), 2):
            cell = int.from_bytes(page[place : place + 2]) + (4 if kind == INDEX_INTERIOR else 0)
            try:
                yield self._row(page, cell, kind)
            except (IndexError, ValueError, struct.error):
                continue

    def _row(self, page: bytes, at: int, kind: int) -> Row:
        size, at = _varint(page, at)
        key = None
        if kind == TABLE_LEAF:
            key, at = _varint(page, at)
        return Row(key, _record(self._payload(page, at, size, kind)))

    def _payload(self, page: bytes, at: int, size: int, kind: int) -> bytes:
        if size > _ROW_BYTES_AT_MOST:
            raise ValueError("a row larger than any of ours")
        here = self._bytes_in_page(size, kind)
        if at + here > len(page):
            raise ValueError("a row beyond its page")
        if here == size:
            return page[at : at + size]
        parts, left = [page[at : at + here]], size - here
        following = int.from_bytes(page[at + here : at + here + 4])
        while left > 0:
            overflow = self[following]
            if not overflow:
                raise ValueError("a row's chain of pages is broken")
            parts.append(overflow[4 : 4 + left])
            left -= len(overflow) - 4
            following = int.from_bytes(overflow[:4])
        return b"".join(parts)

    def _bytes_in_page(self, size: int, kind: int) -> int:
        """How much of a row of `size` bytes stands in its own page, the rest in a chain of pages."""
        usable = self.page_bytes
        least = (usable - 12) * 32 // 255 - 23
        most = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        if size <= most:
            return size
        begun = least + (size - least) % (usable - 4)
        return begun if begun <= most else least


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and where it ends."""
    number = 0
    for place in range(at, at + 8):
        byte = data[place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place + 1
    number = number << 8 | data[at + 8]
    return (number - (1 << 64) if number >> 63 else number), at + 9


def _record(payload: bytes) -> tuple[Value, ...]:
    header_end, at = _varint(payload, 0)
    if header_end > len(payload):
        raise ValueError("a row's header is longer than the row")
    types: list[int] = []
    while at < header_end:
        serial, at = _varint(payload, at)
        types.append(serial)
    values: list[Value] = []
    for serial in types:
        value, at = _value(payload, at, serial)
        values.append(value)
    if at != len(payload):
        raise ValueError("a row's columns are not as long as the row")
    return tuple(values)


def _value(payload: bytes, at: int, serial: int) -> tuple[Value, int]:
    if serial in (0, 8, 9):
        return (None if serial == 0 else serial - 8), at
    if serial in (10, 11) or serial < 0:
        raise ValueError("a type that no column has")
    size = 8 if serial == 7 else _INTEGER_BYTES[serial] if serial < 7 else (serial - 12) // 2
    content = payload[at : at + size]
    if len(content) < size:
        raise ValueError("a column beyond its row")
    if serial == 7:
        (number,) = struct.unpack(">d", content)
        return float(number), at + size
    return (int.from_bytes(content, signed=True) if serial < 7 else content), at + size
