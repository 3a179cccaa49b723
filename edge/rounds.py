"""Forecast rounds: all meters due at one origin are scored and forecast in one vectorised pass.

Invariants: origins of a meter are made in order; the truth an origin brings is scored before its forecast is issued, so
scores do not depend on how readings were batched; a forecast redone after a crash is published again, never scored
again.

Per meter there are three origin numbers, and a round moves them in this order:

    made       this process has forecast it (in memory; begins at `delivered` after a restart)
    issued     it was scored up to and its forecast kept for later scores (committed with them)
    delivered  the broker has confirmed it (committed with whatever comes next)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.changes import Changes
from edge.effects import Publish
from edge.forecaster import CHAMPION, RUNGS, STARTER, Plan, Round, forecast
from edge.inference import Predictor
from edge.models import Models
from edge.scoring import ROLES, Issued
from edge.site import SiteState
from edge.window import NEVER
from shared.clock import iso
from shared.grid import Flag, flag_names, stuck_steps
from shared.messages import SCORE_COLUMNS, Forecast, ForecastQuality, ModelIdentity
from shared.params import Params
from shared.topics import SiteTopics

CHAMPION_ROLE: Final = ROLES.index("champion")
CHALLENGER_ROLE: Final = ROLES.index("challenger")
NO_LIMIT: Final = 2**62
METERS_AT_ONCE: Final = 250  # in one round: the features of all meters of a large site would not fit in memory
_DECIMALS: Final = 4  # 0.1 W

Ints = NDArray[np.int64]
Counters = defaultdict[tuple[str, str], float]
Columns = dict[str, list[Any]]


@dataclass(slots=True)
class Made:
    """What rounds produced: forecasts to publish and scores (columns) for the uplink."""

    publications: list[Publish] = field(default_factory=list)
    scores: Columns = field(default_factory=lambda: {name: [] for name in SCORE_COLUMNS})


class RoundMaker:
    """Knows which origin each meter is due at, and makes it."""

    def __init__(
        self,
        params: Params,
        site: SiteState,
        plan: Plan,
        models: Models,
        topics: SiteTopics,
        counters: Counters,
    ) -> None:
        self._params = params
        self._site = site
        self._plan = plan
        self._models = models
        self._topics = topics
        self._counters = counters
        self._median = plan.quantiles.index(0.5)
        self._season = 168 * 3600 // plan.step_s
        self._expiry_s = plan.horizon_steps * plan.step_s
        # The last origin made by this process; after a restart, what was made but not confirmed is made again.
        self._made = site.delivered.copy()
        self.last_origin_us = 0
        self._unserved: set[int] = set()  # meters that began in this process and have had no forecast yet

    def begin(self, row: int, opened: int) -> None:
        """A new meter: its first origin is the one after `opened`, which is that of its first interval."""
        if row >= len(self._made):
            self._made = np.concatenate([self._made, np.full(len(self._site.issued) - len(self._made), NEVER)])
        self._made[row] = self._site.issued[row] = self._site.delivered[row] = opened
        self._unserved.add(row)

    def revised(self, row: int) -> None:
        """Closed intervals of a meter have changed: one that had nothing to be forecast from may have now."""
        if row in self._unserved:
            self._made[row] = min(int(self._made[row]), int(self._site.window.closed[row]) - 1)

    def reopen(self, row: int, number: int) -> None:
        """The meter's intervals from `number` on are open again: its origins after that are yet to come."""
        for origins in (self._made, self._site.issued, self._site.delivered):
            origins[row] = min(int(origins[row]), number)

    def limits(self, rows: Ints) -> Ints:
        """How far meters' intervals may close ahead of their forecasts without leaving a pending origin's window.

        Under the wall clock only the newest origin is made, so none is pending.
        """
        if self._params.clock == "wall":
            return np.full(len(rows), NO_LIMIT)
        limits: Ints = self._made[rows] + self._site.window.slack_steps
        return limits

    def _due_rows(self) -> Ints:
        rows = self._site.active_rows
        closed, made = self._site.window.closed[rows], self._made[rows]
        due: Ints = rows[(made < closed) & (made != NEVER)]
        return due

    def due(self) -> bool:
        """Whether any meter has an origin to forecast."""
        return bool(len(self._due_rows()))

    def make(self, changes: Changes, *, at_most: int, now_us: int) -> Made:
        """Make up to `at_most` rounds, oldest origin first, and no more forecasts than METERS_AT_ONCE and a round."""
        made = Made()
        for _ in range(at_most):
            rows = self._due_rows()
            if not len(rows) or len(made.publications) >= METERS_AT_ONCE:
                break
            origins = self._next_origins(rows)
            origin = int(origins.min())
            self._round(rows[origins == origin][:METERS_AT_ONCE], origin, now_us, changes, made)
        return made

    def _next_origins(self, rows: Ints) -> Ints:
        ahead = self._made[rows] + 1 if self._params.clock == "event" else self._site.window.closed[rows]
        origins: Ints = ahead.copy()
        return origins

    def _round(self, rows: Ints, origin: int, now_us: int, changes: Changes, made: Made) -> None:
        site, models = self._site, self._models
        fresh = rows[site.issued[rows] < origin]
        oldest = int(site.issued[fresh].min()) if len(fresh) else origin
        for number in range(max(oldest, origin - site.window.slack_steps), origin):
            self._score(fresh[site.issued[fresh] <= number], number, made.scores)
        origin_us = origin * site.step_us
        windows = site.window.before(rows, origin)
        result = forecast(windows, origin_us, self._plan, models.champion, models.challenger, models.starter)
        self._issue(rows, fresh, origin, result, changes)
        made.publications += self._publications(rows, origin, result, now_us)
        self._counters["superseded", ""] += int((origin - self._made[rows] - 1).sum())
        self._made[rows] = origin
        site.issued[fresh] = origin
        changes.meters |= set(rows.tolist())
        self.last_origin_us = max(self.last_origin_us, origin_us)

    # -- scores --------------------------------------------------------------------------------------------------

    def _score(self, rows: Ints, number: int, scores: Columns) -> None:
        """Score what was issued for interval `number` of `rows` against its load."""
        site, board = self._site, self._site.scoreboard
        truth = site.window.at(rows, number)
        naive = site.window.at(rows, number - self._season)
        for role, role_name in enumerate(ROLES):
            who, lead, spread_kw, rung, version = board.due(role, rows, number)
            known = np.isfinite(truth[who])
            who, lead = who[known], lead[known]
            low_kw, middle_kw, high_kw = np.round(spread_kw[known].astype(np.float64), _DECIMALS).T
            y_kw = truth[who].astype(np.float64)
            leads = np.array(board.leads)[lead]
            scores["meter_id"] += [site.meters.by_row[row].name for row in rows[who].tolist()]
            scores["valid_us"] += [number * site.step_us] * len(who)
            scores["lead"] += leads.tolist()
            scores["role"] += [role_name] * len(who)
            scores["rung"] += [RUNGS[code] for code in rung[known].tolist()]
            scores["model_version"] += version[known].tolist()
            scores["y_kw"] += y_kw.tolist()
            scores["forecast_kw"] += middle_kw.tolist()
            scores["low_kw"] += low_kw.tolist()
            scores["high_kw"] += high_kw.tolist()
            scores["naive_kw"] += [value if value == value else None for value in naive[who].tolist()]
            self._count(role_name, leads, np.abs(y_kw - middle_kw), (low_kw <= y_kw) & (y_kw <= high_kw))

    def _count(self, role: str, leads: Ints, error_kw: NDArray[np.float64], covered: NDArray[np.bool_]) -> None:
        for lead in np.unique(leads).tolist():
            mine = leads == lead
            label = f"{role},{lead}"
            self._counters["scores", label] += int(mine.sum())
            self._counters["score_error_kw", label] += float(error_kw[mine].sum())
            self._counters["score_covered", label] += int(covered[mine].sum())

    # -- forecasts -----------------------------------------------------------------------------------------------

    def _issue(self, rows: Ints, fresh: Ints, origin: int, result: Round, changes: Changes) -> None:
        """Keep the scored leads of what this round issued."""
        board = self._site.scoreboard
        kept = np.isin(rows, fresh)
        steps = np.array(board.leads) - 1
        outer = [0, self._median, len(self._plan.quantiles) - 1]
        for role, load_kw, model in (
            (CHAMPION_ROLE, result.load_kw, self._models.champion),
            (CHALLENGER_ROLE, result.shadow_kw, self._models.challenger),
        ):
            if load_kw is None:
                continue
            spread = load_kw[:, steps][:, :, outer].astype(np.float32)
            real = kept & np.isfinite(spread).all(axis=(1, 2))
            rung = result.rung if role == CHAMPION_ROLE else np.zeros_like(result.rung)
            number = model.manifest.version if model else 0
            version = np.where(rung == 0, number, 0).astype(np.int64)
            issued = Issued(role, origin, rows[real], spread[real], rung[real], version[real])
            board.put(issued)
            changes.issued.append(issued)

    def _publications(self, rows: Ints, origin: int, result: Round, now_us: int) -> list[Publish]:
        """One retained message per meter that has a forecast, and the challenger's where asked for."""
        champion, challenger = _identity(self._models.champion), _identity(self._models.challenger)
        starter = _identity(self._models.starter.model) if self._models.starter else None
        origin_text, issued_text = iso(origin * self._site.step_us), iso(now_us)
        published: list[Publish] = []
        load_kw = np.round(result.load_kw, _DECIMALS)
        flags = self._quality_flags(rows, origin)
        for index, row in enumerate(rows.tolist()):
            if result.rung[index] < 0:
                continue
            rung = RUNGS[result.rung[index]]
            self._counters["forecasts", rung] += 1
            self._unserved.discard(row)
            message = self._message(row, origin_text, issued_text, load_kw[index], rung, result, index)
            message.quality.flags += flags[index]
            message.model = {CHAMPION: champion, STARTER: starter}.get(rung)
            topic = self._topics.forecast(message.meter)
            published.append(
                Publish(topic, message.encode(), retain=True, expiry_s=self._expiry_s, forecast=(row, origin))
            )
            shadow = None if result.shadow_kw is None else result.shadow_kw[index]
            if self._params.edge.publish_shadow and shadow is not None and np.isfinite(shadow).all():
                message.quantiles, message.model = self._quantiles(np.round(shadow, _DECIMALS)), challenger
                message.rung, message.reason = "challenger", ""
                published.append(Publish(self._topics.shadow(message.meter), message.encode()))
        return published

    def _message(
        self,
        row: int,
        origin: str,
        issued_at: str,
        load_kw: NDArray[np.float64],
        rung: str,
        result: Round,
        index: int,
    ) -> Forecast:
        steps = int(result.history_steps[index])
        quality = ForecastQuality.model_construct(
            history_h=steps * self._plan.step_s / 3600,
            completeness=round(steps / self._site.window.window_steps, 4),
            flags=self._flags(result.rung[index] == 0),
        )
        return Forecast.model_construct(
            site=self._params.site,
            meter=self._site.meters.by_row[row].name,
            issued_at=issued_at,
            origin=origin,
            step_s=self._plan.step_s,
            quantiles=self._quantiles(load_kw),
            rung=rung,
            reason=result.reasons[index],
            quality=quality,
        )

    def _quality_flags(self, rows: Ints, origin: int) -> list[list[str]]:
        """What of the grid's flags holds for any interval of the day before the origin, by meter."""
        site, per_day = self._site, self._site.steps_per_day
        flags = site.window.flags_before(rows, origin, per_day)
        stuck = stuck_steps(site.window.before(rows, origin)[:, -2 * per_day :], per_day)[:, -per_day:].any(axis=1)
        together = np.where(stuck, flags | Flag.STUCK, flags)
        names = {code: flag_names(code) for code in set(together.tolist())}
        return [names[code] for code in together.tolist()]

    def _flags(self, modelled: bool) -> list[str]:
        """What a reader should know of the forecast's making."""
        model = self._models.champion
        ours = (self._params.calendar.zone, self._params.calendar.country)
        foreign = modelled and model is not None and model.manifest.zone and _calendar_of(model) != ours
        return ["model_of_another_calendar"] if foreign else []

    def _quantiles(self, load_kw: NDArray[np.float64]) -> dict[str, list[float]]:
        return {f"{level:g}": load_kw[:, k].tolist() for k, level in enumerate(self._plan.quantiles)}


def _calendar_of(model: Predictor) -> tuple[str, str]:
    return model.manifest.zone, model.manifest.country


def _identity(model: Predictor | None) -> ModelIdentity | None:
    if model is None:
        return None
    m = model.manifest
    return ModelIdentity(
        name=m.name, version=m.version, sha256=m.sha256, run_id=m.run_id, record_version=m.record_version
    )
