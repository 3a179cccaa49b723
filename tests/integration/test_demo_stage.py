"""The demo's broker, listener and observer together, on a real Mosquitto."""

import time
from pathlib import Path

from demo.broker import free_port, start_broker
from demo.listener import Listener
from tests.unit.demo_run import TOPICS, new_observer


def test_what_is_published_is_counted_and_the_broker_is_gone_afterwards(tmp_path: Path) -> None:
    observer, port = new_observer(), free_port()
    broker = start_broker(port, tmp_path, tmp_path)
    listener = Listener(port, TOPICS, lambda topic, payload: observer.take(topic, payload, 0.0))
    try:
        listener.start()
        for number in range(3000):  # more than Mosquitto queues by default
            listener.publish_reading(observer.meters[0], b'{"ts": %d, "value": 1}' % (1_362_355_200 + number))
        give_up = time.monotonic() + 20
        while observer.readings_published < 3000 and time.monotonic() < give_up:
            time.sleep(0.05)
    finally:
        listener.stop()
        broker.stop()
    assert observer.readings_published == 3000
    assert not broker.running
