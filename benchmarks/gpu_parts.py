"""The parts of benchmarks/gpu.py: each yields one record for each thing it measures.

roofline  bytes a second of a copy, operations a second of large products
correct   answers of the engine on the device against those on the CPU
plans     which systems and plans a graph answers, at which sizes, and why not
lanes     one graph: the card alone, launch to answers, with filling; bits between sizes
engine    users a second of GraphCompute.run, with graphs and without; a batch of one: p50, p99
blocks    the same from arrays to arrays, as HTTP processes ask: GraphCompute.run_blocks
forwards  captured forwards of the general path against eager calls
maxima    block maxima, fp16 and fp32, against the bytes and products they need
exact     exact search, kernels alone and to the host
lock      how long another thread stands still while the engine computes
faiss     FAISS on the device, where its wheel is
http      requests and users a second over HTTP, by rate, with the CPU of each process (gpu_http.py)
workers   the same at one rate with 1, 4, 8 and 12 HTTP processes
"""

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu_http import http, workers
from benchmarks.gpu_search import exact, faiss, maxima
from benchmarks.gpu_timing import SMALL, Line, Setting, sizes_of, wall_us
from index.exact import ExactIndex
from model.batch import Batch
from model.checkpoint import Checkpoint
from model.columns import Columns
from model.compiled import CompiledForward
from model.encoder import UserEncoder
from model.networks import build_network
from model.records import History, Placement, PromptPlan, ServingPlan
from recall.bench.bundles import TWO_STEPS, Sizes, make_checkpoint
from service.engine.blocks import RequestBlock
from service.engine.compute import BatchCompute
from service.engine.graphs import GraphCompute, columns_of, with_graphs
from service.engine.messages import EngineRequest

if TYPE_CHECKING:
    from model.device.lane import Lane  # needs Triton

K = 100


def requests_of(sizes: Sizes, count: int, seed: int = 0, full: bool = False, own: bool = True) -> list[EngineRequest]:
    """Histories of 0 to `max_length` items, or all full, with themselves excluded: as the same object, or as a set."""
    rng = np.random.default_rng(seed)
    lengths = [sizes.max_length] * count if full else rng.integers(0, sizes.max_length + 1, count)
    rows = [tuple(rng.integers(1, sizes.num_items + 1, length).tolist()) for length in lengths]
    return [EngineRequest(History(items), K, items if own else frozenset(items)) for items in rows]


def compute_of(checkpoint: Checkpoint, device: str, batches: tuple[int, ...] = ()) -> BatchCompute | GraphCompute:
    """batches: sizes that are captured; without them, the general path."""
    encoder = UserEncoder(checkpoint, device)
    index = ExactIndex(encoder.network.item_vectors().detach(), device)
    general = BatchCompute(encoder, index, checkpoint.plan)
    compute = with_graphs(general, batches) if batches else general
    # as a serving process does after loading
    gc.collect()
    gc.freeze()
    return compute


def roofline(setting: Setting) -> Iterator[Line]:
    numbers = torch.empty((1 << 22) if setting.small else (1 << 28), device=setting.device)
    figures = {"bytes_s": 2 * numbers.nbytes / (1e-6 * statistics.median(wall_us(numbers.clone, setting.device, 5)))}
    side = 256 if setting.small else 8192
    for kind in (torch.float32, torch.float16):
        square = torch.randn(side, side, device=setting.device).to(kind)
        times = wall_us(lambda: square @ square, setting.device, 5)  # noqa: B023  (run at once)
        figures[f"{str(kind).removeprefix('torch.')}_ops_s"] = 2 * side**3 / (1e-6 * statistics.median(times))
    yield figures


def correct(setting: Setting) -> Iterator[Line]:
    asked = requests_of(sizes_of(setting), 4 if setting.small else 512, own=False)
    there = compute_of(make_checkpoint(sizes_of(setting)), setting.device, setting.batches)
    ours, theirs = there.run(asked), compute_of(make_checkpoint(sizes_of(setting)), "cpu").run(asked)
    lists = [np.array_equal(a.merged.rows, b.merged.rows) for a, b in zip(ours, theirs, strict=True)]
    generated = [np.array_equal(a.vectors.prompts, b.vectors.prompts) for a, b in zip(ours, theirs, strict=True)]
    vectors = [np.abs(a.vectors.vectors - b.vectors.vectors).max() for a, b in zip(ours, theirs, strict=True)]
    yield {
        "users": len(asked),
        "same_lists": float(np.mean(lists)),
        "same_generated": float(np.mean(generated)),
        "largest_difference": float(np.max(np.array(vectors)[generated], initial=0)),
        "largest_value": float(max(np.abs(b.vectors.vectors).max() for b in theirs)),
        "general": dict(there.refused) if isinstance(there, GraphCompute) else "all",
    }


def plans(setting: Setting) -> Iterator[Line]:
    """Small networks of every kind: what counts is what is captured and proven."""
    sizes = {"num_items": 2_000, "num_users": 5, "max_length": 20}
    decoder = {"dim": 32, "num_layers": 2, "num_heads": 2}
    parts = [{"system": "recgpt", "network": decoder}, {"system": "fism", "network": {"dim": 32}}]
    cases: list[tuple[str, dict[str, Any], ServingPlan]] = [
        ("recgpt", decoder, ServingPlan()),
        ("recgpt", decoder, TWO_STEPS),
        ("recgpt", decoder, ServingPlan(PromptPlan(2, Placement.TAIL, 3), (5, 3, 2))),
        ("recgpt", decoder, ServingPlan(PromptPlan(1, Placement.ALL, 2), (7, 3))),
        ("blend", {"parts": parts}, TWO_STEPS),
        *((kind, {"dim": 32}, ServingPlan()) for kind in ("comirec", "sasrec", "gru4rec", "narm", "stamp", "fism")),
    ]
    for kind, config, plan in cases[: setting.runs(len(cases))]:
        torch.manual_seed(0)
        checkpoint = make_checkpoint(SMALL)
        network = build_network(kind, {**sizes, **config})
        compute = compute_of(
            Checkpoint(network, plan, checkpoint.catalogue, checkpoint.provenance), setting.device, setting.batches[-2:]
        )
        yield {
            "system": kind,
            "plan": str(plan.prompts),
            "sizes": compute.recall.sizes if isinstance(compute, GraphCompute) else (),
        }


def lanes(setting: Setting) -> Iterator[Line]:
    from model.device.chain import Chain  # noqa: PLC0415  (needs Triton)
    from model.device.lane import Lane  # noqa: PLC0415

    checkpoint = make_checkpoint(sizes_of(setting))
    network = checkpoint.network.to(setting.device).eval()
    table = ExactIndex(network.item_vectors().detach().cpu().numpy(), setting.device).table
    chain = Chain.of(network, checkpoint.plan, table, checkpoint.plan.prompts.num_steps)
    for size in setting.batches:
        lane = Lane(chain, size)
        for full in (False, True):
            columns = columns_of(requests_of(sizes_of(setting), size, full=full))
            yield {"size": size, "full": full, **times_of(lane, columns, setting)}


def times_of(lane: "Lane", columns: Columns, setting: Setting) -> Line:
    def answer() -> None:
        lane.start()
        lane.wait()

    def whole() -> None:
        lane.fill(columns)
        answer()

    runs = {"fill": lambda: lane.fill(columns), "launch_to_answers": answer, "with_filling": whole}
    figures = {f"{name}_us": statistics.median(wall_us(run, "cpu", setting.runs(100))) for name, run in runs.items()}
    return {**figures, "users_s": 1e6 * lane.size / figures["launch_to_answers_us"]}


def blocks(setting: Setting) -> Iterator[Line]:
    """The same from blocks to blocks, as HTTP processes ask: no object a user."""
    compute, sizes = compute_of(make_checkpoint(sizes_of(setting)), setting.device, setting.batches), sizes_of(setting)
    if not isinstance(compute, GraphCompute):
        return
    for batch, count in ((2, 2),) if setting.small else ((1, 1), (64, 1), (256, 1), (256, 32)):
        for full in (False, True):
            asked = [RequestBlock(columns_of(requests_of(sizes, batch, n, full))) for n in range(count)]
            times = wall_us(lambda: [*compute.run_blocks(asked)], "cpu", setting.runs(100))  # noqa: B023  (run at once)
            us = statistics.median(times)
            shown = {"batch": batch, "batches": count, "full": full}
            yield {
                **shown,
                "p50_us": us,
                "p99_us": float(np.quantile(times, 0.99)),
                "users_s": 1e6 * batch * count / us,
            }


def engine(setting: Setting) -> Iterator[Line]:
    checkpoint, sizes = make_checkpoint(sizes_of(setting)), sizes_of(setting)
    for captured in (True, False):
        compute = compute_of(checkpoint, setting.device, setting.batches if captured else ()).run
        for batch in (1, 3) if setting.small else (1, 8, 64, 256, 256 * 32):
            for full, own in ((False, True), (True, True), (False, False)) if captured else ((False, False),):
                asked = requests_of(sizes, batch, batch, full, own)
                runs = setting.runs(10 if batch > 256 else 200 if captured else 10)
                times = wall_us(lambda: compute(asked), "cpu", runs)  # noqa: B023  (run at once)
                us = statistics.median(times)
                shown = {"batch": batch, "graphs": captured, "full": full, "excluded": "own" if own else "set"}
                yield {**shown, "p50_us": us, "p99_us": float(np.quantile(times, 0.99)), "users_s": 1e6 * batch / us}


def forwards(setting: Setting) -> Iterator[Line]:
    checkpoint = make_checkpoint(sizes_of(setting))
    network, length = checkpoint.network.to(setting.device).eval(), sizes_of(setting).max_length
    for size in (1, 8, 64, 256)[: setting.runs(4)]:
        made = CompiledForward.of(network, checkpoint.plan.prompts, size, length)
        rows = torch.randint(1, sizes_of(setting).num_items + 1, (size, length), device=setting.device)
        full = torch.full((size,), length, device=setting.device)
        batch = Batch(rows, full, torch.zeros_like(full))
        with torch.no_grad():
            eager, ready = (
                statistics.median(wall_us(run, setting.device, setting.runs(20)))
                for run in (lambda: network.queries(batch, checkpoint.plan.prompts), lambda: made.run(batch))  # noqa: B023
            )
        yield {"size": size, "prepared_us": ready, "eager_us": eager, "times": eager / ready, "why": made.eager}


def lock(setting: Setting) -> Iterator[Line]:
    """The longest pause of a thread that does nothing but look at the clock, while another one computes."""
    for captured in (True, False):
        compute = compute_of(
            make_checkpoint(sizes_of(setting)), setting.device, setting.batches if captured else ()
        ).run
        asked = requests_of(sizes_of(setting), 2 if setting.small else 256)
        compute(asked)
        pauses, done = [0.0], threading.Event()

        def look(pauses: list[float] = pauses, done: threading.Event = done) -> None:
            before = time.perf_counter()
            while not done.is_set():
                now = time.perf_counter()
                pauses.append(now - before)
                before = now

        watcher = threading.Thread(target=look)
        watcher.start()
        started = time.perf_counter()
        for _ in range(setting.runs(20)):
            compute(asked)
        total = time.perf_counter() - started
        done.set()
        watcher.join()
        stood = sum(pause for pause in pauses if pause > 1e-3)
        yield {"graphs": captured, "longest_ms": 1e3 * max(pauses), "share_stood_still": stood / total}


PARTS: dict[str, Callable[[Setting], Iterator[Line]]] = {
    part.__name__: part
    for part in (roofline, correct, plans, lanes, engine, blocks, forwards, maxima, exact, lock, faiss, http, workers)
}
