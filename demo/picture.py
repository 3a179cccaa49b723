"""The picture of a run: the 48-hour fan before and after the retrain with what came true, and below it the errors of
every day.

One PNG, `loop.png`. Drawn from the outcome alone; the household and the two origins shown are typical ones, chosen by
rule, not the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from demo.archive import HIGH, LOW, MEDIAN, ForecastArchive
from demo.fans import Fan, choose_fans
from demo.observer import SERVED, SHADOW
from demo.scenario import CHARGING_HOURS, ZONE
from demo.scores import DAY, Medians
from demo.summary import Outcome
from shared.metrics import mean_of

INK: Final = "#1f2430"
FAINT: Final = "#8a8f9c"
NAIVE: Final = "#a9adb8"
OLD: Final = "#3b6fb6"
NEW: Final = "#128a72"
CAR: Final = "#f6d78b"
ALERT: Final = "#c2452d"
SHOWN: Final = timedelta(days=28)  # of history, in the time lines
STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": "#c9ccd4",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#5b606d",
    "ytick.color": "#5b606d",
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.grid.axis": "y",
    "grid.color": "#eceef2",
    "axes.axisbelow": True,
    "xtick.major.pad": 7,
}


def draw(outcome: Outcome, path: Path) -> None:
    """Draw the run to `path`, 1760 × 1210 pixels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(16, 11), facecolor="white")
        rows = figure.add_gridspec(
            3,
            2,
            height_ratios=[4.3, 3.0, 1.35],
            left=0.065,
            right=0.98,
            top=0.845,
            bottom=0.055,
            hspace=0.40,
            wspace=0.09,
        )
        _headline(figure, outcome)
        _fans(figure, [figure.add_subplot(rows[0, 0]), figure.add_subplot(rows[0, 1])], outcome)
        timeline = figure.add_subplot(rows[1, :])
        _daily_errors(timeline, outcome)
        _rungs(figure.add_subplot(rows[2, :], sharex=timeline), outcome)
        shown = _day(pd.Timestamp(max(outcome.observer.scenario.start, outcome.observer.scenario.live_from - SHOWN)))
        timeline.set_xlim(shown, _day(_days(outcome)[-1]) + 1)  # last, for the strip below set its own
        figure.savefig(path, dpi=110)


def _headline(figure: Figure, outcome: Outcome) -> None:
    verdict = outcome.verdict()
    meters, changed = len(outcome.changed), int(outcome.changed.sum())
    story = (
        f"{meters} London households are forecast every hour, 48 hours ahead. "
        f"In {changed} of them a car begins to charge every second night."
    )
    if verdict is not None:
        before, after = verdict.changed.mase_old, verdict.changed.mase_new
        story += (
            " Drift is seen, a new model is trained and sent over MQTT: "
            f"on the same hours of the changed homes its error is {abs(1 - after / before):.0%} "
            f"{'lower' if after < before else 'higher'} than the old model's "
            f"(MASE {before:.2f} → {after:.2f}; seasonal naive {verdict.changed.mase_naive:.2f})."
        )
    figure.text(0.065, 0.952, "The loop closes", size=25, weight="bold")
    figure.text(0.065, 0.936, fill(story, 165), size=12.5, va="top", color="#4a4f5c", linespacing=1.45)


def _fans(figure: Figure, axes: Sequence[Axes], outcome: Outcome) -> None:
    fans = choose_fans(outcome)
    top = max((fan.top_kw() for fan in fans), default=1.0)
    for axis, fan in zip(axes, fans, strict=False):
        _fan(axis, fan)
        axis.set_ylim(0, top * 1.12)
    for axis in axes[len(fans) :]:
        axis.set_axis_off()
    if fans:
        axes[0].set_ylabel("kW, hourly mean")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.98, 0.985), frameon=False, ncols=4)


def _fan(axis: Axes, fan: Fan) -> None:
    colour = NEW if fan.after else OLD
    hours = pd.date_range(fan.begins, periods=len(fan.truth_kw), freq="h")
    at = np.array([_day(hour) for hour in hours])
    ahead = at[-len(fan.quantiles) :]
    for number, night in enumerate(fan.charging):
        start = _day(pd.Timestamp(night))
        label = "car charging" if number == 0 else None
        axis.axvspan(start, start + len(CHARGING_HOURS) / DAY, color=CAR, alpha=0.55, lw=0, zorder=0, label=label)
    low, median, high = (fan.quantiles[:, which] for which in (LOW, MEDIAN, HIGH))
    axis.fill_between(ahead, low, high, color=colour, alpha=0.22, lw=0, step="post", label="80 % interval")
    axis.step(ahead, median, color=colour, lw=2.2, where="post", label="forecast (median)")
    axis.step(at, fan.truth_kw, color=INK, lw=1.3, where="post", label="what came true")
    axis.axvline(ahead[0], color=FAINT, lw=1, ls=(0, (4, 3)))
    axis.set_title(fan.title, color=colour, pad=10)
    axis.set_xlim(at[0], at[-1])
    midnights = hours.tz_convert(ZONE).normalize().unique()[1:]
    axis.set_xticks([_day(midnight) for midnight in midnights], [f"{midnight:%a %-d %b}" for midnight in midnights])
    axis.grid(visible=True)
    axis.tick_params(length=0)


def _day(instant: pd.Timestamp) -> float:
    """Days since the epoch: how matplotlib counts time."""
    return instant.timestamp() / 86_400


def _days(outcome: Outcome) -> pd.DatetimeIndex:
    days = outcome.until // DAY
    return pd.date_range(outcome.observer.scenario.start, periods=days, freq="D")


def daily_errors(outcome: Outcome, medians: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the changed meters' mean scaled error over the first 24 leads of each day's origins, `[days]`."""
    scaled = outcome.hindsight.scaled_errors(medians, leads=DAY)[outcome.changed]
    days = outcome.until // DAY
    by_day = scaled[:, : days * DAY].reshape(len(scaled), days, DAY)
    return mean_of(mean_of(by_day).T)


def _daily_errors(axis: Axes, outcome: Outcome) -> None:
    served, shadow = outcome.observer.archives[SERVED], outcome.observer.archives[SHADOW]
    days = [_day(day) for day in _days(outcome)]
    noon = np.array(days) + 0.5
    naive = daily_errors(outcome, outcome.hindsight.naive)
    axis.plot(noon, naive, color=NAIVE, lw=1.5, label="seasonal naive (a week ago)")
    for push in outcome.observer.pushed:
        errors = daily_errors(outcome, Medians.of(push.version, served).values)
        axis.plot(noon, errors, color=_colour(outcome, push.version), lw=2.6, label=f"model v{push.version}, serving")
    if outcome.retrain is not None:
        old = outcome.retrain.old_version
        errors = daily_errors(outcome, Medians.of(old, shadow).values)
        axis.plot(noon, errors, color=OLD, lw=1.8, ls=(0, (3, 2)), label=f"model v{old}, still computing in shadow")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
    _mark_moments(axis, outcome)
    homes = int(outcome.changed.sum())
    axis.set_title(f"Daily error of the {homes} homes that change", pad=12)
    axis.set_ylabel("MAE over 24 h, scaled")
    axis.legend(loc="lower right", bbox_to_anchor=(1.005, 1.0), frameon=False, ncols=4, fontsize=11)
    axis.grid(visible=True)
    axis.tick_params(length=0)
    weeks = _days(outcome)[::14]
    axis.set_xticks([_day(week) for week in weeks], [f"{week:%-d %b}" for week in weeks])


def _colour(outcome: Outcome, version: int) -> str:
    if outcome.retrain is None or version < outcome.retrain.push.version:
        return OLD
    return NEW


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, to be marked on the time axis."""

    at: pd.Timestamp
    text: str
    colour: str
    strong: bool = True


def moments(outcome: Outcome) -> list[Moment]:
    """Return what is marked: the change, each drift message, and each model's first served hour."""
    scenario, observer = outcome.observer.scenario, outcome.observer
    marks = [Moment(pd.Timestamp(scenario.change_at), "cars arrive", "#a06c00")]
    for number, seen in enumerate(observer.drift):
        at = pd.Timestamp(seen.event_us, unit="us", tz="UTC")
        first = number == 0 or (outcome.retrain is not None and seen is outcome.retrain.drift)
        marks.append(Moment(at, "drift seen" if first else "", ALERT, strong=first))
    for push in observer.pushed:
        origin = observer.archives[SERVED].first_origin_of(push.version)
        if origin is not None:
            at = pd.Timestamp(scenario.start) + timedelta(hours=origin)
            marks.append(Moment(at, f"v{push.version} takes over", _colour(outcome, push.version)))
    return sorted(marks, key=lambda mark: mark.at)


def _mark_moments(axis: Axes, outcome: Outcome) -> None:
    top = axis.get_ylim()[1]
    box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}
    for number, mark in enumerate(moments(outcome)):
        at, height = _day(mark.at), top * (0.93 - 0.10 * (number % 2))
        axis.axvline(at, color=mark.colour, lw=1.6 if mark.strong else 0.8, alpha=0.9 if mark.strong else 0.4)
        axis.annotate(
            mark.text, (at, height), xytext=(5, 0), textcoords="offset points",
            color=mark.colour, weight="bold", fontsize=10.5, bbox=box if mark.text else None,
        )  # fmt: skip


def _rungs(axis: Axes, outcome: Outcome) -> None:
    served = outcome.observer.archives[SERVED]
    order = np.argsort(~outcome.changed, kind="stable")
    codes = _who(served, outcome)[order][:, : outcome.until]
    left = _day(pd.Timestamp(outcome.observer.scenario.start))
    axis.imshow(
        codes,
        aspect="auto",
        cmap=ListedColormap(["white", NAIVE, OLD, NEW]),
        norm=BoundaryNorm([0, 1, 2, 3, 4], 4),
        interpolation="nearest",
        extent=(left, left + codes.shape[1] / DAY, float(len(order)), 0.0),
    )
    changed = int(outcome.changed.sum())
    axis.axhline(changed, color="white", lw=2)
    axis.set_yticks([changed / 2, (changed + len(order)) / 2], [f"{changed} changed", f"{len(order) - changed} others"])
    axis.set_title(
        "Who made each home's forecast: grey starter or rules, blue the first model, green the retrained, white nobody",
        pad=8,
    )
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _who(served: ForecastArchive, outcome: Outcome) -> NDArray[np.int8]:
    """Return 0 no forecast, 1 fallback, 2 an earlier model, 3 the retrained or a later one; `[meters, origins]`."""
    new = outcome.retrain.push.version if outcome.retrain is not None else np.iinfo(np.int16).max
    who = np.where(served.version > 0, np.where(served.version >= new, 3, 2), 1)
    return np.where(served.messages > 0, who, 0).astype(np.int8)
