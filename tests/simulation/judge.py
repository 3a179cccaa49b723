"""What must hold of a site's forecasts and intervals when all has come to rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from shared.clock import DAY_US, HOUR_US, SECOND_US, iso
from shared.memory import MemoryBroker
from tests.simulation.checks import Violation, require
from tests.simulation.edge_shell import Clock, Disk, EdgeProcess, deliver_cleanly
from tests.simulation.site import Site


def check_always_a_forecast(site: Site, process: EdgeProcess) -> None:
    """Invariant 4: a meter with usable history has the forecast of its newest origin, retained.

    History that only a revision of the newest interval made, or that came late before a meter's first interval, is used
    from the next origin on; under the event clock that may not come. What the life before a disk image said is newer;
    what one before another disk said may be older, while this life has only history and that clock stands.
    """
    step_us = site.params.step_s * SECOND_US
    for meter in process.meters():
        closed = process.closed(meter)
        loads_kw = process.loads_kw(meter, np.arange(closed - 8 * DAY_US // step_us, closed - 1))
        if closed < 0 or process.retired(meter) or not np.isfinite(loads_kw).any():
            continue
        topic = site.books.topics.forecast(meter)
        kept = site.broker.retained.get(topic)
        if kept is None or (site.params.clock == "event" and kept.payload == site.inherited.get(topic)):
            require(site.params.clock == "event", f"{site.name} {meter} has history and no forecast")
            continue
        wanted, origin = iso(closed * step_us), json.loads(kept.payload)["origin"]
        on_time = origin > wanted if site.lives and origin != wanted else origin == wanted
        require(on_time, f"{site.name} {meter}: a forecast at {origin}, not {wanted}")


def check_intervals(site: Site, process: EdgeProcess, folder: Path, now_us: int) -> None:
    """Invariant 2: intervals equal those of one clean delivery in order, bit for bit."""
    clean = _cleanly(site, folder, now_us)
    step_us = site.params.step_s * SECOND_US
    for meter in sorted({meter for meter, _ts_us in site.books.rows} & set(process.meters()) & set(clean.meters())):
        first_us = min(ts_us for name, ts_us in site.books.rows if name == meter)
        first = max(first_us, site.comparable_from_us) // step_us + bool(site.comparable_from_us)
        if site.comparable_from_us < now_us:
            both = process.closed(meter), clean.closed(meter)
            require(both[0] == both[1], f"{site.name} {meter}: closed up to {both[0]}, cleanly {both[1]}")
        numbers = np.arange(first, process.closed(meter))
        for one in site.books.spoilt:
            if one.meter == meter:
                numbers = numbers[(numbers < one.from_us // step_us) | (numbers > one.until_us // step_us)]
        got, wanted = process.loads_kw(meter, numbers), clean.loads_kw(meter, numbers)
        wrong = numbers[~((got == wanted) | (np.isnan(got) & np.isnan(wanted)))]
        if len(wrong):
            at = int(np.flatnonzero(numbers == wrong[0])[0])
            start = iso(int(wrong[0]) * step_us)
            raise Violation(f"{site.name} {meter}: interval {start} is {got[at]!r}, cleanly {wanted[at]!r}")
    clean.kill()


def _cleanly(site: Site, folder: Path, now_us: int) -> EdgeProcess:
    """The same readings at an edge that nothing happens to."""
    process = EdgeProcess(site.params, Disk(folder), MemoryBroker(), Clock(0))
    hours: dict[int, list[tuple[str, bytes]]] = {}
    for (meter, ts_us), row in sorted(site.books.rows.items(), key=lambda one: one[0][1]):
        hours.setdefault(ts_us // HOUR_US, []).append((meter, _payload(row)))
    batches = [((hour + 1) * HOUR_US, messages) for hour, messages in hours.items()]
    deliver_cleanly(process, batches, lambda _moment: None)
    process.let_pass(now_us)
    process.clock.wall_us = now_us
    for _ in process.tick_until_idle():
        pass
    return process


def _payload(row: dict[str, object]) -> bytes:
    content = {name: row[name] for name in ("value", "unit", "kind", "period_s") if row[name] is not None}
    return json.dumps({"ts": iso(int(str(row["ts_us"]))), **content}).encode()
