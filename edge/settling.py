"""When intervals close: by a meter's own readings, by silence; made anew by late readings, open again after a clock.

Invariants: no interval closes that nobody can have read yet, or further ahead of the forecasts than the window lets
them run; no reading settles anything that only a clock that ran ahead let in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.changes import Changes
from edge.dialects.native import MAX_PERIOD_US
from edge.intake import Taken, touching_closed
from edge.meters import Meter
from edge.rounds import Counters, RoundMaker
from edge.site import SiteState
from edge.siteclock import SiteClock
from edge.window import NEVER


class Settling:
    """Moves the site's intervals; what it changes goes into the `Changes` it is given."""

    def __init__(self, site: SiteState, clock: SiteClock, rounds: RoundMaker, counters: Counters) -> None:
        self._site = site
        self._clock = clock
        self._rounds = rounds
        self._counters = counters
        self._committed_us = clock.latest_us

    # -- by readings -----------------------------------------------------------------------------------------------

    def take(self, taken: Taken, changes: Changes) -> None:
        """Close and make anew what the readings just kept settle and touch; there is at least one."""
        meters, window = self._site.meters, self._site.window
        rows = np.array(sorted({row for row, *_ in taken.kept}), dtype=np.int64)
        touched = [meters.by_row[row] for row in rows.tolist()]
        self._site.settled_us[rows] = [meter.settled_us for meter in touched]
        self._unsettle(rows)
        if self._site.retired[rows].any():
            self._site.retired[rows] = False
            changes.meters |= set(rows.tolist())
        if (window.closed[rows] == NEVER).any():
            self._open(taken, changes)
        self._revise(taken, changes)
        self._close(rows, self._site.settled_us[rows] // self._site.step_us, changes)
        # What is committed and not yet acknowledged may come again: it is known until the commit after it.
        committed_us, self._committed_us = self._committed_us, self._clock.now_us
        for meter in touched:
            if len(meter.ts_us) > meter.prune_at:
                meters.prune(meter, committed_us)

    def begin_with_history(self, meter: Meter, closed: int) -> None:
        """A meter that has history need not wait for its first interval to be forecast."""
        self._rounds.begin(meter.row, closed - 1)

    def _open(self, taken: Taken, changes: Changes) -> None:
        """Begin the meters whose first readings these are, each with the interval of its earliest."""
        firsts: dict[int, int] = {}
        for row, ts_us, _value, _form in taken.kept:
            if self._site.window.closed[row] == NEVER:
                firsts[row] = min(ts_us, firsts.get(row, ts_us))
        for row, first_us in firsts.items():
            meter = self._site.meters.by_row[row]
            self._site.meters.open_at(meter, first_us)
            self._rounds.begin(row, int(self._site.window.closed[row]))
            changes.meters.add(row)

    def _revise(self, taken: Taken, changes: Changes) -> None:
        """Make closed intervals anew that readings just kept may change, for each meter once: readings may be many."""
        meters = self._site.meters
        stretches: dict[int, tuple[int, int]] = {}
        for index in np.flatnonzero(touching_closed(taken, self._site)).tolist():
            row, ts_us, _value, _form = taken.kept[index]
            start_us, end_us = meters.touched_us(meters.by_row[row], ts_us)
            known = stretches.get(row, (start_us, end_us))
            stretches[row] = min(start_us, known[0]), max(end_us, known[1])
        revised = meters.revise(stretches)
        self._counters["intervals", "revised"] += len(revised)
        for row, _first, _count in revised:
            self._rounds.revised(row)
        changes.closed += revised

    def _close(self, rows: NDArray[np.int64], until: NDArray[np.int64], changes: Changes) -> None:
        """Close the meters' intervals up to `until`: those that have begun, as far as the forecasts let them run."""
        until = np.minimum(np.minimum(until, self._ends()), self._rounds.limits(rows))
        due = until > self._site.window.closed[rows]
        if not due.any():
            return
        by_row = self._site.meters.by_row
        wanted = [(by_row[row], number) for row, number in zip(rows[due].tolist(), until[due].tolist(), strict=True)]
        closed = self._site.meters.close(wanted)
        self._counters["intervals", "closed"] += sum(count for _row, _first, count in closed)
        changes.closed += closed
        changes.meters |= {row for row, _first, _count in closed}

    def _ends(self) -> int:
        """The first interval that nobody can have read yet."""
        return (self._clock.now_us + self._site.limits.max_ahead_us) // self._site.step_us + 1

    # -- by time ---------------------------------------------------------------------------------------------------

    def close_waiting(self, changes: Changes, *, silent_too: bool) -> list[Meter]:
        """Close what readings settled earlier but the window had no slack for, and what silence closes.

        Returns the meters that were silent for so long that they are retired.
        """
        site, now_us = self._site, self._clock.now_us
        silent_until = (now_us - site.limits.grace_us) // site.step_us if silent_too else NEVER
        rows = site.active_rows
        target = np.maximum(site.settled_us[rows] // site.step_us, silent_until)
        lagging = (target > site.window.closed[rows]) & (site.window.closed[rows] != NEVER)
        if not lagging.any():
            return []
        rows, target = rows[lagging], target[lagging]
        retired: list[Meter] = []
        if silent_too:
            heard_us = np.array([site.meters.by_row[row].latest_us for row in rows.tolist()], dtype=np.int64)
            silent = heard_us < now_us - site.limits.retire_after_us
            retired = [self._retire(row, changes) for row in rows[silent].tolist()]
            rows, target = rows[~silent], target[~silent]
        self._close(rows, target, changes)
        return retired

    def _retire(self, row: int, changes: Changes) -> Meter:
        self._site.retired[row] = True
        changes.meters.add(row)
        self._counters["meters", "retired"] += 1
        return self._site.meters.by_row[row]

    # -- after a clock that ran ahead ------------------------------------------------------------------------------

    def reopen(self, changes: Changes) -> None:
        """Take back what a clock that ran ahead closed: no interval may be closed that has not begun."""
        site, rows, ends = self._site, self._site.active_rows, self._ends()
        self._unsettle(rows)
        for row in rows[site.window.closed[rows] > ends].tolist():
            settled = int(site.settled_us[row]) // site.step_us
            number = min(max(settled, (self._clock.now_us - site.limits.grace_us) // site.step_us), ends)
            site.window.reopen(row, number)
            self._rounds.reopen(row, number)
            self._counters["intervals", "reopened"] += 1
            changes.closed.append((row, number - site.window.width, site.window.width))
            changes.meters.add(row)

    def _unsettle(self, rows: NDArray[np.int64]) -> None:
        """Let no reading settle anything that a clock that ran ahead let in, nor when it is read back from disk."""
        latest_us = self._clock.now_us + self._site.limits.max_ahead_us
        for row in rows[self._site.settled_us[rows] > latest_us + MAX_PERIOD_US].tolist():
            meter = self._site.meters.by_row[row]
            meter.settle_up_to(latest_us, self._site.forms)
            self._site.settled_us[row] = meter.settled_us
