"""Readings in: from raw messages to a site's state, the record's rows and what was refused. The edge's hot path.

Invariants: every item of every message is in exactly one of these: kept, recorded only (too late to revise), a
duplicate, or refused with a reason; an exact duplicate changes nothing; a meter exists only once a reading of it was
accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.changes import ReadingRow
from edge.dialects.native import Decoder, Reading, RefusedItem
from edge.letters import STRANGERS
from edge.meters import NO_INSTANT, Meter
from edge.site import SiteState
from edge.siteclock import SiteClock
from edge.window import NEVER
from shared.clock import DAY_US, SECOND_US, iso
from shared.packets import Incoming
from shared.params import Params
from shared.topics import SiteTopics, is_id

FIRST_AHEAD_US: Final = 3650 * DAY_US  # a replay's first reading has nothing before it to be judged by

Refused = tuple[str, str, RefusedItem]


@dataclass(slots=True)
class Taken:
    """What a batch of messages brought.

    `kept` are rows (meter's row, ts_us, value, form) that intervals may need; `before_us` is, for each, the instant of
    the reading before it. `recorded` are those and the late ones, with when they were received.
    """

    kept: list[ReadingRow] = field(default_factory=list)
    before_us: list[int] = field(default_factory=list)
    recorded: list[ReadingRow] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    arrivals: dict[int, bytes] = field(default_factory=dict)
    duplicates: int = 0
    corrected: int = 0
    late: int = 0
    retained: int = 0

    def columns(self, site: SiteState) -> dict[str, list[Any]]:
        """What was recorded, as the uplink's columns of readings."""
        if not self.recorded:
            return {}
        rows, ts_us, value, numbers = zip(*self.recorded, strict=True)
        by_row, forms = site.meters.by_row, [site.forms[number] for number in numbers]
        return {
            "meter_id": [by_row[row].name for row in rows],
            "ts_us": list(ts_us),
            "value": list(value),
            "unit": [form.unit for form in forms],
            "kind": [form.kind for form in forms],
            "period_s": [form.period_us / SECOND_US if form.period_us else None for form in forms],
            "quality": [form.quality for form in forms],
            "received_us": self.received_us,
        }


class Intake:
    """Takes batches of messages of one site. `arrivals` are packet ids and digests of committed ones without `ts`."""

    def __init__(
        self, params: Params, site: SiteState, clock: SiteClock, topics: SiteTopics, arrivals: dict[int, bytes]
    ) -> None:
        self._site = site
        self._clock = clock
        self._topics = topics
        self._arrivals = arrivals
        self._max_payload = params.edge.max_payload_bytes
        self._max_meters = params.edge.max_meters
        self._decoder = Decoder(site.forms, default_period_us=params.step_s * SECOND_US)
        self._late_us = self._oldest_us = self._ahead_us = self._received_us = 0

    def take(self, messages: Sequence[Incoming]) -> Taken:
        """Put what is good into the meters' recent readings; intervals are the caller's."""
        taken = Taken()
        self._bound()
        decode, by_name, timeless = self._decoder.decode, self._site.meters.by_name, self._site.forms.is_timeless
        doubtful = bool(self._clock.doubt_us)
        for message in messages:
            name = self._topics.meter_of(message.topic) or ""
            meter = by_name.get(name)
            if message.retain:  # a retained replay is state, not a new reading
                taken.retained += 1
                continue
            if meter is None or message.size > self._max_payload:
                reason = self._reason_against_message(message, name)
                if reason:
                    taken.refused.append(self._refused(name, message, RefusedItem(None, message.payload, reason)))
                    continue
            binding = meter.binding if meter else self._site.bindings.of(self._site.name, name)
            readings, refused = decode(message.payload, self._received_us, binding)
            for one in refused:
                taken.refused.append(self._refused(name, message, one))
            if any(timeless[reading.form] for reading in readings) and self._is_redelivery(message, taken):
                taken.duplicates += len(readings)
                continue
            for reading in readings:
                plain = self._oldest_us <= reading.ts_us <= self._ahead_us and not timeless[reading.form]
                if plain and meter is not None and not doubtful:
                    self._keep(meter, reading, taken)
                    continue
                checked = self._checked(reading, name, message, taken)
                if checked is not None:
                    meter, reading = checked
                    self._keep(meter, reading, taken)
        return taken

    def history(self, messages: Sequence[Incoming]) -> tuple[Taken, dict[str, list[Reading]]]:
        """Readings of backfill topics by meter: to be recorded, never to be kept or to move a clock."""
        taken, by_meter, strangers = Taken(), dict[str, list[Reading]](), set[str]()
        self._bound()
        for message in messages:
            name = self._topics.backfilled_meter_of(message.topic) or ""
            reason = self._reason_against_message(message, name)
            if reason:
                taken.refused.append(self._refused(name, message, RefusedItem(None, message.payload, reason)))
                continue
            rows = self._site.rows + len(strangers - {name})
            binding = self._site.bindings.of(self._site.name, name)
            readings, refused = self._decoder.decode(message.payload, self._received_us, binding)
            taken.refused += [self._refused(name, message, one) for one in refused]
            for reading in readings:
                reason = self._reason_against_history(reading, name, rows)
                if reason:
                    taken.refused.append(self._refused(name, message, self._written_out(reading, reason)))
                    continue
                by_meter.setdefault(name, []).append(reading)
                if name not in self._site.meters.by_name:
                    strangers.add(name)
        return taken, by_meter

    # -- one message ---------------------------------------------------------------------------------------------

    def _reason_against_message(self, message: Incoming, name: str) -> str:
        if message.size > self._max_payload:
            return f"payload of {message.size} bytes, edge.max_payload_bytes is {self._max_payload}"
        if not is_id(name):
            return f"meter id {name!r:.80} is not 1 to 64 of letters, digits, _ . : -"
        return ""

    def _is_redelivery(self, message: Incoming, taken: Taken) -> bool:
        """Whether readings that took their arrival time were committed before and only the acknowledgement was lost.

        They have no identity of their own, so the packet's id and the payload's digest stand for it.
        """
        digest = hashlib.sha256(message.topic.encode() + b"\0" + message.payload).digest()
        if message.dup and self._arrivals.get(message.mid) == digest:
            return True
        self._arrivals[message.mid] = taken.arrivals[message.mid] = digest
        return False

    def _refused(self, name: str, message: Incoming, one: RefusedItem) -> Refused:
        return name if name in self._site.meters.by_name else STRANGERS, message.topic, one

    # -- one reading ---------------------------------------------------------------------------------------------

    def _keep(self, meter: Meter, reading: Reading, taken: Taken) -> None:
        """Keep a good reading, unless it is a duplicate or too late to change an interval."""
        ts_us, value, form = reading
        known = None
        in_order = not meter.ts_us or ts_us > meter.ts_us[-1]
        if not in_order:
            known = meter.at(ts_us)
            if known is not None and known.value == value and self._is_unit_of(known.form, form):
                taken.duplicates += 1
                return
        if ts_us > self._clock.latest_us:
            self._clock.latest_us = ts_us
            if self._clock.mode == "event":
                self._bound()
        row = (meter.row, ts_us, value, form)
        taken.recorded.append(row)
        taken.received_us.append(self._received_us)
        if ts_us < self._late_us and self._is_closed(meter, ts_us):
            taken.late += 1
            return
        taken.corrected += known is not None
        taken.kept.append(row)
        keep = meter.append if in_order else meter.keep
        taken.before_us.append(keep(reading, self._site.forms))

    def _is_unit_of(self, one: int, other: int) -> bool:
        return one == other or self._site.forms[one].unit == self._site.forms[other].unit

    def _is_closed(self, meter: Meter, ts_us: int) -> bool:
        closed = int(self._site.window.closed[meter.row])
        return closed != NEVER and ts_us < closed * self._site.step_us

    def _checked(self, reading: Reading, name: str, message: Incoming, taken: Taken) -> tuple[Meter, Reading] | None:
        """The reading as it is to be taken and its meter, a new one if need be; None when it was refused."""
        timeless = self._site.forms.is_timeless[reading.form]
        if not timeless:  # what takes our time says nothing of it
            self._clock.weigh(reading.ts_us + self._site.forms.settles_us[reading.form])
            self._bound()
        meter = self._site.meters.by_name.get(name)
        if meter is not None and timeless:
            # Readings of a meter that take their arrival time never take the same one.
            reading = reading._replace(ts_us=max(reading.ts_us, meter.last_up_to(self._ahead_us) + 1))
        reason = self._reason_against(reading, name)
        if reason:
            taken.refused.append(self._refused(name, message, self._written_out(reading, reason)))
            return None
        return meter or self._site.add_meter(name), reading

    def _reason_against(self, reading: Reading, name: str) -> str:
        """Why a well-formed reading cannot be taken now, or nothing."""
        now_us, ts_us = self._clock.now_us, reading.ts_us
        if now_us == NO_INSTANT and ts_us > self._ahead_us:
            return f"ts {iso(ts_us)} would begin the event clock ten years ahead of {iso(self._clock.wall_us)}"
        if ts_us > self._ahead_us:
            return f"ts {iso(ts_us)} is further ahead of {iso(now_us)} than grid.max_ahead"
        if ts_us < self._oldest_us:
            return f"ts {iso(ts_us)} is older than grid.max_age before {iso(now_us)}"
        return self._reason_against_stranger(name, self._site.rows)

    def _reason_against_stranger(self, name: str, rows: int) -> str:
        if rows >= self._max_meters and name not in self._site.meters.by_name:
            return f"meter {name} would be beyond edge.max_meters {self._max_meters}"
        return ""

    def _reason_against_history(self, reading: Reading, name: str, rows: int) -> str:
        if self._site.forms.is_timeless[reading.form]:
            return "history needs ts"
        if reading.ts_us > self._received_us + self._site.limits.max_ahead_us:
            return f"ts {iso(reading.ts_us)} is further ahead of {iso(self._received_us)} than grid.max_ahead"
        if reading.ts_us < self._oldest_us:
            return f"ts {iso(reading.ts_us)} is older than grid.max_age before {iso(self._received_us)}"
        return self._reason_against_stranger(name, rows)

    def _bound(self) -> None:
        """Say anew which instants are too far ahead, too old, or too late to revise."""
        now_us, limits = self._clock.now_us, self._site.limits
        if now_us == NO_INSTANT:
            self._ahead_us, self._oldest_us = self._clock.wall_us + FIRST_AHEAD_US, NO_INSTANT
            self._late_us = NO_INSTANT
        else:
            earliest_us, latest_us = self._clock.bounds_us
            self._ahead_us = latest_us + limits.max_ahead_us
            self._oldest_us = earliest_us - limits.max_age_us
            self._late_us = now_us - limits.lateness_us
        self._received_us = self._clock.received_us

    def _written_out(self, reading: Reading, reason: str) -> RefusedItem:
        """A well-formed reading that cannot be taken now, written out by itself: its list may be long."""
        form = self._site.forms[reading.form]
        written = {"ts": iso(reading.ts_us), "value": reading.value, "unit": form.unit, "kind": form.kind}
        return RefusedItem(reading.ts_us, json.dumps(written).encode(), reason)


def touching_closed(taken: Taken, site: SiteState) -> NDArray[np.bool_]:
    """Which of the kept readings may change closed intervals, [len(kept)].

    Those inside them; and a register's reading after them, when the one before it lies inside: its difference is
    spread backwards over the gap.
    """
    rows, ts_us, _value, form = (np.array(column) for column in zip(*taken.kept, strict=True))
    closed = site.window.closed[rows]
    closed_us = np.where(closed == NEVER, NEVER, closed * site.step_us)
    is_register = np.array(site.forms.is_register)[form]
    mixed = np.array([site.meters.by_row[row].is_mixed for row in rows.tolist()])
    touching: NDArray[np.bool_] = (
        (ts_us < closed_us) | (is_register & (np.array(taken.before_us) < closed_us)) | (is_register & mixed)
    )
    return touching
