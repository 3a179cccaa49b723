"""What time it is for a site: the wall clock, held against what its meters say; or, in a replay, the latest reading.

A wall clock jumps: a board without a battery starts in the past, a wrong time server moves it by a year and back. Taken
at its word, a jump ahead would close every meter's intervals as silent up to then. So between two tellings the wall may
go on by STEP_AT_MOST_US and back by BACK_AT_MOST_US; what it moves beyond that is not believed (`doubt_us`) until
readings agree with it, or none contradicts it for BELIEVED_AFTER_US. Under the
event clock the wall is never in doubt: nothing is asked of it.

Invariants: under the event clock now is the latest accepted `ts` and nothing else; readings near now never move the
clock; nothing here asks for the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edge.meters import NO_INSTANT
from shared.clock import SECOND_US

MINUTE_US: Final = 60 * SECOND_US
STEP_AT_MOST_US: Final = 10 * MINUTE_US  # the loop tells the time several times a second; a sleep is a jump like others
BACK_AT_MOST_US: Final = MINUTE_US
BELIEVED_AFTER_US: Final = 180 * MINUTE_US
MUCH_NEARER: Final = 4


@dataclass(slots=True)
class SiteClock:
    """`latest_us` is the latest accepted `ts`; `wall_us` what the wall said last, perhaps before a restart."""

    mode: Literal["wall", "event"]
    latest_us: int = NO_INSTANT
    wall_us: int = NO_INSTANT
    doubt_us: int = 0
    _doubted_us: int = 0
    _was_told: bool = False

    def tell(self, wall_us: int) -> None:
        """The wall clock says so now."""
        moved_us = wall_us - self.wall_us if self.wall_us != NO_INSTANT else 0
        # Across a restart any time may have passed, but none backwards.
        ahead = self._was_told and moved_us > STEP_AT_MOST_US
        if self.mode == "wall" and (ahead or moved_us < -BACK_AT_MOST_US):
            self.doubt_us += moved_us
            self._doubted_us = 0
        elif self.doubt_us:
            self._doubted_us += moved_us
        if abs(self.doubt_us) <= BACK_AT_MOST_US or self._doubted_us > BELIEVED_AFTER_US:
            self.doubt_us = 0
        self.wall_us, self._was_told = wall_us, True

    @property
    def now_us(self) -> int:
        """The clock that drives grid, forecasts and scores; NO_INSTANT before a replay's first reading."""
        return self.latest_us if self.mode == "event" else self.believed_us

    @property
    def believed_us(self) -> int:
        """The wall clock without what is in doubt: what a later process goes on from."""
        return self.wall_us - self.doubt_us

    @property
    def bounds_us(self) -> tuple[int, int]:
        """The earliest and the latest it may be: apart only while the wall clock is in doubt."""
        now_us = self.now_us
        return (min(now_us, self.wall_us), max(now_us, self.wall_us)) if self.doubt_us else (now_us, now_us)

    @property
    def received_us(self) -> int:
        """Now, and where there is none yet the wall clock."""
        return self.wall_us if self.now_us == NO_INSTANT else self.now_us

    def weigh(self, settled_us: int) -> None:
        """A meter has just told of the time until `settled_us`: evidence, while the wall clock is in doubt.

        Meters report late by minutes or a day; so it is which of the two clocks they are much nearer to that counts.
        """
        if not self.doubt_us:
            return
        from_wall_us, from_now_us = abs(settled_us - self.wall_us), abs(settled_us - self.now_us)
        if MUCH_NEARER * from_wall_us < from_now_us:
            self.doubt_us = 0
        elif MUCH_NEARER * from_now_us < from_wall_us:
            self._doubted_us = 0

    def accept(self, ts_us: int) -> None:
        """A reading was accepted."""
        self.latest_us = max(self.latest_us, ts_us)
