"""A site's state as rows of the database, and back: what writes a table's rows stands beside what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edge.changes import Changes
from edge.forms import Form
from edge.scoring import Issued, Scoreboard
from edge.site import SiteState
from edge.standing import is_record
from edge.window import NEVER, Ints
from shared.grid import KINDS, Flag
from shared.standing import RECORD

# -- meters and forms ----------------------------------------------------------------------------------------------


def form_row(entry: tuple[int, Form]) -> tuple[object, ...]:
    """A form under its number."""
    number, form = entry
    return number, form.unit, form.code, form.period_us, form.quality


def form_of(unit: str, kind: int, period_us: int, quality: str) -> Form:
    """As `form_row` wrote it."""
    return Form(unit, KINDS[kind], period_us, quality)


def meter_row(site: SiteState, row: int) -> tuple[object, ...]:
    """A meter, and how far it is closed, issued and delivered."""
    meter = site.meters.by_row[row]
    numbers = (site.window.closed, site.issued, site.delivered)
    closed, issued, delivered = (int(array[row]) for array in numbers)
    return row, meter.name, closed, meter.settled_us, meter.latest_us, issued, delivered, int(site.retired[row])


def load_meter(site: SiteState, line: tuple[int, str, int, int, int, int, int, int]) -> None:
    """Put back what `meter_row` wrote; meters come in the order of rows. Raises ValueError for one that does not."""
    row, name, closed, settled_us, latest_us, issued, delivered, retired = line
    meter = site.add_meter(name)
    if meter.row != row:
        raise ValueError(f"meter {name} stands in row {row}, expected {meter.row}")
    meter.settled_us, meter.latest_us = settled_us, latest_us
    site.window.closed[row], site.issued[row], site.delivered[row] = closed, issued, delivered
    site.retired[row] = bool(retired)


# -- history: one row a day and meter ------------------------------------------------------------------------------


def history_rows(changes: Changes, site: SiteState) -> Iterator[tuple[int, int, bytes]]:
    """Each touched day of the ring as one blob, loads then flags; slots not yet closed are NaN."""
    per_day, window = site.steps_per_day, site.window
    touched: dict[int, set[int]] = {}
    for row, first, count in changes.closed:
        in_ring = max(first, int(window.closed[row]) - window.width)
        for day in range(in_ring // per_day, (first + count - 1) // per_day + 1):
            touched.setdefault(day, set()).add(row)
    for day, rows in touched.items():
        place = np.fromiter(rows, dtype=np.int64, count=len(rows))[:, None]
        numbers = np.arange(day * per_day, (day + 1) * per_day)
        closed = window.closed[place]
        held = (numbers < closed) & (numbers >= closed - window.width)
        load_kw = np.where(held, window.load_kw[place, numbers % window.width], np.float32(np.nan))
        flags = np.where(held, window.flags[place, numbers % window.width], np.uint8(Flag.GAP))
        for row, loads, told in zip(rows, load_kw, flags, strict=True):
            yield day, row, loads.tobytes() + told.tobytes()


def left_days(changes: Changes, site: SiteState) -> Iterator[tuple[int, int]]:
    """(day, meter) of the days that have left the ring with what was closed: at most all that it held before."""
    width, per_day = site.window.width, site.steps_per_day
    for row, first, count in changes.closed:
        before, now = ((number - width) // per_day for number in (first, first + count))
        yield from ((day, row) for day in range(before, min(now, first // per_day + 1)))


def load_day(site: SiteState, day: int, lines: list[tuple[int, int, bytes]]) -> None:
    """Put one day of many meters, as `history_rows` wrote it, into the ring."""
    window, per_day = site.window, site.steps_per_day
    rows = np.array([row for _day, row, _blob in lines], dtype=np.int64)[:, None]
    blobs = np.frombuffer(b"".join(blob for _day, _row, blob in lines), dtype=np.uint8).reshape(len(lines), -1)
    numbers = np.arange(day * per_day, (day + 1) * per_day)
    closed = window.closed[rows]
    held = (numbers < closed) & (numbers >= closed - window.width)
    which, slot = np.nonzero(held)
    place = (rows[which, 0], numbers[slot] % window.width)
    window.load_kw[place] = blobs[:, : 4 * per_day].copy().view(np.float32)[held]
    window.flags[place] = blobs[:, 4 * per_day :][held]


# -- what was issued -----------------------------------------------------------------------------------------------


def issued_rows(issued: Iterable[Issued]) -> Iterator[tuple[object, ...]]:
    """A row for each meter of each origin and role, all scored leads in one blob."""
    for one in issued:
        for index, row in enumerate(one.rows.tolist()):
            body = one.spread_kw[index].tobytes()
            yield one.origin, one.role, row, body, int(one.rung[index]), int(one.version[index])


def issued_from(
    origin: int, role: int, lines: list[tuple[int, int, int, bytes, int, int]], scoreboard: Scoreboard
) -> Issued:
    """What one role issued to many meters at one origin, as `issued_rows` wrote it."""
    _origins, _roles, rows, bodies, rungs, versions = zip(*lines, strict=True)
    spread_kw = np.frombuffer(b"".join(bodies), dtype=np.float32).reshape(len(lines), len(scoreboard.leads), 3)
    return Issued(role, origin, np.array(rows), spread_kw, np.array(rungs, np.int8), np.array(versions, np.int64))


def oldest_issued(site: SiteState) -> int:
    """The first origin whose forecast may still meet its truth, of the meter that is furthest behind."""
    origins = site.issued[site.active_rows]
    begun = origins[origins != NEVER]
    return int(begun.min()) - max(site.scoreboard.leads) - 1 if len(begun) else NEVER


# -- what was learned ----------------------------------------------------------------------------------------------


def calibration_rows(changes: Changes, site: SiteState) -> Iterator[tuple[int, int, int, bytes]]:
    """Each state that has moved, once; `Calibration.unpack` reads it."""
    moved: dict[int, list[Ints]] = {}
    for source, rows in changes.calibrated:
        moved.setdefault(source, []).append(rows)
    for source, parts in moved.items():
        unique = np.array(sorted({row for rows in parts for row in rows.tolist()}), dtype=np.int64)
        leads = len(site.scoreboard.leads)
        for row, state in zip(unique.tolist(), site.calibration.packed(source, unique), strict=True):
            yield source, row, leads, state


def standing_rows(changes: Changes, site: SiteState) -> Iterator[tuple[object, ...]]:
    """Each record that has moved."""
    rows = np.array(sorted(changes.standing), dtype=np.int64)
    for row, record in zip(rows.tolist(), site.standing.held(rows).tolist(), strict=True):
        yield (row, *record)


def load_standing(site: SiteState, row: object, record: Sequence[object]) -> None:
    """Put back what `standing_rows` wrote; one that cannot be a meter's record costs that, and not the start."""
    if is_row(row, site) and is_record(*record):
        site.standing.put(np.array([row]), np.array([tuple(record)], dtype=RECORD))


def is_row(row: object, site: SiteState) -> bool:
    """Whether it is a meter's row."""
    return isinstance(row, int) and 0 <= row < site.rows
