"""The demo's broker, listener and observer together, on a real Mosquitto."""

from io import StringIO
from pathlib import Path

import pytest

from demo.broker import free_port, start_broker
from demo.listener import Listener
from demo.processes import DemoFailed
from demo.progress import Progress
from demo.stage import Options, staged
from tests.unit.demo_run import SCENARIO, TOPICS, new_observer
from tests.waiting import PATIENCE_S, wait_for


def test_what_is_published_is_counted_and_the_broker_is_gone_afterwards(tmp_path: Path) -> None:
    observer, port = new_observer(), free_port()
    broker = start_broker(port, tmp_path, tmp_path)
    listener = Listener(port, TOPICS, lambda topic, payload: observer.take(topic, payload, 0.0))
    try:
        listener.start()
        for number in range(3000):  # more than Mosquitto queues by default
            listener.publish_reading(observer.meters[0], b'{"ts": %d, "value": 1}' % (1_362_355_200 + number))
        wait_for(lambda: observer.readings_published >= 3000, "all to be counted")
    finally:
        listener.stop()
        broker.stop()
    assert observer.readings_published == 3000
    assert not broker.running


def test_a_stage_stays_up_when_a_replay_ends_and_not_when_its_broker_does(tmp_path: Path) -> None:
    with staged(Options(SCENARIO, tmp_path / "out"), Progress(StringIO())) as stage:
        stage.children["mosquitto"] = start_broker(stage.port, tmp_path / "broker", tmp_path)
        stage.launch("replay-history", ["this"]).process.wait(PATIENCE_S)
        stage.require_up()
        stage.children["mosquitto"].process.terminate()
        stage.children["mosquitto"].process.wait(PATIENCE_S)
        with pytest.raises(DemoFailed, match="mosquitto: ended unexpectedly"):
            stage.require_up()
    assert not stage.children
