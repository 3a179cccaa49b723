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
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.calibration import Source, sources_of
from edge.changes import Changes
from edge.effects import Publish
from edge.forecaster import CHAMPION, RUNGS, STARTER, Plan, Round, forecast
from edge.inference import Predictor
from edge.models import Models
from edge.scoring import ROLES, STOOD_DOWN, Issued
from edge.site import SiteState
from edge.window import NEVER
from shared.clock import iso, to_datetime
from shared.features import load_floor
from shared.grid import Flag, flag_names, stuck_steps
from shared.messages import SCORE_COLUMNS, Forecast, ForecastQuality, ModelIdentity
from shared.params import Params
from shared.quantiles import label, places, spread_places
from shared.standing import comparison, decay_of, lead_weights, reason_of, weighed
from shared.topics import SiteTopics

CHAMPION_ROLE: Final = ROLES.index("champion")
CHALLENGER_ROLE: Final = ROLES.index("challenger")
NO_LIMIT: Final = 2**62
METERS_AT_ONCE: Final = 250  # in one round: the features of all meters of a large site would not fit in memory
_DECIMALS: Final = 4  # 0.1 W

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Counters = defaultdict[tuple[str, str], float]
Columns = dict[str, list[Any]]


@dataclass(slots=True)
class Made:
    """What rounds produced: forecasts to publish, and for the uplink scores (columns) and events (rows)."""

    publications: list[Publish] = field(default_factory=list)
    scores: Columns = field(default_factory=lambda: {name: [] for name in SCORE_COLUMNS})
    events: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Met:
    """What one role issued for an interval whose load is known, as it was published: N pairs of meter and lead."""

    role: int
    rows: Ints
    lead: Ints  # index into the scored leads
    spread_kw: Floats  # [N, 3]
    rung: NDArray[np.int8]
    version: NDArray[np.int32]
    y_kw: Floats
    naive_kw: Floats

    @property
    def source(self) -> NDArray[np.int8]:
        """Whose calibration is meant, [N]."""
        if self.role == CHALLENGER_ROLE:
            return np.full(len(self.rows), Source.CHALLENGER, dtype=np.int8)
        return sources_of(self.rung)


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
        self._spread_places = spread_places(plan.quantiles)
        published = params.forecast.quantiles
        self._published = dict(zip(map(label, published), places(published, plan.quantiles), strict=True))
        self._season = 168 * 3600 // plan.step_s
        self._leads = np.array(site.scoreboard.leads, dtype=np.int64)
        self._lead_weights = lead_weights(site.scoreboard.leads, plan.horizon_steps)
        self._decay = decay_of(plan.step_s)
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

    def make(self, changes: Changes, *, at_most: int, now_us: int, wall_us: int) -> Made:
        """Make up to `at_most` rounds, oldest origin first, and no more forecasts than METERS_AT_ONCE and a round."""
        made = Made()
        for _ in range(at_most):
            rows = self._due_rows()
            if not len(rows) or len(made.publications) >= METERS_AT_ONCE:
                break
            origins = self._next_origins(rows)
            origin = int(origins.min())
            self._round(rows[origins == origin][:METERS_AT_ONCE], origin, now_us, wall_us, changes, made)
        return made

    def _next_origins(self, rows: Ints) -> Ints:
        ahead = self._made[rows] + 1 if self._params.clock == "event" else self._site.window.closed[rows]
        origins: Ints = ahead.copy()
        return origins

    def _round(self, rows: Ints, origin: int, now_us: int, wall_us: int, changes: Changes, made: Made) -> None:
        site = self._site
        fresh = rows[site.issued[rows] < origin]
        oldest = int(site.issued[fresh].min()) if len(fresh) else origin
        for number in range(max(oldest, origin - site.window.slack_steps), origin):
            self._score(fresh[site.issued[fresh] <= number], number, changes, made)
        origin_us = origin * site.step_us
        windows = site.window.before(rows, origin)
        raw = self._forecast(windows, rows, origin_us, wall_us, made)
        result = self._calibrated(raw, rows, load_floor(windows))
        self._measure_width(raw, result)
        self._issue(rows, fresh, origin, result, changes)
        made.publications += self._publications(rows, origin, result, now_us)
        self._counters["superseded", ""] += int((origin - self._made[rows] - 1).sum())
        self._made[rows] = origin
        site.issued[fresh] = origin
        changes.meters |= set(rows.tolist())
        self.last_origin_us = max(self.last_origin_us, origin_us)

    def _forecast(self, windows: Floats32, rows: Ints, origin_us: int, wall_us: int, made: Made) -> Round:
        """Forecast with the models that run; one that fails gives way to the one before within the round."""
        while True:
            lineup = self._models.lineup
            raw = forecast(windows, origin_us, self._plan, lineup, self._site.covariates, self._stood_down(rows))
            if not raw.failed:
                return raw
            for role, refused in raw.failed.items():
                told = self._models.fail(role, refused, to_datetime(wall_us))
                made.events.append((origin_us, f"{role}_failed", told))

    # -- scores --------------------------------------------------------------------------------------------------

    def _score(self, rows: Ints, number: int, changes: Changes, made: Made) -> None:
        """Score what was issued for interval `number` of `rows` against its load, and learn from it."""
        board = self._site.scoreboard
        truth = self._site.window.at(rows, number).astype(np.float64)
        naive = self._site.window.at(rows, number - self._season).astype(np.float64)
        met = []
        for role in (CHAMPION_ROLE, CHALLENGER_ROLE, STOOD_DOWN):
            who, lead, spread, rung, version = board.due(role, rows, number)
            known = np.isfinite(truth[who])
            who, spread_kw = who[known], spread[known].astype(np.float64).round(_DECIMALS)
            loads = truth[who], naive[who]
            met.append(Met(role, rows[who], lead[known], spread_kw, rung[known], version[known], *loads))
        for one in met:
            self._learn(one, changes)
            if one.role != STOOD_DOWN:
                self._tell(one, number, made.scores)
                self._count(one)
        self._weigh(rows, [met[CHAMPION_ROLE], met[STOOD_DOWN]], (number + 1) * self._site.step_us, changes, made)

    def _tell(self, met: Met, number: int, scores: Columns) -> None:
        """Put scores into the columns for central."""
        scores["meter_id"] += [self._site.meters.by_row[row].name for row in met.rows.tolist()]
        scores["valid_us"] += [number * self._site.step_us] * len(met.rows)
        scores["lead"] += self._leads[met.lead].tolist()
        scores["role"] += [ROLES[met.role]] * len(met.rows)
        scores["rung"] += [RUNGS[code] for code in met.rung.tolist()]
        scores["model_version"] += met.version.tolist()
        scores["y_kw"] += met.y_kw.tolist()
        for name, values in zip(("low_kw", "forecast_kw", "high_kw"), met.spread_kw.T, strict=True):
            scores[name] += values.tolist()
        scores["naive_kw"] += [value if value == value else None for value in met.naive_kw.tolist()]

    def _count(self, met: Met) -> None:
        low_kw, middle_kw, high_kw = met.spread_kw.T
        error_kw, covered = np.abs(met.y_kw - middle_kw), (low_kw <= met.y_kw) & (met.y_kw <= high_kw)
        for index in sorted(set(met.lead.tolist())):
            mine = met.lead == index
            label = f"{ROLES[met.role]},{self._leads[index]}"
            self._counters["scores", label] += int(mine.sum())
            self._counters["score_error_kw", label] += float(error_kw[mine].sum())
            self._counters["score_covered", label] += int(covered[mine].sum())

    # -- what is learned from them -------------------------------------------------------------------------------

    def _learn(self, met: Met, changes: Changes) -> None:
        """Let each source's calibration see how its intervals did."""
        source = met.source
        for one in sorted(set(source.tolist())):
            own = source == one
            self._site.calibration.learn(one, met.rows[own], met.lead[own], met.y_kw[own], met.spread_kw[own])
            changes.calibrated.append((one, met.rows[own]))

    def _weigh(self, rows: Ints, met: list[Met], at_us: int, changes: Changes, made: Made) -> None:
        """Hold the champion's errors against seasonal naive's, and tell of those whose verdict this changes."""
        champion = self._models.champion
        if champion is None or not len(rows):
            return
        champion_kw, naive_kw = np.full((2, len(rows), len(self._leads)), np.nan)
        for one in met:
            own = (one.rung == 0) & (one.version == champion.manifest.version)
            place = (np.searchsorted(rows, one.rows[own]), one.lead[own])
            champion_kw[place] = np.abs(one.y_kw - one.spread_kw[:, 1])[own]
            naive_kw[place] = np.abs(one.y_kw - one.naive_kw)[own]
        before = self._site.standing.of(rows, champion.manifest.version)
        after = weighed(before, champion_kw, naive_kw, weights=self._lead_weights, decay=self._decay)
        moved = np.flatnonzero(after != before)
        self._site.standing.put(rows[moved], after[moved])
        changes.standing |= set(rows[moved].tolist())
        for index in np.flatnonzero(after["down"] != before["down"]).tolist():
            event = "champion_stood_down" if after["down"][index] else "champion_returned"
            name = self._site.meters.by_row[int(rows[index])].name
            made.events.append(
                (at_us, event, f"{name}: version {champion.manifest.version}, {comparison(after[index])}")
            )
            self._counters["meters", event.removeprefix("champion_")] += 1

    # -- forecasts -----------------------------------------------------------------------------------------------

    def _stood_down(self, rows: Ints) -> dict[int, str]:
        """Which of `rows`, by index, the champion is stood down for, and why."""
        champion = self._models.champion
        if champion is None:
            return {}
        records = self._site.standing.of(rows, champion.manifest.version)
        return {index: reason_of(records[index]) for index in np.flatnonzero(records["down"]).tolist()}

    def _calibrated(self, raw: Round, rows: Ints, floor_kw: Floats) -> Round:
        """Correct every forecast of a round by its source's calibration."""

        def by(source: Source, load_kw: Floats | None) -> Floats | None:
            sources = np.full(len(rows), source, dtype=np.int8)
            return None if load_kw is None else self._site.calibration.apply(load_kw, sources, rows, floor_kw)

        return replace(
            raw,
            load_kw=self._site.calibration.apply(raw.load_kw, sources_of(raw.rung), rows, floor_kw),
            shadow_kw=by(Source.CHALLENGER, raw.shadow_kw),
            stood_down_kw=by(Source.MODEL, raw.stood_down_kw),
        )

    def _measure_width(self, raw: Round, issued: Round) -> None:
        """Count how wide the outer intervals at the scored leads are, as modelled and as issued."""
        made = raw.rung >= 0
        for stage, one in (("modelled", raw), ("issued", issued)):
            ends_kw = one.load_kw[:, self._leads - 1][made]
            for lead, width_kw in zip(
                self._leads.tolist(), (ends_kw[..., -1] - ends_kw[..., 0]).sum(axis=0), strict=True
            ):
                self._counters["width_kw", f"{stage},{lead}"] += float(width_kw)

    def _issue(self, rows: Ints, fresh: Ints, origin: int, result: Round, changes: Changes) -> None:
        """Keep the scored leads of what this round issued."""
        board = self._site.scoreboard
        kept = np.isin(rows, fresh)
        steps = self._leads - 1
        for role, load_kw, model in (
            (CHAMPION_ROLE, result.load_kw, self._models.champion),
            (CHALLENGER_ROLE, result.shadow_kw, self._models.challenger),
            (STOOD_DOWN, result.stood_down_kw, self._models.champion),
        ):
            if load_kw is None:
                continue
            spread = load_kw[:, steps][:, :, self._spread_places].astype(np.float32)
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
        return {name: load_kw[:, place].tolist() for name, place in self._published.items()}


def _calendar_of(model: Predictor) -> tuple[str, str]:
    return model.manifest.zone, model.manifest.country


def _identity(model: Predictor | None) -> ModelIdentity | None:
    if model is None:
        return None
    m = model.manifest
    return ModelIdentity(
        name=m.name, version=m.version, sha256=m.sha256, run_id=m.run_id, record_version=m.record_version
    )
