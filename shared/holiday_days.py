"""Public holidays as day numbers: the only home of holidays, which knows every country and takes 14 MB for it.

So `shared.calendars` loads it only when it is asked for a country, and an edge, which lives long, asks a process that
ends: `python -m shared.holiday_days GB 2020 2030` prints `{"2020": [18262, …], …}`. Light to import but for that.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from typing import Final

import holidays

_EPOCH: Final = date(1970, 1, 1)


def holiday_days(country: str, year: int) -> list[int]:
    """Return the days since 1970-01-01 of a year's public holidays, in order; ValueError for an unknown country."""
    code, _, subdivision = country.partition("-")
    try:
        days = holidays.country_holidays(code, subdiv=subdivision or None, years=year)
    except NotImplementedError as e:
        raise ValueError(f"unknown country for holidays: {country!r}") from e
    return sorted((day - _EPOCH).days for day in days)


if __name__ == "__main__":
    said, first, last = sys.argv[1:]
    print(json.dumps({year: holiday_days(said, year) for year in range(int(first), int(last) + 1)}))
