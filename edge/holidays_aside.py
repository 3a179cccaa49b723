"""The holidays of the site's country, found out in a process that ends: a few kB instead of a library of 14 MB."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Final

from edge.aside import ask
from shared.calendars import know_holidays

log = logging.getLogger(__name__)

FIRST_YEAR: Final = 1990
LAST_YEAR: Final = 2100
_COMMAND: Final = (sys.executable, "-s", "-P", "-m", "shared.holiday_days")
_PATIENCE_S: Final = 60.0
_ANSWER_BYTES: Final = 1_000_000


def learn_holidays(country: str) -> bool:
    """Let calendars know the holidays of `country`; returns whether they do.

    They load the library themselves for what they were not told: other years, or all when no process could be asked.
    So it may fail, and an unknown country is named by who needs it.
    """
    if not country:
        return False
    command = [*_COMMAND, country, str(FIRST_YEAR), str(LAST_YEAR)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    try:
        ended = ask(command, [], environment=environment, seconds=_PATIENCE_S, most_bytes=_ANSWER_BYTES)
        days = {int(year): [int(day) for day in days] for year, days in json.loads(ended.said).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.info("holidays are looked up here: no process told them", extra={"reason": f"{type(error).__name__}"})
        return False
    know_holidays(country, days)
    return True
