"""How the version on its way forecasts live, against its predecessor in the shadow, or else seasonal naive.

Both forecast the same meter, interval and lead from the same history, so their scores pair: nothing but the model
differs. A meter's ratio is of its summed absolute errors, each raised by FLOOR of its load, so that a meter both
forecast well, or that stands still, decides nothing; meters count alike, by a geometric mean.

Invariants: the result is a function of the set of scores, whatever their order, batches and repetitions, as long as
no more than PAIRS_REMEMBERED come between two copies; what is kept is bounded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from central.rollout_state import Comparison
from shared.manifest import Manifest

CHAMPION: Final = "champion"  # the rung, and the role, of what was published
CHALLENGER: Final = "challenger"
PAIRS_REMEMBERED: Final = 100_000
METERS_AT_MOST: Final = 100_000
ENOUGH_PAIRS: Final = 8  # of a meter, before it counts
FLOOR: Final = 0.01  # of a meter's mean absolute load
CLIP: Final = 10.0  # no meter says more than so many times worse, or better

Identity = tuple[str, str, int, int]  # site, meter, interval, lead


@dataclass(frozen=True, slots=True)
class Score:
    """One role's absolute error at one identity, with that of seasonal naive where there is one."""

    role: str
    error_kw: float
    load_kw: float
    naive_error_kw: float | None


@dataclass(slots=True)
class Sums:
    """A meter's summed errors over the scores that pair with a yardstick's."""

    pairs: int = 0
    error_kw: float = 0.0
    yardstick_kw: float = 0.0
    load_kw: float = 0.0

    def add(self, error_kw: float, yardstick_kw: float, load_kw: float) -> None:
        """Count one pair."""
        self.pairs += 1
        self.error_kw += error_kw
        self.yardstick_kw += yardstick_kw
        self.load_kw += load_kw

    @property
    def log_ratio(self) -> float:
        """Logarithm of the version's error over the yardstick's; 0 where there is neither load nor error."""
        floor = FLOOR * self.load_kw
        above, below = self.error_kw + floor, self.yardstick_kw + floor
        if above == below:
            return 0.0
        most = math.log(CLIP)
        return most if below <= 0 else -most if above <= 0 else max(-most, min(most, math.log(above / below)))


Meters = dict[tuple[str, str], Sums]


@dataclass(slots=True)
class LiveScores:
    """Scores of one version and one predecessor, as they come from the uplink."""

    version: int | None = None
    predecessor: int | None = None
    _seen: OrderedDict[Identity, Score | None] = field(default_factory=OrderedDict)  # None once both roles have come
    _shadow: Meters = field(default_factory=dict)
    _naive: Meters = field(default_factory=dict)

    def watch(self, version: Manifest | None, predecessor: Manifest | None) -> None:
        """Compare these from now on; what was counted for others is forgotten."""
        pair = (_version(version), _version(predecessor))
        if pair == (self.version, self.predecessor):
            return
        self.version, self.predecessor = pair
        for kept in (self._seen, self._shadow, self._naive):
            kept.clear()

    def take(self, site: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Count scores of one site, columns as in `shared.messages.SCORE_COLUMNS`."""
        if self.version is None:
            return
        for identity, score in self._scores(site, columns):
            self._meet(identity, score)
            if len(self._seen) > PAIRS_REMEMBERED:
                self._seen.popitem(last=False)

    def comparison(self) -> Comparison:
        """So far: against the predecessor; against seasonal naive where nothing of a predecessor has come."""
        if self._shadow or not self._naive:
            return self._compared(self._shadow.values(), "predecessor")
        return self._compared(self._naive.values(), "naive")

    def _compared(self, meters: Collection[Sums], against: Literal["predecessor", "naive"]) -> Comparison:
        logs = [sums.log_ratio for sums in meters if sums.pairs >= ENOUGH_PAIRS]
        ratio = math.exp(math.fsum(logs) / len(logs)) if logs else None
        pairs = sum(sums.pairs for sums in meters)
        return Comparison(version=self.version, ratio=ratio, pairs=pairs, meters=len(logs), against=against)

    def _scores(self, site: str, columns: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Identity, Score]]:
        """Scores of the two versions in the roles that are compared, made by the model and not by a simpler rung."""
        names = ("meter_id", "valid_us", "lead", "role", "rung", "model_version", "y_kw", "forecast_kw", "naive_kw")
        for meter, valid_us, lead, role, rung, version, *values in zip(*(columns[n] for n in names), strict=True):
            wanted = {CHAMPION: self.version, CHALLENGER: self.predecessor}.get(role)
            y_kw, forecast_kw, naive_kw = (_finite(value) for value in values)
            if rung != CHAMPION or wanted is None or version != wanted or y_kw is None or forecast_kw is None:
                continue
            naive_error_kw = None if naive_kw is None else abs(naive_kw - y_kw)
            yield (site, meter, valid_us, lead), Score(role, abs(forecast_kw - y_kw), abs(y_kw), naive_error_kw)

    def _meet(self, identity: Identity, score: Score) -> None:
        """Count a score that is the first of its role at its identity, and the pair when it is the second role's."""
        known = identity in self._seen
        other = self._seen.get(identity)
        if known and (other is None or other.role == score.role):
            return
        self._seen[identity] = None if known else score
        meter = identity[:2]
        if score.role == CHAMPION and score.naive_error_kw is not None:
            _sums(self._naive, meter).add(score.error_kw, score.naive_error_kw, score.load_kw)
        if other is not None:
            new, old = (score, other) if score.role == CHAMPION else (other, score)
            _sums(self._shadow, meter).add(new.error_kw, old.error_kw, new.load_kw)


def _sums(meters: Meters, meter: tuple[str, str]) -> Sums:
    """The sums of a meter; those of one meter too many are of no account."""
    if meter not in meters and len(meters) >= METERS_AT_MOST:
        return Sums()
    return meters.setdefault(meter, Sums())


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _version(manifest: Manifest | None) -> int | None:
    return manifest.version if manifest is not None else None
