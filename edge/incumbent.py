"""One edge a site: who comes second stops, and the one that serves goes on undisturbed.

A broker gives a client id to whoever asks last and, in Mosquitto 2.0, tells nobody. So an edge looks before it takes
the id, under an id of its own: another instance that says it is online, and says so again while we wait, is alive. An
edge that was away and finds the status of a younger instance has been replaced.
"""

from __future__ import annotations

import time
from typing import Final

from shared.errors import MessageRefused, SiteTaken
from shared.messages import Status
from shared.mqtt import Connection
from shared.params import MqttParams
from shared.topics import SiteTopics

STATUS_EVERY_S: Final = 10.0  # how often an edge says that it is online
LOOK_S: Final = 0.5  # a retained status comes within this, or there is none


def require_free(params: MqttParams, topics: SiteTopics, instance: str) -> Status | None:
    """The status that the last one to serve the site left behind, if any.

    Raises SiteTaken when another instance serves it; waits only where a status claims that one does.
    """
    probe = Connection(
        params, client_id=f"metercast-edge-{topics.site}-{instance}", filters=[topics.status], lasting=False
    )
    probe.start()
    try:
        left = next(map(_status_in, (message.payload for message in probe.receive(1, LOOK_S))), None)
        if left is not None and left.state != "offline":
            for payload in _during(probe, 1.2 * STATUS_EVERY_S):
                status = _status_in(payload)
                if status is not None and status.state != "offline":
                    raise _taken(topics.site, status)
        return left
    finally:
        probe.stop()


def another_lived(left: Status | None, *, last_instance: str) -> bool:
    """Whether a process has served that a disk with a past does not know of: then the disk is an old image."""
    return left is not None and last_instance not in ("", left.instance)


def require_not_replaced(payload: bytes, topics: SiteTopics, *, instance: str, started_at: str, gone: str = "") -> None:
    """Raise SiteTaken when a status of our site is of an instance that began after us.

    Not of one that is known to be `gone`: where the clock was set back, its beginning lies ahead of ours.
    """
    try:
        status = Status.decode(payload, topics.status)
    except MessageRefused:
        return
    if status.instance not in (instance, gone) and status.started_at > started_at:
        raise _taken(topics.site, status)


def _during(probe: Connection, seconds: float) -> list[bytes]:
    """The first live message within so many seconds."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for message in probe.receive(1, 0.2):
            if not message.retain:
                return [message.payload]
    return []


def _status_in(payload: bytes) -> Status | None:
    try:
        return Status.decode(payload, "status")
    except MessageRefused:
        return None


def _taken(site: str, status: Status) -> SiteTaken:
    return SiteTaken(f"site {site} is served by another edge (instance {status.instance}, since {status.started_at})")
