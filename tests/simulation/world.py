"""The simulated world: meters, brokers, edges and a central side, and all that goes wrong between them.

Everything follows from one seed: every choice is drawn from one `random.Random`, time is virtual, and nothing sleeps or
leaves the process. Which faults a seed knows is drawn first, so that each is also met without the others.
"""

from __future__ import annotations

import heapq
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final
from unittest.mock import patch

from edge.siteclock import BELIEVED_AFTER_US
from shared.clock import DAY_US, HOUR_US, SECOND_US, iso, parse_instant_us
from shared.errors import StateError
from shared.memory import MemoryBroker, MemoryConnection
from shared.mqtt import Incoming
from shared.topics import SiteTopics
from tests.simulation.central_shell import CentralProcess, ModelRecord
from tests.simulation.central_shell import Moment as CentralMoment
from tests.simulation.checks import Books, LedgerBooks, Violation, check_reader_rule, check_scored_once, require
from tests.simulation.edge_shell import Clock, Disk, EdgeProcess, Moment
from tests.simulation.judge import check_always_a_forecast, check_intervals
from tests.simulation.meters import MINUTE_US, Sent, SimMeter
from tests.simulation.site import Site, params_of

START_US: Final = parse_instant_us("2026-01-05T00:00:00Z")
ROOT: Final = "metercast"
STEPS: Final = (25, 50, 90)
IMAGE_AGED_US: Final = 2 * HOUR_US  # longer than any answer of central's is under way (ADR 7)
FAULTS: Final = (
    "edge crashes",
    "disk wiped",
    "disk image restored",
    "disk full",
    "outbox full",
    "edge cut off",
    "bridge cut",
    "bridge loses",
    "bridge repeats",
    "bridge delays",
    "central crashes",
    "record restored",
    "broker killed",
    "clock jumps",
    "clock leaps a year",
    "garbage",
    "corrections",
    "duplicates",
    "late readings",
    "readings without ts",
    "retained readings",
    "ancient and future readings",
)


@contextmanager
def chance_of_ids(chance: Random) -> Iterator[None]:
    """Ids that the edge draws for itself follow from the seed too."""
    with patch.object(secrets, "token_hex", lambda count=8: chance.randbytes(count).hex()):
        yield


class World:
    """One seed's world; `run` goes through it and raises Violation where an invariant does not hold."""

    def __init__(
        self, seed: int, folder: Path, say: Callable[[str], None] | None = None, *, without: Collection[str] = ()
    ) -> None:
        self.chance = Random(seed)
        self.now_us = START_US + self.chance.randrange(24) * HOUR_US + self.chance.randrange(HOUR_US)
        self.number = 0
        self.calm = False
        self._folder = folder
        self._say = say
        self._under_way = 0  # messages of meters that no broker has yet
        self._air: list[tuple[int, int, Callable[[], None]]] = []
        self._landing: dict[str, int] = {}
        share = self.chance.choice((0.15, 0.4, 0.7))
        self.faults = {fault for fault in FAULTS if self.chance.random() < share and fault not in without}
        self.ledger = LedgerBooks()
        self.broker = MemoryBroker()
        self.record = ModelRecord()
        self.records: list[ModelRecord] = []
        self.central: CentralProcess | None = None
        self.central_turn: Iterator[CentralMoment] | None = None
        self._seen = 0
        self.sites = [self._site(number) for number in range(self.chance.choice((1, 1, 1, 2, 3)))]

    def _site(self, number: int) -> Site:
        name = f"site{number}"
        params = params_of(name, self.chance.choice(("wall", "event")), self.chance.choice(("1h", "1h", "15min")))
        if "outbox full" in self.faults:
            small = params.outbox.model_copy(update={"max_bytes": 4000})
            params = params.model_copy(update={"outbox": small})
        grid = params.grid
        reach = max(grid.hold, grid.max_gap) + 2 * grid.step
        meters = [SimMeter.any(f"m{n}", self.chance, self.now_us) for n in range(self.chance.choice((1, 2, 3)))]
        site = Site(
            params,
            Disk(self._folder / name),
            MemoryBroker(highest_mid=60),
            Clock(self.now_us),
            Books(
                topics=SiteTopics(ROOT, name),
                lateness_us=round(grid.lateness.total_seconds() * 1e6),
                reach_us=round(reach.total_seconds() * 1e6),
            ),
            meters,
        )
        self.say(f"{name}: clock {params.clock}, step {params.step_s} s, {[f'{m.name} {m.kind}' for m in meters]}")
        return site

    def say(self, text: str) -> None:
        """Tell the event log."""
        if self._say is not None:
            self._say(f"{iso(self.now_us // SECOND_US * SECOND_US)} {text}")

    def happens(self, fault: str, share: float) -> bool:
        """Whether a fault this seed knows happens now."""
        return not self.calm and fault in self.faults and self.chance.random() < share

    # -- the course of things --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Live through some of STEPS of trouble, then let all come to rest, and judge."""
        with chance_of_ids(self.chance):
            self.say(f"faults: {', '.join(sorted(self.faults))}")
            for _ in range(self.chance.choice(STEPS)):
                self.step()
            self.come_to_rest()
            self.judge()

    def step(self) -> None:
        """Time passes, meters send, something goes wrong, both sides work."""
        self.advance(self.chance.choice((1, 5, 30, 120, 600, 900, 1800)) * SECOND_US)
        for site in self.sites:
            self.send(site)
        self.land()
        for site in self.sites:
            self.trouble(site)
            self.work(site)
            self.bridge(site)
        self.trouble_central()
        self.work_central()

    def advance(self, time_us: int) -> None:
        """Let virtual time pass."""
        self.now_us += time_us
        for site in self.sites:
            if site.process is not None and (site.turn is None or site.process.stuck):
                site.process.let_pass(self.now_us + site.offset_us)
            site.clock.wall_us = self.now_us + site.offset_us
            site.clock.monotonic_s += time_us / SECOND_US

    def fly(self, channel: str, land: Callable[[], None], *, delay_us: int, ordered: bool) -> None:
        """Something is in the air and lands after a while; on an ordered channel not before what flew earlier."""
        due_us = self.now_us + delay_us
        if ordered:
            due_us = self._landing[channel] = max(due_us, self._landing.get(channel, 0))
        self.number += 1
        heapq.heappush(self._air, (due_us, self.number, land))

    def land(self) -> None:
        """All that is due arrives."""
        while self._air and self._air[0][0] <= self.now_us:
            heapq.heappop(self._air)[2]()

    # -- meters ----------------------------------------------------------------------------------------------------

    def send(self, site: Site) -> None:
        """Some of a site's meters send something."""
        for meter in site.meters:
            if self.chance.random() < 0.5:
                for sent in self._messages(site, meter):
                    self._publish(site, sent)

    def _messages(self, site: Site, meter: SimMeter) -> list[Sent]:
        lateness_us = site.books.lateness_us
        self.number += 1000
        now_us, number = self.now_us, self.number
        sent = meter.fresh(now_us, number)
        if not meter.sent:
            return sent
        if self.happens("late readings", 0.15):
            sent += meter.late(now_us, number + 900, lateness_us)
        if self.happens("corrections", 0.1):
            sent += meter.correction(now_us, number + 901, lateness_us)
        if self.happens("duplicates", 0.2):
            sent += meter.again()
        if self.happens("readings without ts", 0.1) and meter.kind == "power":
            sent += meter.untimed(number + 902)
        if self.happens("retained readings", 0.05) and meter.kind == "power":
            sent += meter.retained(now_us, number + 903)
        if self.happens("ancient and future readings", 0.05):
            sent += meter.ancient_or_ahead(now_us, number + 904)
        if self.happens("garbage", 0.15):
            sent += meter.garbage(number + 905)
        return sent

    def _publish(self, site: Site, sent: Sent) -> None:
        """A meter sends at QoS 1: until the broker has it, it tries; sometimes the broker has it twice."""
        channel = f"{site.name}/{sent.meter}"
        delay_us = self.chance.choice((0, 0, 0, 20, 400)) * SECOND_US
        self._under_way += 1
        self.fly(channel, lambda: self._arrive(site, sent), delay_us=delay_us, ordered=True)
        if sent.timed and self.happens("duplicates", 0.1):
            self._under_way += 1
            self.fly(channel, lambda: self._arrive(site, sent), delay_us=delay_us + 60 * SECOND_US, ordered=False)

    def _arrive(self, site: Site, sent: Sent) -> None:
        if not site.broker.up:
            self.fly(f"{site.name}/{sent.meter}", lambda: self._arrive(site, sent), delay_us=MINUTE_US, ordered=True)
            return
        self._under_way -= 1
        topic = site.books.topics.reading(sent.meter)
        session = site.broker.sessions.get(f"metercast-edge-{site.name}")
        site.books.take(sent, owed=session is not None and session.wants(topic))
        site.broker.publish(topic, sent.payload, retain=sent.retain)
        self.say(f"{site.name}: {sent.meter} sent {sent.payload[:90]!r}{' retained' * sent.retain}")

    # -- trouble ---------------------------------------------------------------------------------------------------

    def trouble(self, site: Site) -> None:
        """What goes wrong at a site, and what mends itself."""
        if self.happens("disk image restored", 0.05) and site.process is not None:
            site.images.append((self.now_us, site.process.disk.image()))
            self.say(f"{site.name}: an image of the disk is taken")
        old = [image for taken_us, image in site.images if taken_us < self.now_us - IMAGE_AGED_US]
        if self.happens("disk image restored", 0.02) and old:
            self._lose_disk(site, old[self.chance.randrange(len(old))])
        if self.happens("disk wiped", 0.01):
            self._lose_disk(site, None)
        if self.happens("broker killed", 0.03):
            self._kill_broker(site)
        if self.happens("broker killed", 0.1):
            site.broker.save()
        self._toggle(site)

    def _toggle(self, site: Site) -> None:
        if self.happens("disk full", 0.3 if site.disk_full else 0.04):
            self._fill(site, full=not site.disk_full)
        if self.happens("edge cut off", 0.4 if not site.on_net else 0.05):
            site.on_net = not site.on_net
            self.say(f"{site.name}: edge {'back on the net' if site.on_net else 'cut off'}")
            if not site.on_net and site.process is not None:
                site.process.connection.cut()
        if self.happens("bridge cut", 0.25 if not site.bridged else 0.05):
            site.bridged = not site.bridged
            self.say(f"{site.name}: bridge {'back' if site.bridged else 'cut'}")
        if site.offset_us and self.chance.random() < 0.3:
            self._jump(site, 0)
        if self.happens("clock jumps", 0.03) and not site.offset_us:
            self._jump(site, self.chance.choice((-90, -10, 10, 90)) * MINUTE_US)

        if self.happens("clock leaps a year", 0.02) and not site.offset_us:
            site.leapt = True
            self._jump(site, self.chance.choice((-365, 365)) * DAY_US)

    def _jump(self, site: Site, offset_us: int) -> None:
        site.offset_us = offset_us
        site.jumped = site.jumped or offset_us != 0
        site.clock.wall_us = self.now_us + offset_us
        if site.process is not None:
            site.process.hear_clock()
        self.say(f"{site.name}: the wall clock is {offset_us / 60e6:+.0f} min off")

    def _fill(self, site: Site, *, full: bool) -> None:
        site.disk_full = full
        self.say(f"{site.name}: the disk {'is full' if full else 'has room'}")
        if site.process is not None:
            if full:
                site.process.fill_disk()
            else:
                site.process.make_room()

    def _lose_disk(self, site: Site, image: Path | None) -> None:
        if site.process is not None:
            self._end(site)
        if image is None:
            site.disk.wipe()
        else:
            site.disk.restore(image)
            self._forget_uplink(site)
        site.bereft = True
        site.inherited = {topic: kept.payload for topic, kept in site.broker.retained.items()}
        self.say(f"{site.name}: the disk is {'wiped' if image is None else f'restored from {image.name}'}")

    def _forget_uplink(self, site: Site) -> None:
        """An image is of last week: what the life before had under way then has long come to its end."""
        site.lives += 1
        topic = site.books.topics.uplink
        for broker in (site.broker, self.broker):
            for session in broker.sessions.values():
                session.queue = deque(message for message in session.queue if message.topic != topic)
                for mid in [mid for mid, message in session.unacknowledged.items() if message.topic == topic]:
                    del session.unacknowledged[mid]
        self._end_central()
        self.ledger.life_ended(site.name)

    def _kill_broker(self, site: Site) -> None:
        site.broker.kill()
        site.broker.start()
        site.broker_forgot = True
        if not site.bereft:
            site.books.forgive_lost_queue(site.waiting_at_broker())
        self.say(f"{site.name}: the broker was killed and is back")

    def _crash(self, site: Site, *, torn_to: int | None = None) -> None:
        self.say(f"{site.name}: the edge crashes{'' if torn_to is None else ' amid its commit'}")
        site.disk.crash(torn_to=torn_to)
        self._end(site)

    def _end(self, site: Site) -> None:
        if site.process is not None:
            site.process.kill()
            shutil.rmtree(site.process.folder)
        site.process = site.turn = None

    # -- the edge --------------------------------------------------------------------------------------------------

    def work(self, site: Site) -> None:
        """An edge lives on: it starts, comes back onto the net, and goes on with its turn."""
        if site.process is None and site.on_net and site.broker.up and (self.calm or self.chance.random() < 0.5):
            self._boot(site)
        process = site.process
        if process is None:
            return
        if site.on_net and site.broker.up and not process.connection.connected:
            process.connection.start()
        if site.turn is None:
            site.turn = process.turn(self.chance.choice((1, 3, 10, 30)))
        for moment in site.turn:
            if not self._goes_on(site, process, moment):
                return
        site.turn = None

    def _boot(self, site: Site) -> None:
        try:
            instance = self.chance.randbytes(4).hex()
            process = EdgeProcess(site.params, site.disk, site.broker, site.clock, instance=instance)
            if site.disk_full:
                process.fill_disk()
        except StateError as error:
            require(site.disk_full, f"{site.name} does not start: {error}")
            return
        site.process = process
        site.misled = site.misled or abs(site.offset_us) >= DAY_US
        site.books.look_afresh(process)
        if site.bereft:
            site.bereft = False
            site.books.disaster(site.waiting_at_broker())
            site.comparable_from_us = self.now_us + 2 * HOUR_US + site.books.reach_us
        site.books.check_nothing_lost(site.waiting_at_broker)
        self.say(f"{site.name}: the edge starts, epoch {process.epoch}, outbox {process.outbox()}")
        left = site.broker.retained.get(site.books.topics.status)
        site.turn = process.begin(left.payload if left else b"")

    def _goes_on(self, site: Site, process: EdgeProcess, moment: Moment) -> bool:
        """Look at what an edge just did, and draw whether it goes on now, later or never."""
        crashes = self.happens("edge crashes", 0.012)
        if crashes and moment is Moment.COMMITTED and process.torn_from is not None and self.chance.random() < 0.5:
            self._crash(site, torn_to=process.torn_point(self.chance))
            return False
        self._look_at_disk(site, process, moment)
        if self._say is not None and moment is not Moment.HANDLED:
            self.say(f"{site.name}: {moment.name.lower()}, outbox {process.outbox()}")
        if crashes:
            self._crash(site)
            return False
        if moment is Moment.STUCK:
            return False
        if process.connection.connected and self.happens("edge cut off", 0.01):
            self.say(f"{site.name}: the connection breaks")
            process.connection.cut()
        return not (not self.calm and self.chance.random() < 0.02)

    def _look_at_disk(self, site: Site, process: EdgeProcess, moment: Moment) -> None:
        if moment is Moment.COMMITTED:
            site.books.look_after_commit(process)
        elif moment is Moment.GAPPED and process.gap is not None:
            site.books.look_after_gap(process, *process.gap)
            self.say(f"{site.name}: a gap takes the place of {process.gap}")
        elif moment is Moment.RENEWED:
            site.renewed = True
            site.books.look_afresh(process)
            self.say(f"{site.name}: new epoch {process.disk_facts()['epoch']}, outbox {process.outbox()}")
        if moment in (Moment.COMMITTED, Moment.RENEWED, Moment.GAPPED, Moment.ACKNOWLEDGED):
            site.books.check_nothing_lost(site.waiting_at_broker)

    # -- the bridge ------------------------------------------------------------------------------------------------

    def bridge(self, site: Site) -> None:
        """Carry batches up and acks down, worse than a real bridge would."""
        if not site.bridged or not site.broker.up:
            return
        site.up = _attached(site.up, site.broker, "bridge", site.books.topics.uplink, site.books.topics.status)
        site.down = _attached(site.down, self.broker, f"bridge-{site.name}", site.books.topics.acked)
        for message in _taken(site.up):
            if message.topic == site.books.topics.uplink:
                self.ledger.send(message.payload)
            self._carry(site, "up", message)
        for message in _taken(site.down):
            self._carry(site, "down", message)

    def _carry(self, site: Site, way: str, message: Incoming) -> None:
        if self.happens("bridge loses", 0.25):
            self.say(f"{site.name}: lost on the way {way}")
            return
        for _ in range(2 if self.happens("bridge repeats", 0.2) else 1):
            delay_us = self.chance.choice((0, 30, 600, 3600)) * SECOND_US if self.happens("bridge delays", 0.5) else 0
            self.fly("", partial(self._hand_over, site, way, message, site.lives), delay_us=delay_us, ordered=False)

    def _hand_over(self, site: Site, way: str, message: Incoming, lives: int) -> None:
        if lives != site.lives:
            return
        if way == "up":
            self.broker.publish(message.topic, message.payload, retain=message.topic == site.books.topics.status)
        elif site.broker.up:
            site.broker.publish(message.topic, message.payload, retain=True)
            self.say(f"{site.name}: hears {message.payload.decode()}")

    # -- central ---------------------------------------------------------------------------------------------------

    def trouble_central(self) -> None:
        """What goes wrong at central."""
        if self.happens("record restored", 0.04):
            self.records.append(self.record.copy())
        if self.happens("record restored", 0.015) and self.records:
            self._end_central()
            self.record = self.records[self.chance.randrange(len(self.records))].copy()
            self.ledger.record_restored(self.record)
            for site in self.sites:
                site.books.record_restored(self.record, site.name)
            self.say("central: an earlier record is restored")

    def work_central(self) -> None:
        """Central lives on."""
        if self.central is None and (self.calm or self.chance.random() < 0.5):
            self.central = CentralProcess(ROOT, self.record, self.broker, now=self._central_now)
            self.central.connection.start()
            self._seen = 0
            self.say("central: starts")
        central = self.central
        if central is None:
            return
        if self.central_turn is None:
            self.central_turn = central.turn(self.chance.choice((1, 5, 50)))
        for moment in self.central_turn:
            self._look_at_record(central)
            if moment is CentralMoment.ANSWERED and self._say is not None:
                self.say(f"central: has {self.record.ledgers['readings']}")
            if self.happens("central crashes", 0.02):
                self._end_central()
                return
        self.central_turn = None

    def _central_now(self) -> str:
        """What central's wall clock says."""
        return iso(self.now_us)

    def _look_at_record(self, central: CentralProcess) -> None:
        self.ledger.record(central.written[self._seen :])
        for batch in central.written[self._seen :]:
            for site in self.sites:
                if site.name == batch.site:
                    site.books.record(batch)
        self._seen = len(central.written)

    def _end_central(self) -> None:
        if self.central is not None:
            self.say("central: crashes")
            self.central.kill()
        self.central = self.central_turn = None

    # -- the end ---------------------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """Faults stop; within bounded time all that is owed comes into the record."""
        self.calm = True
        self.say("all faults stop")
        for site in self.sites:
            site.bridged = site.on_net = True
            self._fill(site, full=False)
            if site.offset_us:
                self._jump(site, 0)
        for _ in range(400):
            self.advance(60 * SECOND_US)
            self._work_all()
            if all(map(self._rests, self.sites)) and not self._under_way:
                return
        for site in self.sites:
            site.books.check_all_recorded()
        raise Violation(
            "it never comes to rest: " + ", ".join(f"{s.name} {sorted(s.books.on_disk)}" for s in self.sites)
        )

    def _work_all(self) -> None:
        self.land()
        for site in self.sites:
            self.work(site)
            self.bridge(site)
        self.work_central()

    def _rests(self, site: Site) -> bool:
        process = site.process
        waits = process is None or process.connection.waiting or site.turn is not None
        return not waits and not site.books.on_disk and site.books.owed <= site.books.recorded

    def judge(self) -> None:
        """What must hold when all has come to rest."""
        self.advance(BELIEVED_AFTER_US + HOUR_US)
        for site in self.sites:
            process = site.process
            assert process is not None
            for moment in process.tick_until_idle():
                self._goes_on(site, process, moment)
            site.books.check_all_recorded()
            if site.orders_receptions:
                check_reader_rule(self.record, site.books, site.name)
            # What a clock a year off made close is opened again, and met by the truth again.
            if not (site.books.disasters or site.leapt or "record restored" in self.faults):
                check_scored_once(self.record, site.name)
            if site.params.clock == "wall" or not site.broker_forgot:
                check_always_a_forecast(site, process)
            far_off = "ancient and future readings" in self.faults and (site.leapt or site.books.disasters)
            if not (site.misled or far_off):
                check_intervals(site, process, self._folder / f"{site.name}-clean", self.now_us)


def _attached(connection: MemoryConnection | None, broker: MemoryBroker, name: str, *topics: str) -> MemoryConnection:
    connection = connection or MemoryConnection(broker, client_id=name, filters=topics)
    if not connection.connected:
        connection.start()
    return connection


def _taken(connection: MemoryConnection) -> list[Incoming]:
    messages = connection.receive(1000)
    connection.acknowledge(messages)
    return messages
