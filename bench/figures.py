"""What a bench hands back, the limits it is held against, and how both are written out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: a median over `runs`; `ratio` is that of value to `against`, pair by pair, then the median."""

    name: str
    value: float
    unit: str
    runs: int
    against: str = ""
    ratio: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure is held against: its ratio or its value, at least or at most `limit`; `aim` is what comes next."""

    of: Literal["value", "ratio"]
    sense: Literal["≥", "≤"]
    limit: float
    aim: float
    against: str = ""

    def reached_by(self, number: float, bound: float) -> bool:
        """Whether `number` is on the good side of `bound`."""
        return number >= bound if self.sense == "≥" else number <= bound


BARE_PAHO_5: Final = "bare paho, MQTT 5"
LIMITS: Final[Mapping[str, Limit]] = {
    "ingest_committed": Limit("ratio", "≥", 0.6, 0.9, against=BARE_PAHO_5),
    "bytes_per_meter": Limit("value", "≤", 8_000, 5_000),
    "restart_to_first_forecast_s": Limit("value", "≤", 10, 3),
    "close_to_last_forecast_p99_s": Limit("value", "≤", 2, 0.5),
    "edge_rss_mb": Limit("value", "≤", 150, 100),
    "forecasts_per_core": Limit("ratio", "≥", 5, 20, against="mlforecast.predict"),
    "onnx_share": Limit("value", "≥", 0.5, 0.8),
    "swap_pause_p99_ms": Limit("value", "≤", 100, 10),
    "swaps_missed_forecasts": Limit("value", "≤", 0, 0),
    "model_to_50_sites_s": Limit("value", "≤", 60, 30),
    "record_readings_per_s": Limit("value", "≥", 300_000, 1_000_000),
}


def write(figures: Sequence[Figure], folder: Path) -> None:
    """`folder/NAME.json` for each name: the list of its figures; a value that could not be measured is not in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(figure.name for figure in figures):
        rows = [asdict(figure) for figure in figures if figure.name == name]
        text = json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def table(figures: Sequence[Figure]) -> str:
    """All figures as aligned text: value, peer, ratio, limit, and whether it was reached."""
    head = ("name", "value", "unit", "against", "ratio", "limit", "")
    lines = [head, *(_line(figure) for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    numbers = {1, 4}
    return "\n".join(
        "  ".join(cell.rjust(width) if at in numbers else cell.ljust(width) for at, (cell, width) in cells).rstrip()
        for cells in (enumerate(zip(line, widths, strict=True)) for line in lines)
    )


def _line(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    limit, verdict = _judged(figure)
    return figure.name, _short(figure.value), figure.unit, figure.against, ratio, limit, verdict


def _judged(figure: Figure) -> tuple[str, str]:
    limit = LIMITS.get(figure.name)
    if limit is None or not figure.against.startswith(limit.against):
        return "", ""
    number = figure.ratio if limit.of == "ratio" else figure.value
    if number is None:
        return "", ""
    wanted = f"{limit.of if limit.of == 'ratio' else ''} {limit.sense} {_short(limit.limit)}".strip()
    if not limit.reached_by(number, limit.limit):
        return wanted, "NOT REACHED"
    aimed = "reached, and the aim too" if limit.reached_by(number, limit.aim) else "reached"
    return f"{wanted} (aim {_short(limit.aim)})", aimed


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
