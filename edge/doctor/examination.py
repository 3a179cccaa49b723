"""The whole examination, in the order in which one thing explains the next: broker, clocks, disk, state, keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from edge.doctor import broker, broker_conf, clocks, disk, keys, parking, state
from edge.doctor.asked import Asked
from edge.doctor.broker import Visit
from edge.doctor.broker_conf import BrokerConf
from edge.doctor.demand import Demand
from edge.doctor.wording import span
from shared.clock import to_us, wall_now
from shared.errors import BrokerUnreachable
from shared.findings import Finding, note, to_mend
from shared.params import Params
from shared.topics import SiteTopics

Tell = Callable[[str], None]


def examine(params: Params, asked: Asked, *, tell: Tell) -> list[Finding]:
    """Look at everything, telling meanwhile at what.

    Never raises for what it finds; raises DataFileError for a `--broker-conf` that cannot be read.
    """
    conf = broker_conf.read(asked.broker_conf) if asked.broker_conf else None
    tell("reading the state database")
    seen = state.look(params.edge.state_dir)
    tell(f"connecting to {params.mqtt.host}:{params.mqtt.port}")
    token = secrets.token_hex(4)
    visited = broker.visit(params, token)
    demand = Demand(len(seen.latest_us))
    return [
        *_broker(params, asked, visited, demand, token, tell),
        *_configuration(conf, demand),
        *_clocks(params, asked, visited, seen, token, tell),
        *_disk(params, seen, tell),
        *state.judge(seen, params),
        *keys.examine(params.keys.trusted),
    ]


def _broker(
    params: Params, asked: Asked, visited: Visit | Finding, demand: Demand, token: str, tell: Tell
) -> list[Finding]:
    if isinstance(visited, Finding):
        return [visited]
    tell(f"parking {asked.park:,} messages at the broker")
    topic = SiteTopics(params.mqtt.root, params.site).probe(token)
    try:
        found = parking.park(params.mqtt, topic=topic, client_id=f"metercast-doctor-queue-{token}", count=asked.park)
    except BrokerUnreachable as error:
        parked = [to_mend("queue", str(error), "see the broker's log: it went away while messages were parked")]
    else:
        parked = parking.judge(found, demand, topic=topic, batch=params.edge.batch)
    return [*broker.judge(params, visited), *parked]


def _configuration(conf: BrokerConf | None, demand: Demand) -> list[Finding]:
    return broker_conf.unknown() if conf is None else broker_conf.judge(conf, demand)


def _clocks(
    params: Params, asked: Asked, visited: Visit | Finding, seen: state.Seen, token: str, tell: Tell
) -> list[Finding]:
    if params.clock == "event":
        return [note("clocks", "not compared: under clock event the readings carry the time")]
    recorded = clocks.judge_recorded(_stamped(seen), now_us=_now_us())
    if isinstance(visited, Finding):
        return [recorded]
    acked = SiteTopics(params.mqtt.root, params.site).acked
    central = clocks.judge_acked(visited.retained.get(acked), topic=acked, now_us=_now_us())
    return [central, recorded, *_live(params, asked, token, tell)]


def _live(params: Params, asked: Asked, token: str, tell: Tell) -> list[Finding]:
    for_s = asked.listen.total_seconds()
    if not for_s:
        return []
    tell(f"listening to readings for {span(for_s)}")
    client_id = f"metercast-doctor-listener-{token}"
    try:
        heard = clocks.listen(params, client_id=client_id, for_s=for_s, now_us=_now_us)
    except BrokerUnreachable as error:
        return [to_mend("live readings", str(error), "see the broker's log: it went away while we listened")]
    return clocks.judge_heard(heard, for_s=for_s)


def _disk(params: Params, seen: state.Seen, tell: Tell) -> list[Finding]:
    tell(f"writing to {params.edge.state_dir}")
    left_bytes = max(params.outbox.max_bytes - seen.outbox_bytes, 0)
    return disk.examine(params.edge.state_dir, outbox_left_bytes=left_bytes, state_bytes=seen.size_bytes)


def _stamped(seen: state.Seen) -> dict[str, int]:
    """Meters whose latest reading is known."""
    return {meter: latest_us for meter, latest_us in seen.latest_us.items() if latest_us > 0}


def _now_us() -> int:
    return to_us(wall_now())
