"""From bundle folders to releases that answer: verified, warmed by their own golden queries, each with an engine."""

import contextlib
import ctypes
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog
import torch

from index.bundle.bundle import BundleRefused, open_bundle
from index.bundle.files import read_manifest
from index.next_item import next_item_from
from index.watched import WatchedIndex
from model.checkpoint import Checkpoint, CheckpointError
from model.encoder import UserEncoder, pin_compute_threads
from model.records import History, ServingPlan
from service.engine.arms import Release
from service.engine.capture import with_graphs
from service.engine.compute import BatchCompute, ComputeCounters
from service.engine.engine import Engine
from service.engine.graphs import GraphCompute
from service.engine.messages import EngineLimits
from service.engine.metadata import plan_digest
from service.engine.protocols import EngineObserver, SilentObserver
from service.errors import ConfigurationError
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


def release_memory() -> None:
    """Hands what loading used and freed back to the system; the C library would keep it."""
    # glibc alone has it
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The parts that an engine is given by the process it lives in."""

    limits: EngineLimits = EngineLimits()
    cache: VectorCache | None = None
    observer: EngineObserver = SilentObserver()


@dataclass(frozen=True, slots=True)
class LoadedArm:
    """A release whose engine lives here, and its computation for those who need no queue: offline evaluation."""

    release: Release
    compute: BatchCompute | GraphCompute


def load_arm(name: str, folder: Path, device: str, parts: EngineParts = EngineParts()) -> LoadedArm:
    """Opens and proves a bundle.

    Raises ConfigurationError with the reason when the bundle is refused.
    """
    pin_compute_threads()
    try:
        bundle = open_bundle(folder, device)
        checkpoint = Checkpoint.load(bundle.checkpoint_path)
        encoder = UserEncoder(checkpoint, device, next_item_from(bundle.index))
        # the index holds what the network ranks by: one copy is enough
        bundle = bundle.over(encoder.network.item_vectors().detach())
        # the proof, and the warm-up: every padded length is computed once
        bundle.replay(encoder.encode)
        cheap = cheaper_encoder(checkpoint, device)
        # checkpoint and bundle were read one after the other: a folder replaced in between is neither
        if read_manifest(bundle.path).digest != bundle.digest:
            raise BundleRefused(f"bundle {folder} is refused: it was replaced while it was read")
    except (BundleRefused, CheckpointError, OSError) as error:
        raise ConfigurationError(f"arm {name}: {error}") from error
    watched = None if bundle.index is bundle.exact else WatchedIndex(bundle.index, bundle.exact)
    plan, catalogue = checkpoint.plan, checkpoint.catalogue
    index = watched or bundle.index
    cheaper = BatchCompute(cheap, index, one_step(plan), catalogue.categories) if cheap else None
    general = BatchCompute(encoder, index, plan, catalogue.categories, cheaper)
    compute = with_graphs(general) if device == "cuda" else general
    counters = ComputeCounters(
        encoder,
        watched.recall if watched else None,
        compute.refused if isinstance(compute, GraphCompute) else None,
    )
    release = Release(
        name,
        checkpoint.network.kind,
        bundle.short_digest,
        catalogue,
        plan,
        plan_digest(plan),
        encoder.max_length,
        engine=Engine(compute, parts.limits, parts.cache, parts.observer, prepare_compute_thread),
        has_cache=parts.cache is not None,
        counters=counters,
        folder=bundle.path,
    )
    release_memory()
    facts = {"bundle": bundle.digest, "index": bundle.index.spec, "items": len(catalogue.items), "plan": asdict(plan)}
    log.info("arm_ready", arm=name, **facts)
    return LoadedArm(release, compute)


def one_step(plan: ServingPlan) -> ServingPlan:
    """The plan of those whose deadline is too near: nothing is generated, one query vector a user."""
    return ServingPlan(diversity=plan.diversity)


def cheaper_encoder(checkpoint: Checkpoint, device: str) -> UserEncoder | None:
    """An encoder of the same network by `one_step`, warm; None where the bundle's own plan costs no more."""
    prompts = checkpoint.plan.prompts
    if device != "cpu" or (prompts.num_steps == 1 and not prompts.num_prompts):
        return None
    encoder = UserEncoder(replace(checkpoint, plan=one_step(checkpoint.plan)), device, only_main_size=True)
    for length in encoder.lengths:
        encoder.encode([History((1,) * length)])
    return encoder
