"""Finding, in what the observer saw, the moments a reader wants to know: drift, the retrained model, and when each took
over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from demo.archive import ForecastArchive
from demo.observer import SERVED, DriftSeen, ModelPushed, Observer
from demo.scenario import Scenario
from shared.clock import HOUR_US, to_us


@dataclass(frozen=True, slots=True)
class Retrain:
    """The model that answered the planted change, and the one it displaced. `origin` is the index of its first served
    origin.
    """

    drift: DriftSeen
    push: ModelPushed
    old_version: int
    origin: int


def drift_after_change(drift: Sequence[DriftSeen], scenario: Scenario) -> DriftSeen | None:
    """Return the first drift message once the change was planted, or None."""
    return next((seen for seen in drift if seen.event_us >= to_us(scenario.change_at)), None)


def find_retrain(observer: Observer) -> Retrain | None:
    """Return the first model pushed after drift was seen in the change and already serving, or None so far."""
    drift = drift_after_change(observer.drift, observer.scenario)
    if drift is None:
        return None
    served = observer.archives[SERVED]
    for push in list(observer.pushed):
        origin = served.first_origin_of(push.version) if push.wall_s >= drift.wall_s else None
        if origin is not None:
            return Retrain(drift, push, displaced(served, origin, push), origin)
    return None


def displaced(served: ForecastArchive, origin: int, push: ModelPushed) -> int:
    """Return the version that served just before `origin`; 0 when that was no model."""
    before = served.version[:, max(0, origin - 2) : origin]
    versions = before[(before > 0) & (before != push.version)]
    return int(versions.max()) if versions.size else 0


def hour_index(scenario: Scenario, event_us: int) -> int:
    """Return the index of the interval that an instant of event time lies in."""
    return (event_us - scenario.start_us) // HOUR_US
