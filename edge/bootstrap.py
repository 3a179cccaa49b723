"""Wiring: parameters become a node, its store and its connection. Nothing else in edge makes these."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from edge import gate, inference
from edge.admission import Here
from edge.artifacts import ArtifactFolder
from edge.changes import Changes
from edge.forecaster import Plan
from edge.forms import Forms
from edge.gate import Budget, Wanted
from edge.holidays_aside import learn_holidays
from edge.inference import Predictor
from edge.kept import Kept
from edge.meters import NO_INSTANT
from edge.models import Models
from edge.node import Node
from edge.prover import TryOut
from edge.restoring import is_wanted
from edge.rounds import METERS_AT_ONCE
from edge.schema import new_epoch
from edge.scoring import Scoreboard
from edge.site import SiteState, grid_rules
from edge.siteclock import SiteClock
from edge.starter import Starter, shipped
from edge.store import Store
from edge.uplink import UplinkLedger
from shared import __version__
from shared.calendars import site_calendar
from shared.clock import iso, to_us, wall_now
from shared.errors import MetercastError, StateDamaged, StateError
from shared.manifest import Manifest
from shared.messages import Status
from shared.mqtt import Connection, Will
from shared.params import Params, scored_leads
from shared.signing import trusted_by_id
from shared.topics import SiteTopics
from shared.trusted_keys import trusted_keys

log = logging.getLogger(__name__)

MAX_DESIRED_BYTES: Final = 1_048_576  # manifests with their golden rows stay far below


@dataclass(frozen=True, slots=True)
class Edge:
    """All parts of a running edge."""

    params: Params
    node: Node
    store: Store
    artifacts: ArtifactFolder
    try_out: TryOut
    connection: Connection
    instance: str
    started_at: str


def plan_of(params: Params) -> Plan:
    """What the forecasts of these parameters have in common."""
    return Plan(
        step_s=params.step_s,
        horizon_steps=params.horizon_steps,
        quantiles=params.forecast.modelled,
        calendar=site_calendar(params.calendar),
        min_history_steps=params.forecast.min_history // params.grid.step,
    )


def wanted_of(params: Params) -> Wanted:
    """What a model must forecast to serve here."""
    return Wanted(params.step_s, params.horizon_steps, params.forecast.modelled)


def here_of(params: Params) -> Here:
    """What a manifest must fit to be acted on here. Raises ParamsError for `keys.trusted`."""
    return Here(
        site=params.site,
        trusted=trusted_by_id(trusted_keys(params.keys.trusted)),
        max_bytes=params.edge.max_model_bytes,
        wanted=wanted_of(params),
        version=__version__,
    )


def try_out_of(params: Params, artifacts: ArtifactFolder) -> TryOut:
    """How a model is tried out: in a process of its own, then loaded; what passed is put on disk, which takes time."""
    wanted, seconds = wanted_of(params), params.edge.model_seconds
    budget = Budget(METERS_AT_ONCE * params.horizon_steps, seconds, params.edge.model_memory_bytes)

    def prove(artifact: bytes, manifest: Manifest) -> Predictor:
        gate.prove(artifact, manifest, wanted, budget)
        with artifacts.loading(manifest.sha256):
            model = inference.load(artifact, manifest, wanted, seconds=seconds)
        with suppress(OSError):  # the swap asks for it again, and tells
            artifacts.save(manifest.sha256, artifact)
        return model

    return prove


def build_node(params: Params, store: Store, artifacts: ArtifactFolder, *, starter: Starter | None = None) -> Node:
    """A node that goes on where the store's last commit stopped; `starter` serves where no champion can."""
    leads = scored_leads(params.step_s, params.horizon_steps)
    store.belong_to(site=params.site, step_s=params.step_s, leads=leads, quantiles=params.forecast.modelled)
    facts = store.facts
    topics = SiteTopics(params.mqtt.root, params.site)
    site = SiteState(params, Scoreboard(leads), Forms(grid_rules(params), store.forms))
    store.load_site(site)
    load = partial(inference.load, wanted=wanted_of(params), seconds=params.edge.model_seconds)
    models = Models(topics, here_of(params), artifacts, load, starter=starter)
    next_seq, (seq, at_us) = int(facts.get("next_seq", 1)), map(int, facts.get("recorded", "0,0").split(","))
    uplink = UplinkLedger(
        params.site,
        facts["epoch"],
        next_seq=next_seq,
        waiting=store.outbox_index(),
        recorded=(seq, at_us),
        vouched=int(facts.get("vouched", next_seq - 1)),
        is_new="instance" not in facts,
    )
    clock = SiteClock(
        params.clock,
        latest_us=int(facts.get("clock_us", NO_INSTANT)),
        wall_us=int(facts.get("wall_us", NO_INSTANT)),
    )
    node = Node(
        params,
        site=site,
        uplink=uplink,
        models=models,
        plan=plan_of(params),
        clock=clock,
        arrivals=store.arrivals,
        new_id=new_epoch,
        restore_wanted=is_wanted(facts, empty=site.empty),
    )
    if "models" in facts:
        _resume(models, facts["models"], store, site)
    return node


def _resume(models: Models, fact: str, store: Store, site: SiteState) -> None:
    """Load the models that ran last; that it was begun is on disk before, for it may end the process."""
    now = wall_now()
    try:
        kept, failed = Kept.read(fact).begun(iso(to_us(now)))
    except ValueError as error:
        log.error("the models of the last run cannot be read", extra={"reason": str(error)})
        return
    _note(kept.text(), store, site)
    models.resume(kept, now, failed=failed)
    if not _note(models.take_fact(), store, site):
        models.written = None


def _note(fact: str, store: Store, site: SiteState) -> bool:
    """Write the fact and return whether that could be done: without room on disk the models serve all the same."""
    try:
        store.commit(Changes(facts={"models": fact}), site)
    except StateDamaged:
        raise
    except StateError as error:
        log.error("that models are begun with cannot be written", extra={"reason": str(error)})
        return False
    return True


def build(params: Params) -> Edge:
    """Everything `edge run` needs; raises MetercastError with what is wrong."""
    learn_holidays(params.calendar.country)
    folder = params.edge.state_dir
    store = Store(folder, iso(to_us(wall_now())))
    try:
        return _around(params, store, ArtifactFolder(folder / "models"))
    except MetercastError:
        store.close()  # else the next start takes it for one that was cut short
        raise


def _around(params: Params, store: Store, artifacts: ArtifactFolder) -> Edge:
    node = build_node(params, store, artifacts, starter=shipped(step_s=params.step_s))
    topics, instance, started_at = node.topics, secrets.token_hex(4), iso(to_us(wall_now()))
    offline = Status(
        state="offline", instance=instance, epoch=node.uplink.epoch, version=__version__, started_at=started_at
    )
    connection = Connection(
        params.mqtt,
        client_id=f"metercast-edge-{params.site}",
        filters=[
            topics.readings,
            topics.backfills,
            topics.covariates,
            topics.acked,
            topics.restore,
            topics.desired,
            topics.status,
        ],
        will=Will(topics.status, offline.encode()),
        keep_bytes=max(params.edge.max_payload_bytes, MAX_DESIRED_BYTES),
    )
    return Edge(params, node, store, artifacts, try_out_of(params, artifacts), connection, instance, started_at)
