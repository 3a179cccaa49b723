"""Pictures for a run's artifacts; the only home of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from matplotlib.figure import Figure


def bar_chart(title: str, values: Mapping[str, float], unit: str) -> bytes:
    """Return a PNG of horizontal bars, the first of `values` on top."""
    figure = Figure(figsize=(8, 0.6 + 0.28 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()))
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(unit)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
