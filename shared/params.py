"""The parameters of both sides: every key with its type, default and description. Unknown keys are refused."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from shared.clock import duration_us, format_duration, parse_duration
from shared.grid import UNITS, Kind, MeterLimits
from shared.quantiles import Quantiles, modelled
from shared.topics import RESERVED_SITES, is_site_id

STEPS: Final = {"15min": timedelta(minutes=15), "30min": timedelta(minutes=30), "1h": timedelta(hours=1)}
SCORED_LEADS: Final = tuple(timedelta(hours=hours) for hours in (1, 6, 24, 48))


def scored_leads(step_s: int, horizon_steps: int) -> tuple[int, ...]:
    """Return the leads, in steps, whose forecasts are scored: of SCORED_LEADS those within the horizon."""
    leads = sorted({int(lead.total_seconds()) // step_s for lead in SCORED_LEADS})
    return tuple(lead for lead in leads if lead <= horizon_steps) or (horizon_steps,)


def _duration(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"{value!r} has no unit; expected something like 30s, 15min, 1h or 14d")
    return parse_duration(value) if isinstance(value, str) else value


def _step(value: object) -> object:
    step = _duration(value)
    if step not in STEPS.values():
        raise ValueError("expected 15min, 30min or 1h")
    return step


def _scored_lead(value: object) -> object:
    lead = _duration(value)
    if lead not in SCORED_LEADS:
        raise ValueError("expected 1h, 6h, 24h or 48h, the leads whose forecasts are scored")
    return lead


def _path(value: object) -> object:
    try:
        return Path(value).expanduser() if isinstance(value, (str, Path)) else value
    except RuntimeError as error:
        raise ValueError(f"{value}: {error}") from error


def _with_tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _site(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text; put it in quotes")
    if not is_site_id(value):
        raise ValueError(f"expected 1 to 64 of letters, digits, _ . : - and not {' or '.join(sorted(RESERVED_SITES))}")
    return value


def _zone(value: object) -> object:
    try:
        ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is no IANA time zone such as Europe/London") from error
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(format_duration)]
Step = Annotated[timedelta, BeforeValidator(_step), PlainSerializer(format_duration)]
ScoredLead = Annotated[timedelta, BeforeValidator(_scored_lead), PlainSerializer(format_duration)]
FilePath = Annotated[Path, BeforeValidator(_path), PlainSerializer(_with_tilde)]
Share = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
LONGEST_PERIOD: Final = timedelta(hours=24)  # of an energy reading
LONGEST_HORIZON: Final = timedelta(hours=48)  # the features reach no further
STATE_HOME: Final = Path("~/.local/state/metercast")


_GLOB: Final = r"^[A-Za-z0-9_.:*?\[\]!-]{1,128}$"  # what may match an id


class Section(BaseModel):
    """A group of parameters; refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TlsParams(Section):
    """TLS to the broker; all empty means plain TCP."""

    ca: str = Field("", description="file of the authority that signed the broker's certificate")
    cert: str = Field("", description="file of this client's certificate")
    key: str = Field("", description="file of this client's private key")


class MqttParams(Section):
    """The broker this process connects to."""

    host: str = Field("localhost", description="name or address of the broker", min_length=1)
    port: Port = Field(1883, description="TCP port of the broker")
    root: str = Field("metercast", description="first level of every topic", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    username: str = Field("", description="user name; empty for none")
    password_file: str = Field("", description="file that holds the password; empty for none")
    tls: TlsParams = TlsParams()
    receive_maximum: int = Field(
        2000, ge=1, le=65535, description="unacknowledged QoS 1 messages the broker may send us; at least `edge.batch`"
    )
    session_expiry: Duration = Field(
        timedelta(days=7), description="how long the broker keeps our session and queue while we are away"
    )


class CalendarParams(Section):
    """Where the meters are, for local hours, weekdays and holidays."""

    zone: Annotated[str, BeforeValidator(_zone)] = Field("UTC", description="IANA time zone of the site")
    country: str = Field("", description="ISO country code whose holidays count, such as GB; empty for none")


class GridParams(Section):
    """How readings become intervals."""

    step: Step = Field(timedelta(hours=1), description="length of an interval: 15min, 30min or 1h")
    lateness: Duration = Field(timedelta(hours=6), description="readings up to this old revise their closed interval")
    grace: Duration = Field(
        timedelta(minutes=5), description="a silent meter's interval closes this long after its end"
    )
    max_ahead: Duration | None = Field(
        None,
        description="readings further ahead of now are dead letters; default 1h under clock wall, 400d under event",
    )
    max_age: Duration = Field(timedelta(days=400), description="readings older than this are dead letters")
    hold: Duration = Field(timedelta(hours=1), description="how long a power reading holds when no later one arrives")
    max_gap: Duration = Field(timedelta(hours=6), description="longest gap of a register that is interpolated")


class MeterBinding(Section):
    """What is known of meters beyond their messages; a message that says otherwise of unit, kind or period is right."""

    meter: str = Field(description="glob of the ids of the meters, such as plug-*", pattern=_GLOB)
    site: str = Field("*", description="glob of the ids of their sites", pattern=_GLOB)
    unit: Literal["W", "kW", "MW", "Wh", "kWh", "MWh"] | None = Field(
        None, description="unit of values sent without one: W, kW, MW, Wh, kWh or MWh"
    )
    kind: Kind | None = Field(
        None, description="what values sent without a kind are: power, energy or register; Wh, kWh and MWh need it"
    )
    period: Duration | None = Field(
        None, description="how long an energy value sent without period_s covers; default grid.step"
    )
    register_max_kwh: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="where the register begins at 0 again: 100000 for five digits"
    )
    min_kw: float | None = Field(None, allow_inf_nan=False, description="a lower load is left out as implausible")
    max_kw: float | None = Field(None, allow_inf_nan=False, description="a higher load is left out as implausible")

    @model_validator(mode="after")
    def _hangs_together(self) -> MeterBinding:
        if self.unit is not None and self.kind is None and len(UNITS[self.unit].kinds) > 1:
            raise ValueError(f"kind is missing: {self.unit} may be {' or '.join(UNITS[self.unit].kinds)}")
        if self.unit is not None and self.kind is not None and self.kind not in UNITS[self.unit].kinds:
            raise ValueError(f"kind {self.kind} does not go with unit {self.unit}")
        if self.period is not None and not timedelta(seconds=1) <= self.period <= LONGEST_PERIOD:
            raise ValueError(f"period {format_duration(self.period)} is not within 1s and 24h")
        if self.min_kw is not None and self.max_kw is not None and not self.min_kw < self.max_kw:
            raise ValueError(f"min_kw {self.min_kw:g} is not below max_kw {self.max_kw:g}")
        return self

    @cached_property
    def limits(self) -> MeterLimits:
        """What is possible at these meters."""
        return MeterLimits(self.register_max_kwh, self.min_kw, self.max_kw)

    def kind_of(self, unit: str) -> Kind | None:
        """What a value in `unit` sent without a kind is: the unit's only kind, else ours; None where that is open."""
        kinds = UNITS[unit].kinds
        if len(kinds) == 1:
            return kinds[0]
        return self.kind if self.kind in kinds else None

    @cached_property
    def period_us(self) -> int | None:
        """`period` in microseconds."""
        return None if self.period is None else duration_us(self.period)


class ForecastParams(Section):
    """What is forecast."""

    horizon: Duration = Field(timedelta(hours=48), description="how far a forecast reaches")
    quantiles: tuple[float, ...] = Field(
        (0.1, 0.5, 0.9), description="quantiles of a published forecast, ascending; the median is modelled in any case"
    )
    retire_after: Duration = Field(timedelta(days=14), description="a meter silent this long has its forecast cleared")
    min_history: Duration = Field(timedelta(days=3), description="history a meter needs before a model forecasts it")

    @model_validator(mode="after")
    def _ascending(self) -> ForecastParams:
        modelled(self.quantiles)
        return self

    @property
    def modelled(self) -> Quantiles:
        """The quantiles of the models: those published, and the median."""
        return modelled(self.quantiles)


class EdgeParams(Section):
    """The edge node."""

    state_dir: FilePath = Field(STATE_HOME / "edge", description="folder of the edge's state database and models")
    metrics_host: str = Field("127.0.0.1", description="address Prometheus metrics are served on")
    metrics_port: int = Field(9464, ge=0, le=65535, description="port Prometheus metrics are served on; 0 serves none")
    batch: int = Field(1000, ge=1, description="most readings messages committed in one transaction")
    max_payload_bytes: int = Field(262_144, ge=1024, description="a larger readings payload is a dead letter")
    dead_letters_per_minute: int = Field(
        20,
        ge=1,
        description="dead letters of one meter written one by one; what is beyond them is counted in summaries",
    )
    max_model_bytes: int = Field(67_108_864, ge=1024, description="a larger model artifact is refused")
    model_seconds: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="most processor time that a model may take for a full batch of forecasts",
    )
    model_memory_bytes: int = Field(
        536_870_912,
        ge=67_108_864,
        description="most memory that a model may take while it is tried out, beyond what the process held before",
    )
    max_meters: int = Field(100_000, ge=1, description="meters beyond this many are dead letters")
    publish_shadow: bool = Field(
        False, description="publish the challenger's forecasts on {site}/shadow/{meter} as well"
    )


class OutboxParams(Section):
    """The edge's numbered batches that wait for central."""

    max_bytes: int = Field(
        268_435_456,
        ge=262_144,
        description="size of the outbox; beyond it the oldest batches become a gap; the status is degraded from 80 %",
    )


class UplinkParams(Section):
    """How batches travel to central."""

    window: int = Field(16, ge=1, description="batches that may be unacknowledged at once")
    resend_after: Duration = Field(
        timedelta(seconds=20), description="an unacknowledged batch is sent again after this long"
    )


class CentralParams(Section):
    """The central side."""

    record_uri: str = Field(
        "", description="path or object-store URI of the record; default: `record` in the work folder"
    )
    work_dir: FilePath = Field(STATE_HOME / "central", description="folder of central's own files")
    mlflow_uri: str = Field(
        "", description="MLflow tracking URI; default MLFLOW_TRACKING_URI, else SQLite in the work folder"
    )
    metrics_host: str = Field("127.0.0.1", description="address Prometheus metrics are served on")
    metrics_port: int = Field(9465, ge=0, le=65535, description="port Prometheus metrics are served on; 0 serves none")


class CriteriaParams(Section):
    """What a trained model must show before it may serve."""

    holdout: Duration = Field(
        timedelta(days=5), description="latest stretch of the record that is kept from training and judged on"
    )
    max_vs_naive: float = Field(1.0, gt=0, description="highest MASE over that of seasonal naive")
    max_vs_champion: float = Field(1.0, gt=0, description="highest MASE over that of the running champion")
    coverage_80: tuple[Share, Share] = Field((0.6, 0.95), description="bounds of the coverage of the 80 % interval")


class TrainingParams(Section):
    """When and how models are trained."""

    scope: Literal["fleet", "site"] = Field(
        "fleet", description="fleet: one model from all sites; site is not built yet"
    )
    min_history: Duration = Field(
        timedelta(days=21), description="history half of the meters need before the first training"
    )
    window: Duration = Field(timedelta(days=70), description="how far back training looks")
    every: Duration = Field(timedelta(days=28), description="a model older than this is trained anew")
    cooldown: Duration = Field(timedelta(days=3), description="least time between two trainings")
    trees: int = Field(200, ge=1, description="most boosting rounds for each quantile")
    patience: int = Field(20, ge=0, description="rounds without gain on the latest rows that end a training; 0: never")
    learning_rate: float = Field(0.05, gt=0, le=1, description="weight of a tree")
    leaves: int = Field(31, ge=2, description="leaves of a tree of the median")
    outer_leaves: int = Field(31, ge=2, description="leaves of a tree of any other quantile")
    min_leaf_rows: int = Field(50, ge=1, description="least rows in a leaf")
    feature_fraction: float = Field(0.3, gt=0, le=1, description="share of the features that a tree may use")
    dropout: Share = Field(0.3, description="how often training hides a part of a window, as outages do")
    rows: int = Field(100_000, ge=1000, description="most rows in one training")
    half_life_days: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="age in days at which a row counts half; all count alike without",
    )
    meter_balance: Share = Field(0.0, description="0: all rows count alike, 1: all meters, however long their history")
    peak_weight: Share = Field(0.0, description="0: all loads count alike, 1: in proportion to the load")
    threads: int = Field(1, ge=1, description="threads LightGBM may use")
    seed: int = Field(1, description="seed of sampling and boosting")
    criteria: CriteriaParams = CriteriaParams()


class DriftParams(Section):
    """When forecasts are held to have gone wrong."""

    lead: ScoredLead = Field(timedelta(hours=24), description="the lead whose scores are watched: 1h, 6h, 24h or 48h")
    delta: float = Field(0.002, gt=0, lt=1, description="ADWIN's confidence: chance of a false cut")
    agreement: Share = Field(0.2, description="share of a site's meters that must drift together")
    within: Duration = Field(timedelta(days=10), description="how close in time they must drift")


class RolloutParams(Section):
    """How an accepted model reaches the edges: canary sites first, then stages, then all."""

    approval: Literal["auto", "manual"] = Field(
        "auto", description="auto: an accepted model goes out at once; manual: it waits for `models approve`"
    )
    canary: tuple[str, ...] = Field(
        (), description="sites that get a model first; none: one in ten, at least one, others each time"
    )
    canary_time: Duration = Field(timedelta(hours=24), description="how long the canary sites are watched")
    stages: tuple[Share, ...] = Field(
        (0.5,), description="shares of all sites, ascending, that get it after the canary sites and before all"
    )
    stage_time: Duration = Field(timedelta(hours=12), description="how long each stage is watched")
    max_refused: Share = Field(
        0.1, description="share of a stage's sites that may refuse a model before it is stepped back"
    )
    min_running: Share = Field(
        0.5, description="share of a stage's sites that must run a model before the next stage begins"
    )
    max_vs_predecessor: float = Field(
        1.1, gt=0, description="highest error of the live forecasts over that of the predecessor in its shadow"
    )
    min_scores: int = Field(
        48, ge=1, description="live scores of a model and its predecessor that are needed for a verdict"
    )


class KeysParams(Section):
    """Keys that sign and verify manifests."""

    trusted: tuple[str, ...] = Field(
        (),
        description="public keys (`central keys list`), or files of them, one a line, whose manifests an edge accepts",
    )
    private: str = Field(
        "", description="file of the private key central signs with; default: those that `central keys new` made"
    )


class Params(Section):
    """Everything that can be set; `edge params` prints it as a table."""

    site: Annotated[str, BeforeValidator(_site)] = Field("home", description="id of the site this edge serves")
    clock: Literal["wall", "event"] = Field(
        "wall", description="what now is: wall, or for replays event: the latest reading's ts"
    )
    mqtt: MqttParams = MqttParams()
    calendar: CalendarParams = CalendarParams()
    grid: GridParams = GridParams()
    meters: tuple[MeterBinding, ...] = Field(
        (), description="what is known of meters beyond their messages; of bindings that match, the first counts"
    )
    forecast: ForecastParams = ForecastParams()
    edge: EdgeParams = EdgeParams()
    outbox: OutboxParams = OutboxParams()
    uplink: UplinkParams = UplinkParams()
    central: CentralParams = CentralParams()
    training: TrainingParams = TrainingParams()
    drift: DriftParams = DriftParams()
    rollout: RolloutParams = RolloutParams()
    keys: KeysParams = KeysParams()

    @model_validator(mode="after")
    def _receive_maximum_holds_a_batch(self) -> Params:
        # Mosquitto counts the window, not us: a window below the batch stops the stream before a batch is full.
        if self.mqtt.receive_maximum < self.edge.batch:
            raise ValueError(f"mqtt.receive_maximum {self.mqtt.receive_maximum} is below edge.batch {self.edge.batch}")
        if self.forecast.horizon % self.grid.step or not self.grid.step <= self.forecast.horizon <= LONGEST_HORIZON:
            raise ValueError("forecast.horizon: expected a multiple of grid.step up to 48h")
        return self

    @property
    def step_s(self) -> int:
        """Length of an interval in seconds."""
        return int(self.grid.step.total_seconds())

    @property
    def horizon_steps(self) -> int:
        """Leads of a forecast."""
        return self.forecast.horizon // self.grid.step

    @property
    def max_ahead(self) -> timedelta:
        """How far ahead of now a reading may be."""
        if self.grid.max_ahead is not None:
            return self.grid.max_ahead
        return timedelta(hours=1) if self.clock == "wall" else timedelta(days=400)
