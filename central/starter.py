"""The starter: a small model of open data sets, made by one command and shipped with the edge.

Invariants: the same folder gives the same bytes; nothing is written unless the model passed the gate of
central/starter_judging.py, judged on each set by a starter of the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from central.dataset import Panel
from central.evaluation import model_forecaster
from central.export import proven
from central.file_panel import panel_from_file
from central.progress import teller
from central.samples import Rows, Sampling, joined, training_rows
from central.starter_judging import HISTORIES_D, TOLERANCE, Line, judge, min_history_d, objections, table
from central.training import Recipe, TrainedModel, fit
from shared.calendars import Calendar
from shared.clock import iso
from shared.errors import DataFileError, MetercastError
from shared.features import SCHEMA_HASH
from shared.manifest import Golden, Manifest, pack

PROJECT: Final = Path(__file__).parents[1]
SHIPPED: Final = PROJECT / "edge" / "starter"
DOCUMENT: Final = PROJECT / "docs" / "starter.md"
MAX_BYTES: Final = 1_000_000  # of the graph as it is
NAME: Final = "metercast-starter"
NEVER: Final = "9999-12-31T00:00:00Z"
QUANTILES: Final = (0.1, 0.5, 0.9)
HORIZON_STEPS: Final = 48
STEP_S: Final = 3600
RECIPE: Final = Recipe(trees=60, learning_rate=0.1, patience=0, rows_cap=60_000)  # rows of each set

_MAX_ZERO_SHARE: Final = 0.5  # a series that is mostly zero teaches nothing of others
_PROOF_ROWS: Final = 1024  # of each set

_say = teller("starter")


@dataclass(frozen=True, slots=True)
class OpenSet:
    """A data set whose licence lets a model of it be shipped: its file's stem, and how its readings become load.

    `endings` are what the ids of the meters taken end with, if not all are; zone and country are those of its meters.
    """

    stem: str
    licence: str
    attribution: str
    aggregate: str = "mean"
    zone: str = "UTC"
    country: str | None = None
    endings: tuple[str, ...] = ("",)

    @property
    def calendar(self) -> Calendar:
        """Return the calendar of zone and country."""
        return Calendar(self.zone, self.country)


SETS: Final = (
    OpenSet(
        "lcl_households",
        "CC BY 4.0",
        "Low Carbon London, UK Power Networks / London Datastore",
        aggregate="sum",  # of half-hourly energy
        zone="Europe/London",
        country="GB",
    ),
    OpenSet("citylearn_2022", "MIT", "CityLearn challenge 2022", endings=(":load",)),
    OpenSet("openstef_feeders", "MPL-2.0", "OpenSTEF / Alliander", zone="Europe/Amsterdam", country="NL"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One set made ready: its panel and the training rows drawn from it."""

    of: OpenSet
    panel: Panel
    rows: Rows


@dataclass(frozen=True, slots=True)
class Made:
    """A starter and its evidence; `reasons` says why it must not ship, and is empty when it may."""

    artifact: bytes
    manifest: Manifest
    sources: tuple[Source, ...]
    lines: tuple[Line, ...]
    min_history_d: int | None
    reasons: tuple[str, ...]


def make(folder: Path, *, sets: Sequence[OpenSet] = SETS, recipe: Recipe = RECIPE) -> Made:
    """Train on the sets in `folder`, judge leaving each set out, and prove the graph.

    Raises DataFileError naming a file that is missing or cannot be used. Progress goes to stderr.
    """
    sources = prepared(folder, sets=sets, recipe=recipe)
    lines = tuple(line for source in sources for line in _judged(source, sources, recipe))
    _say("training on all sets")
    model = fitted(sources, recipe)
    artifact, golden = proven(model, _proof_rows(sources))
    least = min_history_d(lines)
    reasons = list(objections(lines))
    if least is None:
        reasons.append(f"at {HISTORIES_D[-1]} d of history the simple rungs are better")
    if len(artifact) > MAX_BYTES:
        reasons.append(f"its graph has {len(artifact)} bytes, at most {MAX_BYTES} may ship")
    return Made(artifact, _manifest(model, artifact, golden, sources), tuple(sources), lines, least, tuple(reasons))


def prepared(folder: Path, *, sets: Sequence[OpenSet] = SETS, recipe: Recipe = RECIPE) -> list[Source]:
    """Read the sets in `folder` and draw equally many rows of each. Raises DataFileError as `make` does."""
    return _balanced([_source(folder, of, recipe) for of in sets])


def fitted(sources: Sequence[Source], recipe: Recipe = RECIPE) -> TrainedModel:
    """Train on all rows of the sources."""
    rows = joined([source.rows for source in sources])
    until_us = max(source.panel.end_us for source in sources)
    return fit(rows, until_us=until_us, step_s=STEP_S, quantiles=QUANTILES, horizon_steps=HORIZON_STEPS, recipe=recipe)


def write(made: Made, out: Path) -> None:
    """Write the model, its manifest and its evidence; raises MetercastError for one that must not ship."""
    if made.reasons:
        raise MetercastError(f"train: no starter was written: {'; '.join(made.reasons)}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx.gz").write_bytes(b"".join(pack(made.artifact).chunks))
    (out / "manifest.json").write_text(made.manifest.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
    (out / "judged.json").write_text(json.dumps(evidence(made), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def evidence(made: Made) -> dict[str, object]:
    """Return what `judged.json` holds: the least history served, what was trained on, and every line of the table."""
    return {
        "min_history_h": None if made.min_history_d is None else 24 * made.min_history_d,
        "tolerance": TOLERANCE,
        "trained_on": [
            {
                "set": source.of.stem,
                "meters": len(source.panel.meters),
                "rows": len(source.rows.x),
                "licence": source.of.licence,
                "attribution": source.of.attribution,
            }
            for source in made.sources
        ],
        "judged": [asdict(line) for line in made.lines],
    }


def shipped_lines() -> list[Line]:
    """Return the lines that the shipped starter was judged by."""
    judged = json.loads((SHIPPED / "judged.json").read_text(encoding="utf-8"))["judged"]
    return [Line(**line) for line in judged]


def with_table(document: str, lines: Sequence[Line]) -> str:
    """Return a document with the table between its two marks replaced; raises ValueError for one without them."""
    text, count = re.subn(
        r"(?<=<!-- judged -->\n).*?(?=<!-- /judged -->)", lambda _: table(lines) + "\n", document, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError("expected one pair of the marks <!-- judged --> and <!-- /judged -->")
    return text


def _source(folder: Path, of: OpenSet, recipe: Recipe) -> Source:
    path = folder / f"{of.stem}.parquet"
    if not path.is_file():
        raise DataFileError(f"{path}: is not there; the starter is made of {', '.join(one.stem for one in SETS)}")
    _say(f"reading {path.name}")
    panel = taken(panel_from_file(path, step_s=STEP_S, aggregate=of.aggregate), of.endings)
    sampling = Sampling(recipe.rows_cap, recipe.leads_per_sample, HORIZON_STEPS, recipe.dropout, recipe.half_life_days)
    rng = np.random.default_rng(recipe.seed)
    try:
        rows = training_rows(panel, until_us=panel.end_us, rng=rng, sampling=sampling, calendar=of.calendar)
    except ValueError as error:
        raise DataFileError(f"{path}: {error}") from error
    return Source(of, panel, rows)


def taken(panel: Panel, endings: tuple[str, ...]) -> Panel:
    """Return the meters whose id has one of the endings and that are not mostly zero."""
    seen = np.isfinite(panel.load_kw).sum(axis=1)
    zero = (panel.load_kw == 0).sum(axis=1)
    named = np.array([meter.endswith(endings) for meter in panel.meters])
    kept = np.flatnonzero(named & (zero <= _MAX_ZERO_SHARE * seen))
    return Panel([panel.meters[row] for row in kept], panel.start_us, panel.step_s, panel.load_kw[kept])


def _balanced(sources: list[Source]) -> list[Source]:
    """Return the sources with equally many rows each."""
    least = min(len(source.rows.x) for source in sources)
    return [Source(source.of, source.panel, _evenly(source.rows, least)) for source in sources]


def _evenly(rows: Rows, count: int) -> Rows:
    """Return `count` rows, evenly spaced: rows lie by meter and time, so that no meter is cut off."""
    chosen = np.arange(count) * len(rows.x) // count
    return rows.part(chosen)


def _judged(left_out: Source, sources: Sequence[Source], recipe: Recipe) -> list[Line]:
    _say(f"judging on {left_out.of.stem} what the other sets teach")
    model = fitted([source for source in sources if source is not left_out], recipe)
    calendar = left_out.of.calendar
    forecaster = model_forecaster(model, calendar)
    return judge(left_out.of.stem, left_out.panel, forecaster, quantiles=QUANTILES, calendar=calendar)


def _proof_rows(sources: Sequence[Source]) -> NDArray[np.float32]:
    return np.concatenate([_evenly(source.rows, min(_PROOF_ROWS, len(source.rows.x))).x for source in sources])


def _manifest(model: TrainedModel, artifact: bytes, golden: Golden, sources: Sequence[Source]) -> Manifest:
    """Return the claim of a model that is dated by its data and does not expire: it is renewed with the edge."""
    return Manifest(
        name=NAME,
        version=1,
        **pack(artifact).claims,
        created=iso(model.trained_until_us),
        expires=NEVER,
        features=list(model.features),
        schema_hash=SCHEMA_HASH,
        step_s=model.step_s,
        horizon_steps=model.horizon_steps,
        quantiles=list(model.quantiles),
        golden=golden,
        reason=f"trained on {', '.join(source.of.stem for source in sources)}",
        run_id="starter",
        record_version=0,
    )
