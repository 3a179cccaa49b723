"""The configurations under which Mosquitto is killed: the one we ship, saved to disk every second, or never."""

from __future__ import annotations

from tests.mosquitto import SHIPPED

_TESTABLE = "\nlog_type subscribe\nsys_interval 1\n"


def shipped(bridge: str = "") -> str:
    """`mosquitto/edge.conf`, and after it the bridge."""
    text = (SHIPPED / "edge.conf").read_text()
    text = text.replace("autosave_interval 10", "autosave_interval 1").replace("log_dest stdout", "log_dest stderr")
    return f"{text}{_TESTABLE}{bridge}"


def forgetful(configuration: str) -> str:
    """The same, with nothing kept over a restart."""
    return configuration.replace("persistence true", "persistence false")
