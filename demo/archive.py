"""Every forecast of a run, kept in numpy so that an hour's errors of all meters are one slice."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEADS: Final = 48
QUANTILES: Final = ("0.1", "0.5", "0.9")
LOW, MEDIAN, HIGH = range(3)
NO_RUNG, FALLBACK, STARTER, CHAMPION = range(4)
MODEL_RUNGS: Final = {"champion": CHAMPION, "starter": STARTER}  # every other rung of the ladder is a fallback


@dataclass(slots=True)
class ForecastArchive:
    """The newest forecast of each (meter, origin) of one stream, and how often one came.

    Arrays: `values` float32 `[meters, origins, 48, 3]` in kW (NaN = no forecast), `rung` int8, `version` int16 (0 =
    no model) and `messages` int32, each `[meters, origins]`. Origin j starts j hours after the scenario.
    """

    meters: Sequence[str]
    origins: int
    values: NDArray[np.float32] = field(init=False)
    rung: NDArray[np.int8] = field(init=False)
    version: NDArray[np.int16] = field(init=False)
    messages: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        """Make room for every (meter, origin)."""
        shape = (len(self.meters), self.origins)
        self.values = np.full((*shape, LEADS, len(QUANTILES)), np.nan, np.float32)
        self.rung = np.zeros(shape, np.int8)
        self.version = np.zeros(shape, np.int16)
        self.messages = np.zeros(shape, np.int32)

    def put(self, meter: int, origin: int, quantiles: NDArray[np.float32], rung: str, version: int) -> None:
        """Keep a forecast, `quantiles` being `[48, 3]`; a later one for the same origin replaces it."""
        self.values[meter, origin] = quantiles
        self.rung[meter, origin] = MODEL_RUNGS.get(rung, FALLBACK)
        self.version[meter, origin] = version
        self.messages[meter, origin] += 1

    def first_origin_of(self, version: int) -> int | None:
        """The first origin that any meter's forecast by this model version was for, or None."""
        columns = np.flatnonzero((self.version == version).any(axis=0))
        return int(columns[0]) if columns.size else None

    def missed(self, last_origins: NDArray[np.int64]) -> int:
        """Count (meter, origin) without a forecast, from a meter's first to the last it is entitled to."""
        columns = np.arange(self.origins)
        begun = (self.messages > 0).cumsum(axis=1) > 0
        due = begun & (columns <= last_origins[:, None])
        return int((due & (self.messages == 0)).sum())
