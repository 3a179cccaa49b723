"""How a reading was sent apart from its instant and value: unit, kind, period, quality. Few differ; each is held once.

Invariants: few forms exist in a site, at most ODD_AT_MOST of them with an odd period; a meter that invents more is
answered, not remembered. There is room for every form whose period divides the day into equal parts of whole seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.clock import DAY_US, SECOND_US
from shared.errors import ReadingRefused
from shared.grid import KINDS, UNITS, GridRules, Kind

QUALITY_OK: Final = "ok"
QUALITY_ARRIVAL_TIME: Final = "arrival_time"
ODD_AT_MOST: Final = (
    3500  # besides those that divide the day: it has 96 divisors, of which units and qualities make 588
)


class Form(NamedTuple):
    """What readings have in common: `period_us` is 0 but for energy."""

    unit: str
    kind: Kind
    period_us: int
    quality: str

    @property
    def to_kilo(self) -> float:
        """What turns a value into kW or kWh."""
        return UNITS[self.unit].to_kilo

    @property
    def is_odd(self) -> bool:
        """Whether its period does not divide the day into equal parts of whole seconds."""
        return self.period_us > 0 and (DAY_US % self.period_us > 0 or self.period_us % SECOND_US > 0)

    @property
    def code(self) -> int:
        """The kind's place in KINDS."""
        return KINDS.index(self.kind)


class Forms:
    """The forms of a site by number."""

    def __init__(self, rules: GridRules, known: Iterable[Form] = ()) -> None:
        self._rules = rules
        self._by_number: list[Form] = []
        self._numbers: dict[Form, int] = {}
        self._odd = 0
        self.settles_us: list[int] = []  # how far beyond its ts a reading of this form settles its meter
        self.reaches_us: list[int] = []  # and how far it may say something of the load
        self.is_register: list[bool] = []
        self.is_timeless: list[bool] = []
        self.to_kilo: list[float] = []
        self.codes: list[int] = []
        for form in known:
            self._add(form)

    def __len__(self) -> int:
        return len(self._by_number)

    def __getitem__(self, number: int) -> Form:
        return self._by_number[number]

    def number(self, form: Form) -> int:
        """The number of `form`, a new one if need be; raises ReadingRefused when there are too many."""
        number = self._numbers.get(form)
        if number is None:
            if form.is_odd and self._odd >= ODD_AT_MOST:
                raise ReadingRefused(f"more than {ODD_AT_MOST} combinations of unit and uneven period at this site")
            number = self._add(form)
        return number

    def _add(self, form: Form) -> int:
        self._by_number.append(form)
        self._numbers[form] = len(self._by_number) - 1
        self._odd += form.is_odd
        self.settles_us.append(form.period_us if form.kind == "energy" else 0)
        gaps = {"power": self._rules.hold_us, "energy": form.period_us, "register": self._rules.max_gap_us}
        self.reaches_us.append(gaps[form.kind])
        self.is_register.append(form.kind == "register")
        self.is_timeless.append(form.quality == QUALITY_ARRIVAL_TIME)
        self.to_kilo.append(form.to_kilo)
        self.codes.append(form.code)
        return len(self._by_number) - 1
