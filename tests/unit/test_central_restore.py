"""What an edge with an empty state is told: closed intervals of the record, in parts that fit, once for each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from central.asking import AGAIN_AFTER_S, SITES_AT_MOST, Asking
from central.record import Record
from central.record_panel import panel_from_record
from central.restore import READINGS_AT_ONCE, blocks, meters_a_part, restore_parts
from shared.bindings import Bindings
from shared.clock import DAY_US, HOUR_US, iso, parse_instant_us
from shared.features import WINDOW_STEPS, window_steps
from shared.grid import GridRules
from shared.messages import MAX_UPLINK_BYTES, RESTORE_WANTED, Restore, RestoredMeter, Status, Uplink
from shared.params import GridParams, MeterBinding

START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z
GRID = GridParams()


def status(epoch: str = "e", *, state: str = "online", asks: bool = True) -> Status:
    said = {"state": state, "instance": "i", "epoch": epoch, "version": "1", "started_at": iso(0)}
    return Status.model_validate(said | {"reasons": [RESTORE_WANTED] if asks else []})


def recorded(folder: Path, rows: list[tuple[str, int, float]], **columns: object) -> Record:
    """A record of (meter, ts_us, value) in kW."""
    size = len(rows)
    readings: dict[str, list[Any]] = {
        "meter_id": [meter for meter, _, _ in rows],
        "ts_us": [ts_us for _, ts_us, _ in rows],
        "value": [value for _, _, value in rows],
        "received_us": [START_US] * size,
    }
    readings |= {
        name: [value] * size for name, value in ({"unit": "kW", "kind": "power", "period_s": None} | columns).items()
    }
    record = Record(str(folder / "record"))
    record.create()
    record.append([Uplink(site="s", epoch="old", seq=1, at=iso(START_US), kinds={"readings": readings})])
    return record


def told(parts: Iterator[Restore]) -> dict[str, RestoredMeter]:
    return {meter: restored for part in parts for meter, restored in part.meters.items()}


def test_an_edge_that_asks_is_due_once_and_again_only_after_a_while_that_doubles() -> None:
    asking = Asking()
    assert asking.due(0.0) is None
    asking.hear("s", status())
    assert asking.due(0.0) == ("s", "e")
    asking.answered("s", "e", 10.0)
    asking.hear("s", status())
    assert asking.due(9.0 + AGAIN_AFTER_S) is None
    assert asking.due(10.0 + AGAIN_AFTER_S) == ("s", "e")
    asking.answered("s", "e", 100.0)
    assert asking.due(100.0 + AGAIN_AFTER_S) is None
    assert asking.due(100.0 + 2 * AGAIN_AFTER_S) == ("s", "e")


@pytest.mark.parametrize("last", [status(asks=False), status(state="offline")])
def test_an_edge_that_asks_no_longer_or_has_gone_is_not_answered(last: Status) -> None:
    asking = Asking()
    asking.hear("s", status())
    asking.hear("s", last)
    assert asking.due(0.0) is None


def test_another_epoch_of_a_site_is_answered_afresh_and_a_late_answer_to_the_first_does_not_count() -> None:
    asking = Asking()
    asking.hear("s", status("a"))
    asking.hear("s", status("b"))
    asking.answered("s", "a", 0.0)
    assert asking.due(0.0) == ("s", "b")


def test_sites_that_ask_without_end_are_bounded_and_the_longest_answered_waits() -> None:
    asking = Asking()
    for number in range(2 * SITES_AT_MOST):
        asking.hear(f"s{number}", status())
    served = []
    while (due := asking.due(0.0)) is not None:
        asking.answered(*due, 0.0)
        served.append(due)
    assert len(served) == len(set(served)) == SITES_AT_MOST


@pytest.mark.parametrize("step_s", [900, 1800, 3600])
def test_a_part_fits_a_message_even_of_the_longest_numbers_and_names(step_s: int) -> None:
    rng = np.random.default_rng(1)
    meters = {}
    for number in range(meters_a_part(step_s)):
        loads = (-rng.random(window_steps(step_s)) * 1.7e-300).tolist()
        meters[f"{number:064}"] = RestoredMeter(first=iso(START_US + 1), load_kw=loads)
    part = Restore(site="s" * 64, epoch="e" * 64, part=10**6, parts=10**6, step_s=step_s, meters=meters)
    assert len(part.compress()) < len(part.encode()) <= MAX_UPLINK_BYTES


def test_blocks_are_bounded_by_readings_and_hold_every_meter_in_order() -> None:
    counts = {f"m{number}": READINGS_AT_ONCE // 3 for number in range(7)} | {"huge": 5 * READINGS_AT_ONCE}
    made = list(blocks(counts, counts))
    assert [len(block) for block in made] == [3, 3, 1, 1]
    assert [meter for block in made for meter in block] == list(counts)


def test_closed_intervals_are_told_and_the_one_still_open_is_not(tmp_path: Path) -> None:
    rows = [("m", START_US + minute * 60_000_000, 1.0 + minute // 60) for minute in range(0, 150, 10)]
    restored = told(restore_parts(recorded(tmp_path, rows), "s", "e", grid=GRID, bindings=Bindings()))["m"]
    assert (restored.first, restored.load_kw) == (iso(START_US), [1.0, 2.0])


def test_energy_closes_the_intervals_it_covers_and_what_is_missing_is_null(tmp_path: Path) -> None:
    rows = [("m", START_US + hour * HOUR_US, float(hour)) for hour in (0, 1, 3)]
    record = recorded(tmp_path, rows, unit="kWh", kind="energy", period_s=3600.0)
    assert told(restore_parts(record, "s", "e", grid=GRID, bindings=Bindings()))["m"].load_kw == [0.0, 1.0, None, 3.0]


def test_the_window_reaches_thirty_days_back_from_the_sites_newest_reading(tmp_path: Path) -> None:
    rows = [("m", START_US + hour * HOUR_US, float(hour)) for hour in range(40 * 24)]
    rows += [
        ("long silent", START_US, 1.0),
        ("silent", START_US + 20 * DAY_US, 1.0),
        ("silent", START_US + 20 * DAY_US + HOUR_US, 1.0),
    ]
    known = told(
        restore_parts(
            recorded(tmp_path, [(m.replace(" ", "-"), t, v) for m, t, v in rows]),
            "s",
            "e",
            grid=GRID,
            bindings=Bindings(),
        )
    )
    assert known.keys() == {"m", "silent"}
    newest = known["m"]
    assert newest.first == iso(START_US + 10 * DAY_US)
    assert newest.load_kw == [float(hour) for hour in range(240, 959)]
    assert len(newest.load_kw) == WINDOW_STEPS - 1, "the last interval is open"


def test_many_meters_go_in_parts_of_one_count_that_all_know(tmp_path: Path) -> None:
    names = [f"m{number:03}" for number in range(2 * meters_a_part(3600) + 1)]
    rows = [(name, START_US + hour * HOUR_US, 1.0) for name in names for hour in range(2)]
    parts = list(restore_parts(recorded(tmp_path, rows), "s", "e", grid=GRID, bindings=Bindings()))
    assert [(part.part, part.parts, part.step_s, part.epoch) for part in parts] == [
        (n, 3, 3600, "e") for n in (1, 2, 3)
    ]
    assert sorted(told(iter(parts))) == names


def test_other_steps_follow_the_grid(tmp_path: Path) -> None:
    rows = [("m", START_US + quarter * HOUR_US // 4, float(quarter)) for quarter in range(9)]
    grid = GridParams(step=timedelta(minutes=15))
    (part,) = restore_parts(recorded(tmp_path, rows), "s", "e", grid=grid, bindings=Bindings())
    assert (part.step_s, part.meters["m"].load_kw) == (900, [float(quarter) for quarter in range(8)])


def test_a_site_the_record_does_not_know_gets_one_empty_part(tmp_path: Path) -> None:
    (part,) = restore_parts(
        recorded(tmp_path, [("m", START_US, 1.0)]), "elsewhere", "e", grid=GRID, bindings=Bindings()
    )
    assert (part.site, part.part, part.parts, part.meters) == ("elsewhere", 1, 1, {})


def test_a_part_reads_back_as_it_was_made(tmp_path: Path) -> None:
    rows = [("m", START_US + hour * HOUR_US, math.pi * hour) for hour in range(9) if hour != 4]
    (part,) = restore_parts(recorded(tmp_path, rows), "s", "e", grid=GRID, bindings=Bindings())
    assert Restore.decompress(part.compress(), "t") == part


@pytest.mark.parametrize(
    "odd", [{"unit": "furlong"}, {"kind": None}, {"kind": "mood"}, {"unit": "kWh", "kind": "energy", "period_s": 1e30}]
)
def test_rows_that_the_grid_cannot_take_hold_nothing_up(tmp_path: Path, odd: dict[str, object]) -> None:
    record = recorded(tmp_path, [("odd", START_US + hour * HOUR_US, 1.0) for hour in range(3)], **odd)
    good = {"meter_id": ["m", "m"], "ts_us": [START_US, START_US + HOUR_US], "value": [1.0, 2.0], "unit": ["kW"] * 2,
            "kind": ["power"] * 2, "received_us": [START_US] * 2}  # fmt: skip
    record.append([Uplink(site="s", epoch="old", seq=2, at=iso(START_US), kinds={"readings": good})])
    assert told(restore_parts(record, "s", "e", grid=GRID, bindings=Bindings())) == {
        "m": RestoredMeter(first=iso(START_US), load_kw=[1.0])
    }


@pytest.mark.parametrize("kind", ["power", "energy", "register"])
def test_restored_intervals_equal_those_of_the_whole_record_also_where_the_window_begins(
    tmp_path: Path, kind: str
) -> None:
    rng = np.random.default_rng(5)
    instants = START_US + np.cumsum(rng.integers(60, 5 * 3600, 500)) * 1_000_000
    value = np.cumsum(rng.random(500)) if kind == "register" else rng.random(500)
    record = recorded(
        tmp_path,
        list(zip(["m"] * 500, instants.tolist(), value.tolist(), strict=True)),
        unit="kW" if kind == "power" else "kWh",
        kind=kind,
        period_s=5400.0 if kind == "energy" else None,
    )
    restored = told(restore_parts(record, "s", "e", grid=GRID, bindings=Bindings()))["m"]
    rules = GridRules.of(step=GRID.step, hold=GRID.hold, max_gap=GRID.max_gap)
    panel = panel_from_record(record.readings().to_pandas(), rules)
    first = int(panel.column(np.array([parse_instant_us(restored.first)]))[0])
    whole = panel.load_kw[0, first : first + len(restored.load_kw)]
    assert 25 * 24 < len(whole) <= WINDOW_STEPS
    assert [math.nan if load is None else load for load in restored.load_kw] == pytest.approx(
        whole, rel=0, abs=0, nan_ok=True
    )


def test_what_is_known_of_a_meter_holds_as_at_the_edge(tmp_path: Path) -> None:
    rows = [("m", START_US + hour * HOUR_US, load) for hour, load in enumerate((1.0, 50.0, 2.0, 3.0))]
    bindings = Bindings([MeterBinding(meter="m", site="s", max_kw=10.0)])
    assert told(restore_parts(recorded(tmp_path, rows), "s", "e", grid=GRID, bindings=bindings))["m"].load_kw == [
        1.0,
        None,
        2.0,
    ]
