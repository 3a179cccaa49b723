"""The summary in a few sentences, for the person at the terminal: what it shows, and what it shows to be broken."""

from collections.abc import Mapping
from typing import Any

from demo.progress import Progress


def tell(summary: Mapping[str, Any], progress: Progress) -> None:
    """Print what the run showed, with its own figures."""
    for line in sentences(summary):
        progress.text(line)


def broken(summary: Mapping[str, Any]) -> str:
    """Return one sentence that names every promise the run did not keep; empty when it kept all.

    A new model that is no better is not among them: that is what production criteria and people are there for.
    """
    published, recorded, dead = (summary[key] for key in ("readings_published", "readings_recorded", "dead_letters"))
    missed, refused = summary["missed_forecasts"], summary["models_refused"]
    faults = [
        (published != recorded + dead, f"{published:,} readings published are not {recorded:,} + {dead} accounted for"),
        (missed > 0, f"{missed:,} forecasts missed"),
        (refused > 0, f"{refused} models refused by the edge"),
        (summary["mase_after_retrain"] is None, "no retrained model took over"),
    ]
    return "; ".join(text for fault, text in faults if fault)


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
    better = changed["mase_new"] < changed["mase_old"]
    verdict = [] if better else ["The new model is NOT better than the old one on the meters that changed."]
    return [
        *lines,
        f"MASE on the same {changed['origins']} hours of forecasts after the swap (lower is better):",
        f"  {'':24}{'old model':>12}{'new model':>12}{'seasonal naive':>18}",
        _row("meters that changed", changed),
        _row("the others", unchanged),
        *verdict,
    ]


def _row(name: str, scores: Mapping[str, Any]) -> str:
    return f"  {name:24}{scores['mase_old']:>12.3f}{scores['mase_new']:>12.3f}{scores['mase_naive']:>18.3f}"
