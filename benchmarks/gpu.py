"""The GPU path on a GPU: right, how fast, and how near to what the machine can do. One run, one JSON.

    python -m benchmarks.gpu --output gpu.json         # on a machine with CUDA; with faiss-gpu where it is there
    python -m benchmarks.gpu --device cpu --small      # the script itself, anywhere, in a minute

1. correct: the same checkpoint on CPU and device: query vectors, generated items, lists of exact search.
2. passes: captured graphs against eager calls, at each size.
3. engine: users a second of encode, search and merge, width 128, four layers, 100,000 items.
4. index: exact search against the bytes it must read and the products it must form; FAISS on the device beside it.
5. http: `recall bench http` with the service on the device (--http).
The roofline is measured in the same run: a copy for bytes a second, a large product for operations a second.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.exact import ExactIndex
from index.faiss_index import FaissIndex, load_faiss
from model.batch import Batch
from model.compiled import CompiledForward
from model.encoder import UserEncoder
from model.kernels.block_max import BLOCK, block_maxima
from model.records import History
from recall.bench.bundles import Sizes, make_bundle, make_checkpoint
from recall.bench.index import clustered
from recall.reproduction.facts import machine, versions
from service.engine.compute import BatchCompute
from service.engine.messages import EngineRequest

K = 100
LARGE = Sizes(num_items=100_000, dim=128, num_layers=4, num_heads=4)
SMALL = Sizes(num_items=2_000, dim=32, num_layers=2)
FAISS_SPECS = ("Flat", "IVF4096,Flat", "IVF4096,PQ16")


def median_s(run: Callable[[], object], device: str, runs: int = 20) -> float:
    times = []
    for _ in range(runs + 3):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def histories(sizes: Sizes, count: int, seed: int = 0) -> list[History]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, sizes.max_length + 1, count)
    return [History(tuple(rng.integers(1, sizes.num_items + 1, length).tolist())) for length in lengths]


def correct(sizes: Sizes, device: str) -> dict[str, Any]:
    """Shares of users with the same generated items, and with the same list, on both."""
    asked = histories(sizes, 512)
    host, there = (UserEncoder(make_checkpoint(sizes), place) for place in ("cpu", device))
    ours, theirs = there.encode(asked), host.encode(asked)
    vectors = host.item_vectors().numpy()
    query = theirs.vectors[:, 0].copy()
    lists = [ExactIndex(vectors, place).search(query, K).rows for place in (device, "cpu")]
    return {
        "largest_difference": float(np.abs(ours.vectors - theirs.vectors).max()),
        "largest_value": float(np.abs(theirs.vectors).max()),
        "same_generated": float((ours.prompts == theirs.prompts).all(1).mean()),
        "same_lists": float((lists[0] == lists[1]).all(1).mean()),
        "sizes": there.sizes,
        "eager": dict(there.num_eager),
    }


def passes(sizes: Sizes, device: str) -> Iterator[dict[str, Any]]:
    checkpoint = make_checkpoint(sizes)
    network = checkpoint.network.to(device).eval()
    for size in (1, 8, 64, 256):
        made = CompiledForward.of(network, checkpoint.plan.prompts, size, sizes.max_length)
        rows = torch.randint(1, sizes.num_items + 1, (size, sizes.max_length), device=device)
        full = torch.full((size,), sizes.max_length, device=device)
        batch = Batch(rows, full, torch.zeros_like(full))
        with torch.no_grad():
            eager = median_s(lambda: network.queries(batch, checkpoint.plan.prompts), device)  # noqa: B023  (run at once)
            ready = median_s(lambda: made.run(batch), device)  # noqa: B023
        yield {
            "size": size,
            "prepared_ms": 1e3 * ready,
            "eager_ms": 1e3 * eager,
            "times": eager / ready,
            "why": made.eager,
        }


def engine(sizes: Sizes, device: str) -> Iterator[dict[str, Any]]:
    checkpoint = make_checkpoint(sizes)
    encoder = UserEncoder(checkpoint, device)
    compute = BatchCompute(encoder, ExactIndex(encoder.item_vectors().numpy(), device), checkpoint.plan).run
    for batch in (1, 8, 64, 256, 1024):
        asked = [EngineRequest(History(h.items), K, frozenset(h.items)) for h in histories(sizes, batch, seed=batch)]
        seconds = median_s(lambda: compute(asked), device, 10)  # noqa: B023
        times = compute(asked)[0].timings_ms
        yield {"batch": batch, "users_s": batch / seconds, "ms": 1e3 * seconds, "stages_ms": times}


def roofline(device: str) -> dict[str, float]:
    """Bytes a second of a copy, operations a second of a product, in 32 and 16 bits."""
    numbers = torch.empty((1 << 28) if device == "cuda" else (1 << 24), device=device)
    copied = median_s(numbers.clone, device, 5)
    side = 8192 if device == "cuda" else 512
    rates = {"bytes_s": 2 * numbers.nbytes / copied}
    for name, kind in (("float32", torch.float32), ("float16", torch.float16)):
        if device == "cpu" and kind == torch.float16:
            continue
        square = torch.randn(side, side, device=device, dtype=kind)
        rates[f"{name}_ops_s"] = 2 * side**3 / median_s(lambda: square @ square, device, 5)  # noqa: B023
    return rates


def index(num_items: int, device: str, bound: dict[str, float]) -> Iterator[dict[str, Any]]:
    vectors, queries = clustered(num_items, 64), clustered(256, 64, seed=1)
    exact = ExactIndex(vectors, device)
    expected = exact.search(queries, K).rows
    items, asked = torch.from_numpy(vectors).to(device), torch.from_numpy(queries).to(device)
    for kind in (torch.float32, torch.float16):
        own, query = items.to(kind), asked.to(kind)
        seconds = median_s(lambda: block_maxima(query, own), device)  # noqa: B023
        # what must be read and written, and multiplied: the larger of the two binds
        needed = own.nbytes + 4 * len(asked) * num_items / BLOCK
        name = str(kind).removeprefix("torch.")
        least = max(needed / bound["bytes_s"], 2 * 256 * num_items * 64 / bound.get(f"{name}_ops_s", float("inf")))
        yield {"what": f"block maxima, {name}", "us": 1e6 * seconds, "bound_us": 1e6 * least, "share": least / seconds}
    seconds = median_s(lambda: exact.search(queries, K), device, 10)
    yield {"what": "exact, 256 queries, to the host", "us": 1e6 * seconds, "recall": 1.0}
    faiss = load_faiss()
    on_gpu = device == "cuda" and faiss.get_num_gpus() > 0
    for spec in FAISS_SPECS if on_gpu else FAISS_SPECS[:1]:
        built = FaissIndex.build(vectors, spec)
        index = built.to_gpu() if on_gpu else built
        seconds = median_s(lambda: index.search(queries, K), device, 10)  # noqa: B023
        recall = np.mean(
            [len(np.intersect1d(a, b)) / K for a, b in zip(index.search(queries, K).rows, expected, strict=True)]
        )
        yield {"what": f"FAISS {spec}", "us": 1e6 * seconds, "recall": float(recall), "on_gpu": on_gpu}


def http(sizes: Sizes, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), sizes)
        command = [sys.executable, "-m", "recall.__main__", "bench", "http", "--bundle", str(bundle)]
        command += ["--items", str(sizes.num_items), "--serve", f"--device {device}", "--p99-ms", "15"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        printed: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--items", type=int, default=1_000_000, help="of the index part")
    parser.add_argument("--small", action="store_true", help="sizes for trying the script")
    parser.add_argument("--http", action="store_true", help="the service too; minutes")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --small tries the script itself")
    sizes = SMALL if given.small else LARGE
    bound = roofline(given.device)
    measured: dict[str, Any] = {"machine": machine(given.device), "versions": versions(), "roofline": bound}
    parts: dict[str, Callable[[], Any]] = {
        "correct": lambda: correct(sizes, given.device),
        "passes": lambda: list(passes(sizes, given.device)),
        "engine": lambda: list(engine(sizes, given.device)),
        "index": lambda: list(index(5_000 if given.small else given.items, given.device, bound)),
    }
    if given.http:
        parts["http"] = lambda: http(sizes, given.device)
    for name, part in parts.items():
        print(name, file=sys.stderr, flush=True)
        measured[name] = part()
    if given.output:
        given.output.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
