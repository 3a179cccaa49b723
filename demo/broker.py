"""A Mosquitto of the demo's own: a free port on this machine only, its state in a folder of ours, and queues without a
limit.

The limits matter: with Mosquitto's default of 1,000 queued messages, replaying weeks in seconds would drop most of
them.
"""

import shutil
import socket
import time
from pathlib import Path
from typing import Final

from demo.processes import Child, DemoFailed, start

READY_WITHIN_S: Final = 10.0
SETTINGS: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {state}/
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 1000
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
"""


def find_mosquitto() -> str:
    """Path of the broker's program; Debian puts it where a user's PATH often does not look. Raises DemoFailed."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    if found is None:
        raise DemoFailed("mosquitto is not installed: apt-get install mosquitto, or brew install mosquitto")
    return found


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_broker(port: int, folder: Path, logs: Path) -> Child:
    """Start Mosquitto on `port` with its configuration and state in `folder`; return once it accepts connections."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    config = folder / "mosquitto.conf"
    config.write_text(SETTINGS.format(port=port, state=state))
    broker = start("mosquitto", [find_mosquitto(), "-c", str(config)], logs, folder)
    try:
        _wait_for_port(port, broker)
    except BaseException:
        broker.stop()
        raise
    return broker


def _wait_for_port(port: int, broker: Child) -> None:
    give_up = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up:
        broker.require_running()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise broker.failed(f"no answer on port {port} after {READY_WITHIN_S:.0f} s")
