"""From bundle folders to releases that answer: verified, warmed by their own golden queries, each with an engine."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from index.base import ItemIndex
from index.bundle.bundle import Bundle, BundleRefused, open_bundle
from index.bundle.files import read_manifest
from index.bundle.signature import TrustedKeys
from index.folded import index_like
from index.next_item import next_item_from
from index.planned import PlannedIndex
from index.watched import WatchedIndex
from model.catalogue import Catalogue
from model.checkpoint import Checkpoint, CheckpointError
from model.encoder import UserEncoder, pin_compute_threads
from model.native.loops import LOADED
from model.records import History, ServingPlan
from service.catalogue.live import LiveItems
from service.catalogue.slot_vectors import References, SlotVectors
from service.catalogue.state import LiveState
from service.engine.arms import Release
from service.engine.compute import BatchCompute, ComputeCounters
from service.engine.engine import Engine
from service.engine.finding import ServedItems
from service.engine.graphs import GraphCompute, with_graphs
from service.engine.messages import EngineLimits
from service.engine.metadata import plan_digest
from service.engine.protocols import EngineObserver, SilentObserver
from service.errors import ConfigurationError
from service.memory import release_memory
from service.stores.vector_cache import VectorCache

log = structlog.get_logger()


def choose_device(wanted: str) -> str:
    """cuda or cpu; says in the log what was chosen and why.

    Raises ConfigurationError when a GPU is demanded and there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"device {wanted!r} is unknown; it is auto, cpu or cuda")
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigurationError("device cuda was demanded but torch sees no GPU; use --device cpu or auto")
    device = "cuda" if has_gpu and wanted != "cpu" else "cpu"
    log.info("device", chosen=device, wanted=wanted, gpu_found=has_gpu)
    return device


def prepare_compute_thread() -> None:
    """Prepares a thread of an engine: one compute thread, and no haste.

    A batch of encoding is milliseconds, a turn of the event loop is microseconds. On Linux a thread that wakes up may
    push another off its core; as SCHED_BATCH the computing threads do not, and replies leave while they compute.
    """
    pin_compute_threads()
    # other systems have no such policy, and a sandbox may forbid it: then all threads are alike
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_BATCH, os.sched_param(0))


# of a computation; what it takes besides is what its process gives
MakeEngine = Callable[
    [BatchCompute | GraphCompute, EngineLimits, VectorCache | None, EngineObserver, Callable[[], None]], Engine
]


def plain_engine(_: Catalogue) -> MakeEngine:
    return Engine


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The parts that an engine is given by the process it lives in."""

    limits: EngineLimits = EngineLimits()
    cache: VectorCache | None = None
    observer: EngineObserver = SilentObserver()
    state: LiveState | None = None  # of the items; None = they never change
    fresh_share: float = 0.0  # of each list, kept for items that came after the bundle
    trusted: TrustedKeys | None = None  # those of whom one has to have signed a bundle; None = nobody
    engine_of: Callable[[Catalogue], MakeEngine] = plain_engine  # makes the engine that is asked in its rows


def fold_beside(index: ItemIndex, vectors: NDArray[np.float32]) -> ItemIndex:
    """An index of put items beside one of a bundle, made in whichever thread: what it proves holds for one of these."""
    pin_compute_threads()
    return index_like(index, vectors)


@dataclass(frozen=True, slots=True)
class LoadedArm:
    """A release whose engine lives here, and its computation for those who need no queue: offline evaluation."""

    release: Release
    compute: BatchCompute | GraphCompute


def load_arm(name: str, folder: Path, device: str, parts: EngineParts = EngineParts()) -> LoadedArm:
    """Opens and proves a bundle.

    Raises ConfigurationError with the reason when the bundle is refused.
    """
    bundle, checkpoint, encoder = prove(name, folder, device, parts.trusted)
    index, watched = plan_searches(bundle, device)
    plan, catalogue = checkpoint.plan, checkpoint.catalogue
    slots = SlotVectors(name, catalogue, bundle.exact, references_of(bundle, catalogue, encoder))
    live = LiveItems(catalogue, parts.state, slots.of, partial(fold_beside, index))
    served = ServedItems(live, bundle.exact, parts.fresh_share, encoder.nearest)
    cheap, heads, items = cheaper_encoder(checkpoint, device), checkpoint.outcomes, (catalogue.categories, served)
    cheaper = BatchCompute(cheap, index, one_step(plan), *items, heads=heads) if cheap else None
    general = BatchCompute(encoder, index, plan, *items, cheaper, heads)
    # on a CPU the kernels run in Triton's interpreter, for tests alone; a card's graph searches with the plain vectors
    compute = with_graphs(general) if device == "cuda" and not plan.outcomes else general
    release = Release(
        name=name,
        kind=checkpoint.network.kind,
        bundle=bundle.short_digest,
        catalogue=catalogue,
        plan=plan,
        plan_digest=plan_digest(plan),
        window=encoder.max_length,
        engine=parts.engine_of(catalogue)(compute, parts.limits, parts.cache, parts.observer, prepare_compute_thread),
        has_cache=parts.cache is not None and compute.reuses_vectors,
        counters=ComputeCounters(
            encoder,
            watched.recall if watched else None,
            compute.refused if isinstance(compute, GraphCompute) else None,
        ),
        folder=bundle.path,
        live=live,
        slots=slots,
        dim=bundle.exact.dim,
        positive=checkpoint.provenance.positive,
        outcomes=checkpoint.outcomes.names if checkpoint.outcomes else (),
    )
    release_memory()
    log.info(
        "arm_ready",
        arm=name,
        bundle=bundle.digest,
        index=bundle.index.spec,
        items=len(catalogue.items),
        plan=asdict(plan),
        signed_by=bundle.signed_by,
        loops=LOADED.reason,
    )
    return LoadedArm(release, compute)


def references_of(bundle: Bundle, catalogue: Catalogue, encoder: UserEncoder) -> References:
    """The query vectors of the histories that came with the checkpoint; the golden ones where none came."""
    if (sample := catalogue.sample) is None or not len(sample):
        return References(lambda: bundle.golden.flat_vectors, are_real=False)
    histories = [History(tuple(sample[number].tolist())) for number in range(len(sample))]

    def ask() -> NDArray[np.float32]:
        vectors = encoder.encode(histories).vectors
        return vectors.reshape(-1, vectors.shape[2])  # (R * Q, D)

    return References(ask)


def prove(
    name: str, folder: Path, device: str, trusted: TrustedKeys | None = None
) -> tuple[Bundle, Checkpoint, UserEncoder]:
    """The bundle in a folder with its encoder, which gives the golden vectors: the proof, and the warm-up.

    Raises ConfigurationError with the reason when the bundle is refused.
    """
    pin_compute_threads()
    try:
        bundle = open_bundle(folder, device, trusted)
        checkpoint = Checkpoint.load(bundle.checkpoint_path)
        encoder = UserEncoder(checkpoint, device, next_item_from(bundle.index))
        # the index holds what the network ranks by: it need not be read a second time
        bundle = bundle.over(encoder.network.item_vectors().detach())
        # the proof, and the warm-up: every padded length is computed once
        bundle.replay(encoder.encode)
        # the first search puts the items in the order it multiplies in, and proves its sizes
        bundle.index.search(bundle.golden.flat_vectors[:1], 1)
        # checkpoint and bundle were read one after the other: a folder replaced in between is neither
        if read_manifest(bundle.path).digest != bundle.digest:
            raise BundleRefused(f"bundle {folder} is refused: it was replaced while it was read")
    except (BundleRefused, CheckpointError, OSError) as error:
        raise ConfigurationError(f"arm {name}: {error}") from error
    log.info("encoder", arm=name, compiled=not encoder.not_fused, because=encoder.not_fused or "proven")
    return bundle, checkpoint, encoder


def plan_searches(bundle: Bundle, device: str) -> tuple[ItemIndex, WatchedIndex | None]:
    """The bundle's index with a plan for filters; an approximate one is watched, and returned once more for that."""
    planned = PlannedIndex(bundle.index, bundle.exact)
    if bundle.index is bundle.exact:
        # on a card exact search filters by itself, and graphs want to know that it is exact
        return (planned if device == "cpu" else bundle.index), None
    watched = WatchedIndex(planned, bundle.exact)
    return watched, watched


def one_step(plan: ServingPlan) -> ServingPlan:
    """The plan of those whose deadline is too near: nothing is generated, one query vector a user."""
    # quotas belong to the steps that are left out; diversity costs no pass of the network
    return ServingPlan(diversity=plan.diversity, outcomes=plan.outcomes)


def cheaper_encoder(checkpoint: Checkpoint, device: str) -> UserEncoder | None:
    """An encoder of the same network by `one_step`, warm; None where the bundle's own plan costs no more."""
    prompts = checkpoint.plan.prompts
    if device != "cpu" or (prompts.num_steps == 1 and not prompts.num_prompts):
        return None
    encoder = UserEncoder(replace(checkpoint, plan=one_step(checkpoint.plan)), device, only_main_size=True)
    for length in encoder.lengths:
        # traced at start: the first request in haste is the last one that should pay for it
        encoder.encode([History((1,) * length)])
    return encoder
