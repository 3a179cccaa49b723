"""The thread that hands the observer everything the broker delivers, over the same connection class both sides use."""

import threading
from collections.abc import Callable

from shared.mqtt import Connection
from shared.params import MqttParams
from shared.topics import SiteTopics

BATCH = 2000
PATIENCE_S = 0.2


class Listener:
    """A subscriber to all of a site's topics, in a thread of its own, that can publish as well.

    Invariants: messages reach `take` one at a time and in order; one is acknowledged after `take` returned.
    """

    def __init__(self, port: int, topics: SiteTopics, take: Callable[[str, bytes], None]) -> None:
        self._take = take
        self._topics = topics
        filters = [
            topics.readings,
            topics.forecast("+"),
            topics.shadow("+"),
            topics.dead_letter,
            topics.drift,
            topics.desired,
            topics.reported,
            topics.status,
        ]
        params = MqttParams(host="127.0.0.1", port=port, receive_maximum=65_535)
        self._connection = Connection(params, client_id="metercast-demo", filters=filters)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="demo-listener", daemon=True)

    def start(self) -> None:
        """Connect and begin; raises BrokerUnreachable."""
        self._connection.start()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and disconnect; does no harm to one that never started."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._connection.stop()

    def publish_reading(self, meter: str, payload: bytes) -> None:
        """Publish as a meter would, QoS 1."""
        self._connection.publish(self._topics.reading(meter), payload, qos=1)

    def _listen(self) -> None:
        while not self._ending.is_set():
            batch = self._connection.receive(BATCH, PATIENCE_S)
            for message in batch:
                self._take(message.topic, message.payload)
            self._connection.acknowledge(batch)
