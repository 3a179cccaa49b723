"""The flood: readings made beforehand and parked in the queues of persistent sessions: making them costs nobody.

The last message is no reading at all. The edge answers it with a dead letter, after the commit of all that came before
it: that is how one knows, without asking it anything, that it is through.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from bench.stage import Broker, wait_for
from bench.wire import PUBACK, Wire, publish_packet

END: Final = b"the end of the flood"
_PACKETS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Flood:
    """Readings of all meters at one instant after the other, the last one just before `until`."""

    site: str
    readings: int
    meters: int
    step: timedelta
    until: datetime

    @property
    def messages(self) -> int:
        """How many there are, the end included."""
        return self.readings + 1

    @property
    def topic_filter(self) -> str:
        """What a consumer subscribes to."""
        return f"metercast/{self.site}/readings/+"

    def payload(self, number: int) -> bytes:
        """Reading `number` in order of time, as a meter would write it."""
        instants = -(-self.readings // self.meters)
        ts = self.until + self.step * (number // self.meters - instants)
        value = 1000 + (number * 7919 % 1_000_000) / 1000
        text = ts.astimezone(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"ts": text, "value": value, "unit": "kW"}).encode()

    def packets(self) -> Iterable[bytes]:
        """All messages as MQTT packets."""
        for number in range(self.readings):
            topic = f"metercast/{self.site}/readings/meter-{number % self.meters:05d}"
            yield publish_packet(topic, self.payload(number), mid=number % 65_535 + 1)
        yield publish_packet(f"metercast/{self.site}/readings/meter-00000", END, mid=self.readings % 65_535 + 1)


def leave_session(broker: Broker, client_id: str, topic_filter: str) -> None:
    """Have the broker keep what comes under a filter for a client that will connect later, and forget that we came."""
    with Wire(broker.port, client_id, clean=False) as wire:
        wire.subscribe(topic_filter, qos=1)
    wait_for(lambda: client_id in broker.went_s, f"{client_id} to leave", 120)
    broker.forget(client_id)


def park(port: int, packets: list[bytes]) -> None:
    """Publish at QoS 1 and return when the broker has acknowledged every message."""
    with Wire(port, "bench-flood") as wire:
        sender = threading.Thread(target=_send, args=(wire, packets), daemon=True)
        sender.start()
        owed = len(packets)
        for kind, _body in wire.packets(60):
            owed -= kind == PUBACK
            if not owed:
                break
        sender.join()


def _send(wire: Wire, packets: list[bytes]) -> None:
    for first in range(0, len(packets), _PACKETS_AT_ONCE):
        wire.send(b"".join(packets[first : first + _PACKETS_AT_ONCE]))
