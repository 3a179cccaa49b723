"""The edge node through its one door: readings in, forecasts, scores, record rows and dead letters out."""

import json
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.effects import AckedArrived, Commit, ForecastsConfirmed, ReadingsArrived, Tick
from edge.metrics import samples
from edge.store import Store
from shared.clock import HOUR_US, iso
from shared.errors import StateError
from shared.messages import Acked, Uplink
from shared.packets import Incoming
from tests.unit.edge_harness import START_US, EdgeAtDesk, reading


@pytest.fixture
def desk(tmp_path: Path) -> EdgeAtDesk:
    return EdgeAtDesk(tmp_path / "edge")


def _load_of(desk: EdgeAtDesk, meter: str, hours: int) -> list[float]:
    held = desk.node.site.meters.by_name[meter]
    numbers = START_US // HOUR_US + np.arange(hours)
    window = desk.node.site.window
    return [float(x) for x in window.load_kw[held.row, numbers % window.width]]


def test_each_closed_interval_brings_a_retained_forecast_of_48_hours(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, 1.0 + hour)) for hour in range(3)])
    origins = [forecast["origin"] for forecast in desk.of_topic("forecasts/m1")]
    assert origins == [iso(START_US + hour * HOUR_US) for hour in (1, 2, 3)]
    last = desk.published[-1]
    assert last.retain
    assert last.expiry_s == 48 * 3600
    quantiles = desk.of_topic("forecasts/m1")[-1]["quantiles"]
    assert list(quantiles) == ["0.1", "0.5", "0.9"]
    assert {len(values) for values in quantiles.values()} == {48}


def test_without_a_model_the_rung_and_the_reason_are_named(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(200)])
    forecasts = desk.of_topic("forecasts/m1")
    assert forecasts[0]["rung"] == "flat"
    assert forecasts[-1]["rung"] == "profile_mean"
    assert {forecast["reason"] for forecast in forecasts} == {"no model of this site yet"}
    assert forecasts[-1]["model"] is None


def test_the_commit_comes_before_anything_is_published(desk: EdgeAtDesk) -> None:
    effects = desk.tell(ReadingsArrived((Incoming("metercast/desk/readings/m1", b"{", 1),)))
    assert isinstance(effects[0], Commit)
    assert len(effects) == 2


def test_a_reading_delivered_twice_counts_once(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(0, 1.0)))
    desk.send(("m1", reading(0, 1.0)))
    assert len(desk.rows("readings")) == 1
    assert desk.node.counters["readings", "duplicate"] == 2


def test_a_correction_wins_and_both_are_recorded(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(1, 2.0)))
    desk.send(("m1", reading(0, 5.0)))
    assert [row["value"] for row in desk.rows("readings")] == [1.0, 2.0, 5.0]
    assert _load_of(desk, "m1", 2) == [5.0, 2.0]


def test_a_late_reading_within_lateness_revises_its_interval(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(3, 4.0)))
    assert np.isnan(_load_of(desk, "m1", 4)[1])
    desk.send(("m1", reading(1, 2.0)))
    assert _load_of(desk, "m1", 2) == [1.0, 2.0]


def test_thousands_of_late_readings_in_one_message_are_no_more_work_than_as_many_in_time(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(10)])
    late = [reading(7 + second / 3600, second / 3600, period_s=1) for second in range(2000)]
    began_s = time.process_time()
    desk.send(("m1", late[::-1]), tick=False)
    assert time.process_time() - began_s < 1.0
    assert _load_of(desk, "m1", 10)[7] == pytest.approx(sum(range(2000)) / 2000)


def test_a_correction_that_covers_less_leaves_nothing_of_what_it_corrects(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 4.0, period_s=4 * 3600)))
    assert _load_of(desk, "m1", 4) == [1.0] * 4
    desk.send(("m1", reading(0, 2.0)))
    np.testing.assert_equal(_load_of(desk, "m1", 4), [2.0, np.nan, np.nan, np.nan])


def test_a_reading_beyond_lateness_is_recorded_and_revises_nothing(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, 1.0)) for hour in (0, 2, 20)])
    desk.send(("m1", reading(1, 9.0)))
    assert np.isnan(_load_of(desk, "m1", 2)[1])
    assert desk.rows("readings")[-1]["value"] == 9.0
    assert desk.node.counters["readings", "late"] == 1


def test_a_silent_meter_closes_at_the_end_of_the_interval_plus_grace(desk: EdgeAtDesk) -> None:
    desk.send(("quiet", reading(0, 1.0)), ("loud", reading(0, 1.0)))
    desk.send(("loud", reading(2.05, 1.0, period_s=60)))
    assert len(desk.of_topic("forecasts/quiet")) == 1
    desk.send(("loud", reading(2.1, 1.0, period_s=60)))
    assert [f["origin"] for f in desk.of_topic("forecasts/quiet")][-1] == iso(START_US + 2 * HOUR_US)


def test_a_meter_silent_for_two_weeks_has_its_forecast_cleared(desk: EdgeAtDesk) -> None:
    desk.send(("gone", reading(0, 1.0)), ("here", reading(0, 1.0)))
    desk.send(("here", reading(15 * 24, 1.0)))
    cleared = [p for p in desk.published if p.topic.endswith("forecasts/gone") and not p.payload]
    assert len(cleared) == 1
    assert cleared[0].retain
    assert desk.rows("events")[0]["event"] == "retired"


def test_under_the_event_clock_no_origin_is_skipped_however_large_the_batch(desk: EdgeAtDesk) -> None:
    hours = 24 * 40
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(hours)])
    origins = [forecast["origin"] for forecast in desk.of_topic("forecasts/m1")]
    assert origins == [iso(START_US + hour * HOUR_US) for hour in range(1, hours + 1)]


def test_under_the_wall_clock_only_the_newest_origin_is_forecast(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    wall_us = START_US + 10 * HOUR_US + 60_000_000
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(10)], wall_us=wall_us)
    assert [f["origin"] for f in desk.of_topic("forecasts/m1")] == [iso(START_US + 10 * HOUR_US)]
    assert desk.node.counters["superseded", ""] == 9


def test_before_the_queue_of_an_outage_has_come_no_meter_counts_as_silent(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    desk.send(("m1", reading(0, 1.0)), wall_us=START_US + HOUR_US)
    back_us = START_US + 30 * HOUR_US + 1
    desk.tell(Tick(caught_up=False), back_us)
    desk.send(*[("m1", reading(hour, 2.0)) for hour in range(1, 30)], wall_us=back_us, tick=False)
    desk.tell(Tick(caught_up=False), back_us)
    assert _load_of(desk, "m1", 30) == [1.0] + [2.0] * 29
    assert len(desk.of_topic("forecasts/m1")) == 1
    desk.tell(Tick(caught_up=True), back_us)
    assert desk.of_topic("forecasts/m1")[-1]["origin"] == iso(back_us - 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"ts": ', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (reading(0, 1.0) | {"unit": "kVA"}, "unit 'kVA' is unknown"),
        ({"ts": iso(START_US), "unit": "kW"}, "value is missing"),
        ({"ts": iso(START_US), "value": 1.0}, "unit is missing"),
        (reading(0, 1.0) | {"ts": "1990-01-01T00:00:00Z"}, "older than grid.max_age"),
        (reading(0, 1.0) | {"ts": "2099-01-01T00:00:00Z"}, "further ahead"),
        (reading(0, 1.0) | {"ts": "2026-01-05T00:00:00"}, "has no offset"),
        (b'{"ts": 1, "value": NaN, "unit": "kW"}', "not finite"),
        (b"x" * 300_000, "payload of 300000 bytes"),
    ],
)
def test_what_cannot_be_taken_is_a_dead_letter_with_a_sentence(desk: EdgeAtDesk, content: object, reason: str) -> None:
    desk.send(("m1", reading(0, 1.0)))
    desk.send(("m1", content), ("m1", reading(1, 2.0)))
    (letter,) = desk.dead_letters
    assert reason in letter["reason"]
    assert letter["topic"] == "metercast/desk/readings/m1"
    assert len(letter.get("payload") or letter["payload_b64"]) <= 8192
    assert [row["id"] for row in desk.rows("dead_letters")] == [letter["id"]]
    assert [row["value"] for row in desk.rows("readings")] == [1.0, 2.0]


def test_in_a_list_bad_items_are_dead_letters_and_good_ones_are_kept(desk: EdgeAtDesk) -> None:
    desk.send(("m1", [reading(0, 1.0), {"value": 2}, "x", reading(1, 2.0)]))
    assert [row["value"] for row in desk.rows("readings")] == [1.0, 2.0]
    assert len(desk.dead_letters) == 2
    assert len({letter["id"] for letter in desk.dead_letters}) == 2


def test_a_refused_payload_delivered_again_is_the_same_dead_letter(desk: EdgeAtDesk) -> None:
    desk.send(("m1", b"{"))
    desk.send(("m1", b"{"))
    assert len({letter["id"] for letter in desk.dead_letters}) == 1


def test_a_retained_replay_is_not_a_new_reading(desk: EdgeAtDesk) -> None:
    payload = b'{"ts": "2026-01-05T00:00:00Z", "value": 1, "unit": "kW"}'
    desk.tell(ReadingsArrived((Incoming("metercast/desk/readings/m1", payload, len(payload), retain=True),)))
    assert desk.rows("readings") == []


def test_a_reading_without_ts_takes_its_arrival_time_and_a_quality_flag(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    desk.send(("m1", {"value": 1.0, "unit": "kW"}), wall_us=START_US + 7)
    (row,) = desk.rows("readings")
    assert (row["ts_us"], row["quality"]) == (START_US + 7, "arrival_time")


def test_meters_beyond_the_limit_are_dead_letters(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("edge.max_meters=2",))
    desk.send(*[(f"m{n}", reading(0, 1.0)) for n in range(3)])
    assert "edge.max_meters" in desk.dead_letters[0]["reason"]
    assert desk.node.site.rows == 2


def test_more_meters_than_the_first_rows_hold_are_all_forecast(desk: EdgeAtDesk) -> None:
    desk.send(*[(f"m{n}", reading(0, float(n))) for n in range(200)])
    medians = [desk.of_topic(f"forecasts/m{n}")[0]["quantiles"]["0.5"][0] for n in range(200)]
    assert medians == [float(n) for n in range(200)]


def test_scores_meet_the_forecast_of_each_lead_with_the_truth(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, float(hour % 24))) for hour in range(24 * 9)])
    scores = desk.rows("scores")
    last = [score for score in scores if score["valid_us"] == START_US + (24 * 9 - 1) * HOUR_US]
    assert sorted(score["lead"] for score in last) == [1, 6, 24, 48]
    assert {score["y_kw"] for score in last} == {23.0}
    assert {score["naive_kw"] for score in last} == {23.0}
    assert all(score["low_kw"] <= score["forecast_kw"] <= score["high_kw"] for score in scores)
    keys = [(s["meter_id"], s["valid_us"], s["lead"], s["role"]) for s in scores]
    assert len(keys) == len(set(keys))


def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Killed after any batch, the edge ends with the intervals, scores and forecasts of one that ran through."""
    batches = [[("m1", reading(h, 1 + h % 24)), ("m2", reading(h, 2 + h % 7))] for h in range(24 * 9)]
    through, killed = EdgeAtDesk(tmp_path / "a"), EdgeAtDesk(tmp_path / "b")
    for number, batch in enumerate(batches):
        through.send(*batch)
        killed.send(*batch)
        if number % 13 == 5:
            killed.restart()
    assert _load_of(through, "m1", 216) == _load_of(killed, "m1", 216)
    assert through.rows("scores") == killed.rows("scores")
    assert through.rows("readings") == killed.rows("readings")
    assert through.of_topic("forecasts/m2")[-1] == killed.of_topic("forecasts/m2")[-1]


def test_a_forecast_the_broker_did_not_confirm_is_published_again_after_a_restart(desk: EdgeAtDesk) -> None:
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(5)])
    row = desk.node.site.meters.by_name["m1"].row
    opened = START_US // HOUR_US
    desk.tell(ForecastsConfirmed(((row, opened + 1), (row, opened + 2))))
    desk.send(("m1", reading(5, 1.0)))
    desk.published.clear()
    scores = desk.rows("scores")
    desk.restart()
    desk.tick()
    origins = [forecast["origin"] for forecast in desk.of_topic("forecasts/m1")]
    assert origins == [iso(START_US + hour * HOUR_US) for hour in (3, 4, 5, 6)]
    assert desk.rows("scores") == scores


def _ack(
    desk: EdgeAtDesk, epoch: str, seq: int, missing: tuple[tuple[int, int], ...] = (), at_us: int = START_US
) -> None:
    desk.node.uplink.due(0.0, window=100, resend_after_s=60.0)  # what waits has been sent
    acked = Acked(epoch=epoch, seq=seq, missing=list(missing), at=iso(at_us))
    desk.tell(AckedArrived("metercast/desk/uplink/acked", acked.encode()))


def test_what_central_has_leaves_the_outbox(desk: EdgeAtDesk) -> None:
    for hour in range(3):
        desk.send(("m1", reading(hour, 1.0)))
    waiting = [seq for seq, _size in desk.store.outbox_index()]
    _ack(desk, desk.node.uplink.epoch, waiting[1])
    assert [seq for seq, _size in desk.store.outbox_index()] == waiting[2:]


@pytest.mark.parametrize("case", ["central is ahead", "central wants what was dropped"])
def test_a_ledger_that_has_parted_from_centrals_goes_on_under_a_new_epoch_and_loses_nothing(
    desk: EdgeAtDesk, case: str
) -> None:
    for hour in range(6):
        desk.send(("m1", reading(hour, 1.0)))
    old = desk.node.uplink.epoch
    _ack(desk, old, 2)
    rows = desk.rows("readings")
    if case == "central is ahead":
        _ack(desk, old, 999)
    else:
        _ack(desk, old, 0, missing=((1, 2),), at_us=START_US + 1)
    desk.restart()
    assert desk.node.uplink.epoch != old
    assert desk.rows("readings") == rows
    batches = [Uplink.decompress(desk.store.outbox_body(seq) or b"", "x") for seq, _ in desk.store.outbox_index()]
    assert [(batch.epoch, batch.seq) for batch in batches] == [
        (desk.node.uplink.epoch, number) for number in range(1, len(batches) + 1)
    ]
    desk.send(("m1", reading(6, 1.0)))
    assert desk.store.outbox_index()[-1][0] == desk.node.uplink.next_seq - 1


def test_readings_without_ts_in_one_batch_are_each_kept_and_a_redelivered_packet_is_not(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    packets = [(mid, b'{"value": %d, "unit": "kW"}' % value) for mid, value in ((1, 5), (2, 5), (3, 6))]
    topic = "metercast/desk/readings/m1"

    def deliver(dup: bool) -> None:
        batch = tuple(Incoming(topic, body, len(body), mid=mid, dup=dup) for mid, body in packets)
        desk.tell(ReadingsArrived(batch), START_US)

    deliver(dup=False)
    assert [row["value"] for row in desk.rows("readings")] == [5, 5, 6]
    desk.restart()  # killed between the commit and the acknowledgement
    deliver(dup=True)
    assert [row["value"] for row in desk.rows("readings")] == [5, 5, 6]
    deliver(dup=False)  # the packet ids come around again
    assert len({row["ts_us"] for row in desk.rows("readings")}) == 6


def test_a_redelivered_list_of_which_only_some_readings_have_ts_counts_once(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    body = json.dumps([reading(-1, 5.0), {"value": 6.0, "unit": "kW"}]).encode()
    for dup in (False, True):
        message = Incoming("metercast/desk/readings/m1", body, len(body), mid=7, dup=dup)
        desk.tell(ReadingsArrived((message,)), START_US + dup * 1_000_000)
    assert [row["value"] for row in desk.rows("readings")] == [5.0, 6.0]


def test_a_register_read_every_few_hours_fills_the_hours_between_as_training_does(tmp_path: Path) -> None:
    desk = EdgeAtDesk(tmp_path / "edge", settings=("clock=wall",))
    for hour in range(0, 13, 3):
        now_us = START_US + hour * HOUR_US + 600_000_000
        counter = {"ts": iso(START_US + hour * HOUR_US), "value": 100.0 + hour, "unit": "kWh", "kind": "register"}
        desk.send(("m1", counter), wall_us=now_us)
    assert _load_of(desk, "m1", 12) == [1.0] * 12
    desk.restart()
    assert _load_of(desk, "m1", 12) == [1.0] * 12


@pytest.mark.parametrize("ts", [1e15, -1e15, "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00"])
def test_an_absurd_instant_is_a_dead_letter_and_the_edge_lives(desk: EdgeAtDesk, ts: object) -> None:
    desk.send(("m1", reading(0, 1.0, ts=ts)))
    desk.send(("m1", reading(0, 1.0)), ("m1", reading(1, 1.0, ts=ts)))
    assert len(desk.dead_letters) == 2
    assert len(desk.rows("readings")) == 1


def test_the_first_reading_cannot_begin_the_event_clock_far_in_the_future(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0, ts="2099-01-01T00:00:00Z")), ("m1", reading(0, 1.0)))
    assert "ten years ahead" in desk.dead_letters[0]["reason"]
    assert len(desk.rows("readings")) == 1


def test_a_long_list_of_refused_readings_is_answered_with_few_letters_that_count_them_all(desk: EdgeAtDesk) -> None:
    desk.send(("m1", reading(0, 1.0)))
    desk.send(("m1", [reading(0, 1.0, ts=f"{1971 + n % 30}-01-01T00:00:{n // 30:02}Z") for n in range(500)]))
    assert sum(letter["count"] for letter in desk.dead_letters) == 500
    assert len(desk.dead_letters) <= 21
    assert max(len(letter["payload"]) for letter in desk.dead_letters) < 200


def test_another_site_or_step_over_an_old_state_is_refused_by_name_and_another_horizon_goes_on(
    desk: EdgeAtDesk,
) -> None:
    desk.send(*[("m1", reading(hour, 1.0)) for hour in range(30)])
    desk.store.close()
    for setting, key in (
        ("site=other", "site desk, not other"),
        ("grid.step=30min", "grid.step in seconds 3600, not 1800"),
    ):
        with pytest.raises(StateError, match=key):
            EdgeAtDesk(desk.folder, settings=(setting,))
    shorter = EdgeAtDesk(desk.folder, settings=("forecast.horizon=24h",))
    shorter.send(("m1", reading(30, 1.0)))
    assert len(shorter.of_topic("forecasts/m1")[-1]["quantiles"]["0.5"]) == 24


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff", b'{"schema": 1}'])
def test_an_ack_that_cannot_be_read_is_a_dead_letter_too(desk: EdgeAtDesk, payload: bytes) -> None:
    desk.tell(AckedArrived("metercast/desk/uplink/acked", payload))
    assert [letter["topic"] for letter in desk.dead_letters] == ["metercast/desk/uplink/acked"]
    assert len(desk.rows("dead_letters")) == 1


def test_a_second_edge_on_the_same_folder_is_refused_in_a_sentence(desk: EdgeAtDesk) -> None:
    with pytest.raises(StateError, match="in use by another edge"):
        Store(desk.folder, iso(START_US))


JUNK = st.fixed_dictionaries(
    {},
    optional={
        "ts": st.none() | st.integers() | st.floats() | st.datetimes().map(str) | st.text(max_size=8),
        "value": st.none() | st.integers() | st.floats() | st.text(max_size=3),
        "unit": st.sampled_from(["kW", "Wh", "kWh", "x", 1]),
        "kind": st.sampled_from(["power", "energy", "register", "x", None]),
        "period_s": st.none() | st.floats() | st.integers(-1, 90_000),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(JUNK | st.lists(JUNK, max_size=3) | st.binary(max_size=12), max_size=6))
def test_invariant_6_whatever_meters_send_the_node_answers_and_lives(
    tmp_path_factory: pytest.TempPathFactory, contents: list[object]
) -> None:
    desk = EdgeAtDesk(tmp_path_factory.mktemp("junk") / "edge")
    desk.send(*[(f"m{n % 2}", content) for n, content in enumerate(contents)])
    desk.store.close()


MINUTES = st.integers(0, 40).map(lambda quarter: quarter * 15)
STREAMS = st.lists(st.tuples(MINUTES, st.integers(0, 30)), unique_by=lambda row: row[0], max_size=20)


def _of_kind(kind: str, minute: int, value: int) -> dict[str, object]:
    ts = iso(START_US + minute * 60_000_000)
    match kind:
        case "power":
            return {"ts": ts, "value": value, "unit": "kW"}
        case "register":
            return {"ts": ts, "value": value, "unit": "kWh", "kind": "register"}
        case _:
            return {"ts": ts, "value": value, "unit": "kWh", "kind": "energy", "period_s": 900 * (1 + value % 8)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["power", "energy", "register"]), STREAMS, st.randoms(use_true_random=False), st.integers(1, 7))
def test_invariant_2_any_order_repetition_and_batching_within_lateness_gives_the_same_intervals(
    tmp_path_factory: pytest.TempPathFactory, kind: str, clean: list[tuple[int, int]], random: Random, size: int
) -> None:
    folder = tmp_path_factory.mktemp("edge")
    shuffled = clean + clean[: len(clean) // 2]
    random.shuffle(shuffled)
    loads = []
    for name, middle in (("clean", sorted(clean)), ("shuffled", shuffled)):
        desk = EdgeAtDesk(folder / name, settings=("grid.lateness=48h",))
        stream = [(-60, 1), *middle, (15 * 60, 31)]
        for start in range(0, len(stream), size):
            desk.send(*[("m1", _of_kind(kind, *row)) for row in stream[start : start + size]])
        loads.append(_load_of(desk, "m1", 14))
        rows = {(r["meter_id"], r["ts_us"], r["value"], r["quality"]) for r in desk.rows("readings")}
        assert len(rows) == len(clean) + 2
        desk.restart()
        assert np.array_equal(_load_of(desk, "m1", 14), loads[-1], equal_nan=True)
        desk.store.close()
    np.testing.assert_array_equal(loads[0], loads[1])


def test_what_has_not_happened_yet_is_counted_as_zero_so_that_a_first_time_is_a_rise(desk: EdgeAtDesk) -> None:
    told = {sample.name: sample.value for sample in samples(desk.node)}
    names = ("dead_letters", "commits_failed", "gaps", "epochs_renewed", "forecasts_superseded")
    assert {told[f"metercast_{name}"] for name in names} == {0.0}
