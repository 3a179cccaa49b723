"""The rig: meters, broker, a network that can fail, an edge, another network, central; and the account of what is owed.

Invariant: owed is every publication the broker acknowledged, except that a killed broker may have forgotten those it
had acknowledged before: of them, owed is what the edge acknowledged through its proxy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from central.bootstrap import open_record
from shared import params_file
from shared.clock import to_us, wall_now
from shared.mqtt import Connection, Delivery
from shared.params import MqttParams
from shared.topics import SiteTopics
from tests.faults import intervals
from tests.faults.broker import shipped
from tests.faults.checker import Letter, Verdict, check, differing
from tests.faults.meters import Publication, Reading
from tests.faults.proxy import Proxy
from tests.mosquitto import HOST, SHIPPED, Broker
from tests.processes import CentralProcess, EdgeProcess
from tests.waiting import PATIENCE_S, all_pass, wait_for

CENTRAL_ID: Final = "metercast-central"
DRAIN_WITHIN_S: Final = 300.0
MICROSECOND: Final = timedelta(microseconds=1)


class Stage:
    """A broker and a central, reached through a network of its own; sites come and go on it.

    `bridged`: central has a broker of its own, to which the edge's broker is bridged through that network.
    """

    def __init__(self, folder: Path, *, bridged: bool = False) -> None:
        self.folder = folder
        self.broker = Broker(folder / "mosquitto", shipped())
        self._upper = Broker(folder / "mosquitto-central", shipped()) if bridged else None
        self.to_central = Proxy((self._upper or self.broker).port)
        central_port = self._upper.port if self._upper else self.to_central.port
        self.central = CentralProcess(folder / "central", central_port)

    def start(self, site: str) -> None:
        """Start everything; `site` is who the bridge is for, where there is one."""
        if self._upper is not None:
            self._upper.start()
            self.broker.configuration = shipped(_bridge(site, self.to_central.port))
        self.central.spawn()
        self.broker.start()
        central_broker = self._upper or self.broker
        wait_for(lambda: central_broker.subscriptions(CENTRAL_ID) > 0, "central to subscribe", self.central.log)

    def stop(self) -> None:
        """End everything."""
        self.central.kill()
        self.to_central.stop()
        for broker in (self.broker, self._upper):
            if broker is not None:
                broker.kill()


def _bridge(site: str, port: int) -> str:
    text = (SHIPPED / "bridge.conf").read_text().replace("restart_timeout 2 60", "restart_timeout 1 1")
    names = {"@SITE@": site, "@CENTRAL_MQTT_HOST@": HOST, "@CENTRAL_MQTT_PORT@": str(port)}
    for name, value in names.items():
        text = text.replace(name, value)
    return f"\n{text}"


@dataclass(slots=True)
class Sent:
    """One message a meter handed to its client; `at_risk` once a broker that had taken it was killed."""

    publication: Publication
    delivery: Delivery
    at_risk: bool = False


@dataclass(slots=True)
class Record:
    """What an export holds of a site.

    Rows of the table that repeat a reading are folded by every reader. Of a reading within the lateness there must be
    none; an older one that comes again is no longer known to the edge.
    """

    readings: list[Reading]
    letters: list[Letter]
    repeats: int
    late_repeats: int


class Rig:
    """One site on a stage: its meters' client, its edge behind a proxy, and an ear for what the edge says."""

    def __init__(self, stage: Stage, site: str, *settings: str, skewed: bool = False) -> None:
        self.stage, self.site = stage, site
        self.folder = stage.folder / site
        self.topics = SiteTopics("metercast", site)
        self.proxy = Proxy(stage.broker.port)
        self.clock = self.folder / "clock-is-off-by-s" if skewed else None
        self.settings = ("clock=event", "uplink.resend_after=2s", *settings)
        connection = (f"site={site}", f"mqtt.host={HOST}", f"mqtt.port={self.proxy.port}")
        self._params = params_file.load(overrides=[f"site={site}", *self.settings])
        self.edge = EdgeProcess(self.folder, (*connection, *self.settings), self.clock)
        direct = MqttParams(host=HOST, port=stage.broker.port)
        heard = [self.topics.status, self.topics.forecast("+"), "$SYS/broker/publish/messages/dropped"]
        self.meters = Connection(direct, client_id=f"meters-{site}")
        self._ear = Connection(direct, client_id=f"ear-{site}", filters=heard, lasting=False)
        self.sent: list[Sent] = []
        self.kills = 0
        self.notes: list[str] = []
        self.expected: list[str] = []  # what a scenario expected and did not find
        self._said: dict[str, list[bytes]] = {}

    def start(self) -> None:
        """Connect the meters and start the edge."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.clock is not None:
            self.clock.write_text("0")
        self.meters.start()
        self._ear.start()
        self.edge.start()
        self.wait_edge_subscribed(0)

    def stop(self) -> None:
        """End what this site has running."""
        self.proxy.stop()
        self.edge.kill()
        for connection in (self.meters, self._ear):
            connection.stop()

    # -- meters --------------------------------------------------------------------------------------------------

    def publish(self, publications: Iterable[Publication]) -> None:
        """Hand messages to the meters' client, which sends them at QoS 1."""
        for one in publications:
            while (delivery := self._hand_over(one)).refused:
                time.sleep(0.01)
            self.sent.append(Sent(one, delivery))

    def publish_all(self, publications: Iterable[Publication]) -> None:
        """The same, and wait until the broker has them."""
        first = len(self.sent)
        self.publish(publications)
        self._wait_taken(first)

    def _hand_over(self, one: Publication) -> Delivery:
        return self.meters.publish(self.topics.reading(one.meter), one.payload)

    def _wait_taken(self, first: int) -> None:
        taken = all_pass(self.sent[first:], lambda sent: sent.delivery.done)
        wait_for(taken, "the broker to take the meters' messages", within_s=DRAIN_WITHIN_S)

    def owed(self) -> list[Publication]:
        """What must be in the record or among the dead letters."""
        acked = self.proxy.acked
        return [
            sent.publication
            for sent in self.sent
            if sent.delivery.done and (not sent.at_risk or self._key(sent.publication) in acked)
        ]

    def forgotten(self, record: Record) -> int:
        """Messages with readings that a killed broker took and nobody recorded."""
        held = set(record.readings)
        return sum(sent.at_risk and not held.issuperset(sent.publication.readings) for sent in self.sent)

    def _key(self, one: Publication) -> tuple[str, bytes]:
        return self.topics.reading(one.meter), one.payload

    # -- faults --------------------------------------------------------------------------------------------------

    def kill_edge(self) -> None:
        """Kill -9; whoever calls starts it again."""
        self.edge.kill()
        self.kills += 1

    def kill_broker(self) -> None:
        """Kill -9 of Mosquitto and a start; returns when meters, edge and central are back on it.

        Also what was under way to the broker is at risk: it comes again before the edge has subscribed again.
        """
        broker = self.stage.broker
        subscribed = {name: broker.subscriptions(name) for name in (self._edge_id, CENTRAL_ID)}
        connects = self.meters.connects
        broker.kill()
        self.kills += 1
        for sent in self.sent:
            sent.at_risk = True
        broker.start()
        for name, times in subscribed.items():
            wait_for(lambda n=name, t=times: broker.subscriptions(n) > t, f"{name} to be back", self.edge.log)  # type: ignore[misc]
        wait_for(lambda: self.meters.connects > connects and self.meters.connected, "the meters to be back")

    @property
    def _edge_id(self) -> str:
        return f"metercast-edge-{self.site}"

    def wait_edge_subscribed(self, times: int) -> None:
        """Wait until the edge has subscribed more often than so."""
        broker = self.stage.broker
        wait_for(lambda: broker.subscriptions(self._edge_id) > times, "the edge to subscribe", self.edge.log)

    # -- what is said --------------------------------------------------------------------------------------------

    def said(self, topic: str) -> list[bytes]:
        """Everything a topic said so far."""
        for message in self._ear.receive(1_000_000, 0.0):
            self._ear.acknowledge([message])
            self._said.setdefault(message.topic, []).append(message.payload)
        return self._said.get(topic, [])

    def statuses(self) -> list[dict[str, Any]]:
        """Every status the edge published."""
        return [json.loads(body) for body in self.said(self.topics.status) if body]

    def state(self) -> str:
        """The state the edge published last, or nothing."""
        statuses = self.statuses()
        return str(statuses[-1]["state"]) if statuses else ""

    def newest_origin(self, meter: str) -> str:
        """The origin of a meter's latest forecast, or nothing."""
        bodies = self.said(self.topics.forecast(meter))
        return str(json.loads(bodies[-1])["origin"]) if bodies and bodies[-1] else ""

    def dropped_by_broker(self) -> int:
        """What the broker counts as dropped (for all its clients)."""
        bodies = self.said("$SYS/broker/publish/messages/dropped")
        return int(bodies[-1]) if bodies else 0

    def expect(self, condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Wait for what the edge must do; what it does not do in time is held against it, and the run goes on."""
        try:
            wait_for(condition, what, within_s=within_s)
        except AssertionError:
            self.expected.append(what)

    @contextmanager
    def no_acks(self, what: str) -> Iterator[None]:
        """Hold it against the edge when it acknowledges anything that is published meanwhile.

        Of what came before, an acknowledgement may be on its way yet.
        """
        first = len(self.sent)
        yield
        early = self.proxy.acked.intersection(self._key(sent.publication) for sent in self.sent[first:])
        if early:
            self.expected.append(f"no acknowledgement {what}; there were {len(early)}")

    # -- the end -------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Wait until the edge has acknowledged everything owed, and central has it in the record."""
        self.wait_acknowledged()
        recorded = "central to record the rest"
        wait_for(lambda: self.edge.metric("metercast_outbox_batches") == 0.0, recorded, self.edge.log, every_s=0.1)

    def wait_acknowledged(self) -> None:
        """Wait until the edge has acknowledged everything owed."""
        self._wait_taken(0)
        acknowledged = all_pass(map(self._key, self.owed()), self.proxy.acked.__contains__)
        wait_for(acknowledged, "the edge to acknowledge the rest", self.edge.log, DRAIN_WITHIN_S)

    def record(self) -> Record:
        """What `central export` would write of this site, by the same reads in this process, and what those fold."""
        work = self.stage.central.folder
        table = open_record(params_file.load(overrides=[f"central.work_dir={work}"]))
        rows = table.readings(site=self.site)
        columns = (rows["meter_id"], rows["ts"].cast(pa.int64()), rows["value"])
        found = [Reading(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
        letters = [Letter.of(row) for row in table.dead_letters(site=self.site).to_pylist()]
        ages_us = list(self._ages_of_repeats(f"{work}/record/readings"))
        late = sum(age_us > self._params.grid.lateness / MICROSECOND for age_us in ages_us)
        return Record(found, letters, len(ages_us) - late, late)

    def _ages_of_repeats(self, uri: str) -> Iterator[int]:
        """How old each reading was that is in a row of the table again, in µs."""
        names = ["meter_id", "ts", "received_at"]
        rows = DeltaTable(uri).to_pyarrow_dataset().to_table(columns=names, filter=pc.field("site") == self.site)
        instants = [rows[name].cast(pa.int64()).to_pylist() for name in names[1:]]
        seen: set[tuple[str, int]] = set()
        in_order = sorted(zip(rows["meter_id"].to_pylist(), *instants, strict=True), key=lambda row: row[2])
        for meter, ts_us, received_us in in_order:
            if (meter, ts_us) in seen:
                yield received_us - ts_us
            seen.add((meter, ts_us))

    def judge(self, welcome: Sequence[str]) -> tuple[Verdict, Record]:
        """Drain, stop the edge and check everything; the intervals of the meters `welcome` against a clean run."""
        self.drain()
        if self.edge.stop() != 0:
            self.expected.append("a clean end of the edge")
        record = self.record()
        published = [sent.publication for sent in self.sent]
        verdict = check(
            self.owed(),
            published,
            record.readings,
            record.letters,
            readings_topic=self.topics.reading(""),
            welcome=welcome,
        )
        if record.repeats:
            verdict.doubled.append(f"{record.repeats} readings have another row in the table")
        verdict.differing += self._differing(record, published, welcome)
        verdict.broken += self.expected
        return verdict, record

    def _differing(self, record: Record, published: list[Publication], compared: Sequence[str]) -> list[str]:
        """Compare with a fresh edge that got, once and in order, what is in the record."""
        recorded = set(record.readings)
        chosen = set(compared)
        same = [one for one in published if one.meter in chosen and one.readings and recorded.issuperset(one.readings)]
        params = self._params
        wall_us = to_us(wall_now())
        ours = intervals.held_by(self.edge.state, self.folder / "copy", params, compared, wall_us)
        clean = intervals.delivered_cleanly(self.folder / "clean", params, same, compared, wall_us)
        return differing(ours, clean)
