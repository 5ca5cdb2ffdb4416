"""Builds the running service from settings and takes it down again: everything by constructor arguments.

The engines are opened by a function that the caller chooses: in this process (service/engine_process.py) or in another
one (`engines_at`). Here is no torch, so that an HTTP process does not load it.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import structlog
from prometheus_client.registry import Collector

from model.folders.files import stamp_of
from model.positive import PositiveRule
from service.canary.collector import CanaryCollector
from service.canary.watch import CanaryWatch
from service.catalogue.follower import CatalogueFollower
from service.catalogue.intake import Intake
from service.catalogue.log import CatalogueLog
from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot
from service.engine.releases import Releases
from service.errors import ConfigurationError
from service.events.collector import EventCollector
from service.events.fullness import FullnessWatch
from service.events.outbox import MemoryOutbox, Outbox, OutboxLimits
from service.events.spool import Spool
from service.events.streams import STREAMS
from service.experiments.collector import ExperimentsCollector
from service.experiments.endpoint import Endpoint
from service.experiments.feedback import FeedbackLimits, FeedbackSink, HistoryRule, MemoryFeedback, RedisFeedback
from service.experiments.live import LiveAssigner, load_assigner
from service.experiments.recorder import ExposureRecorder
from service.experiments.shadow import ListedResult, ShadowArm, ShadowComparison
from service.items import ItemEditor, follow, open_changes
from service.pipeline import RecallPipeline
from service.queries import RecallQuery
from service.remote.follower import Follower, follow_engine
from service.remote.link import EngineLink
from service.reports import ReportMaker
from service.settings import PAUSED_EXPERIMENTS, Settings
from service.steps.unshown import UnshownLists
from service.stores.buckets import BucketStore, MemoryBuckets, RedisBuckets
from service.stores.collectors import RedisCollector
from service.stores.hiders import Hiders
from service.stores.history import HistoryStore, MemoryHistory, RedisHistory
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.shown import MemoryShown, RedisShown
from service.telemetry.collectors import add_up
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessCollector

DAY_S = 86_400
# between threads, of the interpreter: computing threads would hold it for 5 ms while replies wait to be written
SWITCH_S = 0.0003
R_co = TypeVar("R_co", bound=Releases, covariant=True)
log = structlog.get_logger()


@dataclass(frozen=True)
class Engines(Generic[R_co]):
    """The arms that a process asks, and what their engines share where these are in the same process."""

    settings: Settings  # with the URL of the embedded redis-server where they had none
    arms: dict[str, ArmSlot]
    releases: R_co
    changes: CatalogueLog
    state: LiveState  # of the catalogue, under those changes
    collectors: tuple[Collector, ...] = ()  # metrics of the engines, where these are in this process
    redis_clients: tuple[RedisClient, ...] = ()
    link: EngineLink | None = None  # to the process that computes, where that is another


OpenEngines = Callable[[Settings, Metrics], AbstractAsyncContextManager[Engines[Releases]]]


@dataclass(frozen=True)
class Stores:
    """The state that outlives a request, in Redis or in this process."""

    histories: HistoryStore
    unshown: UnshownLists
    feedback: FeedbackSink
    exposures: ExposureRecorder
    outbox: Outbox | MemoryOutbox
    fullness: FullnessWatch | None = None
    redis_clients: tuple[RedisClient, ...] = ()
    lacking: tuple[str, ...] = ()  # what could not be opened, and is done without
    buckets: BucketStore | None = None  # sticky ones; None = the hash alone decides

    def collectors(self) -> list[Collector]:
        return [EventCollector(self.outbox, self.fullness)]

    def warnings(self) -> list[str]:
        """The parts that are down, refuse or fill up, for /ready."""
        clients = self.redis_clients
        reasons = [f"redis_{client.role}_down" for client in clients if client.is_down]
        reasons += [f"redis_{client.role}_refuses_{client.refusal}" for client in clients if client.refusal]
        filling = self.fullness.warnings() if self.fullness else []
        return [*reasons, *self.outbox.warnings(), *filling, *self.lacking]


@dataclass(frozen=True)
class Service:
    """Everything that the routes use."""

    settings: Settings
    pipeline: RecallPipeline
    stores: Stores
    releases: Releases
    experiments: LiveAssigner
    histories: HistoryRule
    items: ItemEditor
    metrics: Metrics
    shadow: ShadowComparison[RecallQuery]
    canaries: CanaryWatch
    reports: ReportMaker
    link: EngineLink | None = None  # to the process that computes, where that is another

    async def scrape(self) -> bytes:
        """Prometheus text, of all processes together."""
        return add_up(await self.link.all_metrics()) if self.link else self.metrics.render().encode()


@asynccontextmanager
async def open_service(settings: Settings, open_engines: OpenEngines) -> AsyncIterator[Service]:
    """Everything is up inside, and down again outside. Raises ConfigurationError before anything answers."""
    metrics = Metrics()
    # before the bundles, which take seconds: a mistake in the experiment file is told at once
    experiments = await asyncio.to_thread(open_experiments, settings)
    async with AsyncExitStack() as stack:
        engines = await stack.enter_async_context(open_engines(settings, metrics))
        if settings.watch_experiments_s:
            watching = asyncio.create_task(experiments.watch(settings.watch_experiments_s))
            stack.callback(watching.cancel)
        # opened after the engines, so closed before them: nothing here may ask an engine that is gone
        stores = open_stores(engines.settings, stack)
        clients = (*engines.redis_clients, *stores.redis_clients)
        register(metrics, *engines.collectors, *stores.collectors(), RedisCollector(clients))
        register(metrics, ExperimentsCollector(experiments), ProcessCollector("http" if engines.link else "service"))
        pipeline = RecallPipeline(
            engines.arms, experiments, stores.histories, engines.state, stores.unshown, stores.buckets
        )
        intake = Intake(settings.max_puts_per_s)
        items = ItemEditor(engines.changes, engines.state, engines.arms, stores.histories, intake)
        shadow = ShadowComparison(pipeline, metrics.overlap, arm=shadow_arm(settings, stores))
        stack.push_async_callback(shadow.close)
        canaries = watch_canaries(pipeline, engines.releases, metrics, stack)
        stores = replace(stores, redis_clients=clients)
        yield Service(
            settings=settings,
            pipeline=pipeline,
            stores=stores,
            releases=engines.releases,
            experiments=experiments,
            histories=HistoryRule(partial(rules_of, engines.arms), settings.history_rule),
            items=items,
            metrics=metrics,
            shadow=shadow,
            canaries=canaries,
            reports=ReportMaker(),
            link=engines.link,
        )


def watch_canaries(
    pipeline: RecallPipeline, releases: Releases, metrics: Metrics, stack: AsyncExitStack
) -> CanaryWatch:
    """Judges the canaries of this process until the stack closes."""
    canaries = CanaryWatch(pipeline, releases)
    register(metrics, CanaryCollector(canaries))
    stack.push_async_callback(canaries.close)
    judging = asyncio.create_task(canaries.run())
    stack.callback(judging.cancel)
    return canaries


def shadow_arm(settings: Settings, stores: Stores) -> ShadowArm[RecallQuery] | None:
    """The arm whose lists are recorded and not shown."""
    if settings.shadow_arm is None:
        return None

    def record(query: RecallQuery, results: tuple[ListedResult, ListedResult]) -> None:
        stores.exposures.record_shadow(query, results[0].assignment, results, settings.shadow_share)

    return ShadowArm(settings.shadow_arm, settings.shadow_share, record)


def rules_of(arms: Mapping[str, ArmSlot]) -> list[PositiveRule | None]:
    """The rule by which each arm's bundle was trained, of those that are served now."""
    return [slot.current.positive for slot in arms.values()]


def register(metrics: Metrics, *collectors: Collector) -> None:
    for collector in collectors:
        metrics.registry.register(collector)


def engines_at(address: str) -> OpenEngines:
    """Opens arms whose engines and cache are in the process at `address`, which decides what they serve."""

    @asynccontextmanager
    async def open_engines(settings: Settings, metrics: Metrics) -> AsyncIterator[Engines[Follower]]:
        async with AsyncExitStack() as stack:
            link, state = EngineLink(address, metrics.render, metrics.engine("unknown")), LiveState()
            stack.push_async_callback(link.close)
            follower = await follow_engine(link, state)
            changes, clients = open_changes(settings, stack)
            await follow(CatalogueFollower(changes, state), stack)
            yield Engines(settings, follower.arms, follower, changes, state, redis_clients=clients, link=link)

    return open_engines


def open_experiments(settings: Settings) -> LiveAssigner:
    """The experiments of the endpoint, of the file, or of neither. Raises ConfigurationError for unusable ones."""
    path, arms, has_buckets = settings.experiments, settings.arms, settings.sticky_days > 0
    if settings.experiments_url:
        endpoint = Endpoint(settings.experiments_url, settings.kept_experiments)
        load = partial(endpoint.load, arms, has_buckets)
        return LiveAssigner(load, endpoint.mark, endpoint.keep, settings.state_dir / PAUSED_EXPERIMENTS)
    return LiveAssigner(partial(load_assigner, path, arms, has_buckets), partial(stamp_of, path) if path else None)


def open_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Histories, feedback and exposures: in Redis, each with its own client and patience, or in this process."""
    if settings.keeps_events_in_memory:
        memory = MemoryHistory(settings.max_history)
        kept = MemoryOutbox()
        return Stores(
            memory,
            UnshownLists(MemoryShown(), memory),
            MemoryFeedback(memory),
            ExposureRecorder(kept, settings.exposure_sample),
            kept,
            buckets=MemoryBuckets() if settings.sticky_days else None,
        )
    url = settings.events_redis_url or settings.redis_url or ""
    # clients of their own: a slow event must not open the breaker of history reads, nor of the cache
    events = RedisClient(url, "events", RedisLimits(settings.events_timeout_ms))
    history = RedisClient(url, "history", RedisLimits(settings.redis_timeout_ms))
    # pushed first, so closed last: what still writes is flushed before its client goes
    for client in (events, history):
        stack.push_async_callback(client.close)
    max_bytes = settings.stream_mb << 20
    spool = open_spool(settings)
    outbox = Outbox(events, spool, OutboxLimits(max_stream_bytes=max_bytes))
    stack.push_async_callback(outbox.close)
    buckets = RedisBuckets(history, events, math.ceil(settings.sticky_days * DAY_S)) if settings.sticky_days else None
    if buckets:
        stack.push_async_callback(buckets.close)
    fullness = FullnessWatch(events, STREAMS, max_bytes)
    watching = asyncio.create_task(fullness.run())
    stack.callback(watching.cancel)
    hiders = Hiders(history)
    following = asyncio.create_task(hiders.follow())
    stack.push_async_callback(stop, following)
    return Stores(
        RedisHistory(history, settings.max_history, hiders=hiders),
        # as patient as events are: a list that is not kept may be shown again
        UnshownLists(
            RedisShown(events, round(settings.shown_days * DAY_S)), RedisHistory(events, settings.max_history)
        ),
        RedisFeedback(events, FeedbackLimits(max_history=settings.max_history), hiders),
        ExposureRecorder(outbox, settings.exposure_sample),
        outbox,
        fullness,
        (events, history),
        () if spool or not settings.spool_mb else ("spool_unwritable",),
        buckets,
    )


async def stop(task: asyncio.Task[None]) -> None:
    """Cancels a task and returns once it has let go of what it holds."""
    task.cancel()
    await asyncio.wait([task])


def open_spool(settings: Settings) -> Spool | None:
    """The spool in the state folder; None where it is switched off, or where that folder cannot be written."""
    if not settings.spool_mb:
        return None
    try:
        return Spool(settings.state_dir / "spool", settings.spool_mb << 20)
    except ConfigurationError as error:
        log.warning("no_spool", error=str(error))
        return None
