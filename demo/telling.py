"""The summary in a few sentences, for the person at the terminal."""

from collections.abc import Mapping
from typing import Any

from demo.progress import Progress


def tell(summary: Mapping[str, Any], progress: Progress) -> None:
    """Print what the run showed, with its own figures."""
    for line in sentences(summary):
        progress.text(line)


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines; what could not be measured is left out."""
    published, recorded, dead = (summary[key] for key in ("readings_published", "readings_recorded", "dead_letters"))
    forecasts, missed, fallback = (
        summary[key] for key in ("forecasts_published", "missed_forecasts", "fallback_forecasts")
    )
    lost = published - recorded - dead
    balance = "every one accounted for" if lost == 0 else f"{lost} NOT accounted for"
    arrived = f"{published:,} readings published = {recorded:,} recorded + {dead} dead letters: {balance}"
    made = f"{forecasts:,} forecasts of 48 h, {missed} missed, {fallback:,} made by fallback"
    lines = ["", f"{summary['meters']} meters, {arrived}", made]
    if summary["mase_after_retrain"] is None:
        return [*lines, "no retrained model took over in this run"]
    changed, unchanged = summary["changed_meters"], summary["unchanged_meters"]
    return [
        *lines,
        f"MASE on the same {changed['origins']} hours of forecasts after the swap (lower is better):",
        f"  {'':24}{'old model':>12}{'new model':>12}{'seasonal naive':>18}",
        _row("meters that changed", changed),
        _row("the others", unchanged),
    ]


def _row(name: str, scores: Mapping[str, Any]) -> str:
    return f"  {name:24}{scores['mase_old']:>12.3f}{scores['mase_new']:>12.3f}{scores['mase_naive']:>18.3f}"
