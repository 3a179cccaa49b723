"""Fixtures for all tests: a real Mosquitto, and logging as it was; and how Hypothesis goes about it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.mosquitto import Broker, running

# No verdict depends on how fast the machine is, or on the day: the same code is tried with the same examples.
# `--hypothesis-profile=search` looks for others, which `@example` keeps.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("suite", settings.get_profile("search"), derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _logging_as_at_the_start() -> None:
    """What a command or a library did to logging, in this process and another test, is undone."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker with nothing in it."""
    with running(tmp_path / "mosquitto") as begun:
        yield begun
