"""How a reading was sent apart from its instant and value: unit, kind, period, quality. Few differ; each is held once.

Invariant: at most FORMS_AT_MOST forms exist in a site; a meter that invents more is answered, not remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.errors import ReadingRefused
from shared.grid import KINDS, UNITS, GridRules, Kind

QUALITY_OK: Final = "ok"
QUALITY_ARRIVAL_TIME: Final = "arrival_time"
FORMS_AT_MOST: Final = 4096


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
    def code(self) -> int:
        """The kind's place in KINDS."""
        return KINDS.index(self.kind)


class Forms:
    """The forms of a site by number."""

    def __init__(self, rules: GridRules, known: Iterable[Form] = ()) -> None:
        self._rules = rules
        self._by_number: list[Form] = []
        self._numbers: dict[Form, int] = {}
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
            if len(self._by_number) >= FORMS_AT_MOST:
                raise ReadingRefused(f"more than {FORMS_AT_MOST} combinations of unit, kind and period at this site")
            number = self._add(form)
        return number

    def _add(self, form: Form) -> int:
        self._by_number.append(form)
        self._numbers[form] = len(self._by_number) - 1
        self.settles_us.append(form.period_us if form.kind == "energy" else 0)
        gaps = {"power": self._rules.hold_us, "energy": form.period_us, "register": self._rules.max_gap_us}
        self.reaches_us.append(gaps[form.kind])
        self.is_register.append(form.kind == "register")
        self.is_timeless.append(form.quality == QUALITY_ARRIVAL_TIME)
        self.to_kilo.append(form.to_kilo)
        self.codes.append(form.code)
        return len(self._by_number) - 1
