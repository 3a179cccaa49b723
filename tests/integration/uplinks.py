"""What edges send to central, made by hand: batches, and a stand-in for an edge that sends them and hears answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared.clock import HOUR_US, iso
from shared.messages import Acked, Restore, Status, Uplink
from shared.mqtt import Connection
from shared.params import MqttParams
from tests.mosquitto import Broker
from tests.waiting import wait_for

START_US = 1_362_355_200_000_000  # 2013-03-04T00:00Z


def batch(seq: int, *, rows: int = 48, site: str = "s", epoch: str = "e1") -> Uplink:
    """A batch of half-hourly energy of two meters; each seq has its own instants."""
    instants = [START_US + ((seq - 1) * rows // 2 + row // 2) * HOUR_US // 2 for row in range(rows)]
    readings: dict[str, list[Any]] = {
        "meter_id": [f"m{row % 2}" for row in range(rows)],
        "ts_us": instants,
        "value": [row / 10 for row in range(rows)],
        "unit": ["kWh"] * rows,
        "kind": ["energy"] * rows,
        "period_s": [1800] * rows,
        "quality": [""] * rows,
        "received_us": instants,
    }
    letter = {"id": [f"letter-{seq}"], "topic": ["t"], "payload": ["{"], "payload_b64": [None],
              "reason": ["not JSON"], "received_us": [instants[-1]], "count": [1]}  # fmt: skip
    return Uplink(
        site=site, epoch=epoch, seq=seq, at=iso(instants[-1]), kinds={"readings": readings, "dead_letters": letter}
    )


class Edge:
    """A stand-in for an edge's uplink: publishes what it is told and keeps the latest answer."""

    def __init__(self, broker: Broker, site: str) -> None:
        self.site = site
        self.acked: Acked | None = None
        self.connection = Connection(
            MqttParams(host=broker.host, port=broker.port),
            client_id=f"test-{site}",
            filters=[f"metercast/{site}/uplink/acked", f"metercast/{site}/restore"],
        )
        self.heard: list[Acked] = []
        self.restored: list[Restore] = []
        self.connection.start()

    def send_batches(self, *numbers: int, epoch: str = "e1") -> None:
        """Send batches of these numbers, one after the other."""
        for seq in numbers:
            self.send(batch(seq, site=self.site, epoch=epoch).compress())

    def send(self, payload: bytes) -> None:
        """Send whatever it is."""
        self.connection.publish(f"metercast/{self.site}/uplink", payload)

    def be(self, instance: str, epoch: str, *, state: str = "online", reasons: Sequence[str] = ()) -> None:
        """Tell of a process of this site's edge."""
        said = {"state": state, "instance": instance, "epoch": epoch, "version": "1", "started_at": iso(START_US)}
        status = Status.model_validate(said | {"reasons": list(reasons)})
        self.connection.publish(f"metercast/{self.site}/status", status.encode(), retain=True)

    def hear(self) -> None:
        """Take what central has said."""
        for message in self.connection.receive(100, timeout_s=0.2):
            if message.topic.endswith("/restore"):
                self.restored.append(Restore.decompress(message.payload, message.topic))
            else:
                self.acked = Acked.decode(message.payload, message.topic)
                self.heard.append(self.acked)
            self.connection.acknowledge([message])

    def wait_restored(self) -> Restore:
        """The next part of a restore."""

        def came() -> bool:
            self.hear()
            return bool(self.restored)

        wait_for(came, f"{self.site} to be restored", every_s=0)
        return self.restored.pop(0)

    def wait_acked(self, accept: Callable[[Acked], bool]) -> Acked:
        """An answer that is accepted: the latest, once there is one."""

        def came() -> bool:
            self.hear()
            return self.acked is not None and accept(self.acked)

        wait_for(came, f"{self.site} to be acked", every_s=0)
        assert self.acked is not None
        return self.acked
