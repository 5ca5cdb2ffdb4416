"""The parts of benchmarks/gpu.py about exact and approximate search; see gpu_parts.py."""

import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_timing import Line, Setting, card_us, wall_us
from index.exact import ExactIndex

K = 100


def drawn(rows: int, dim: int, device: str, seed: int) -> Tensor:
    """Vectors in clusters of about 100, as learnt tables are; drawn where they are needed."""
    draws = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(max(rows // 100, 1), dim, generator=draws, device=device)
    places = torch.randint(0, len(centres), (rows,), generator=draws, device=device)
    return centres[places].add_(torch.randn(rows, dim, generator=draws, device=device), alpha=0.5)


def searches(setting: Setting) -> Sequence[tuple[int, int]]:
    return [(600, 16)] if setting.small else [(100_000, 128), (1_000_000, 64), (10_000_000, 128)]


def maxima(setting: Setting) -> Iterator[Line]:
    from model.kernels.blocks import num_blocks  # noqa: PLC0415  (needs Triton)
    from model.kernels.maxima import block_maxima  # noqa: PLC0415
    from model.kernels.search import Table  # noqa: PLC0415

    for num_items, dim in searches(setting):
        table, queries = (
            Table.halved(drawn(num_items, dim, setting.device, 0)),
            drawn(setting.queries, dim, setting.device, 1),
        )
        for kind, items in (("float16", table.rough), ("float32", table.items)):
            many = num_blocks(len(items), table.block) > 8192
            us = card_us(lambda: block_maxima(queries, items, table.block, many), setting)  # noqa: B023  (run at once)
            moved = items.nbytes + 4 * len(queries) * num_blocks(len(items), table.block)
            bound = setting.share(us, moved, 2 * len(queries) * num_items * dim, kind)
            yield {"items": num_items, "dim": dim, "queries": len(queries), "kind": kind, **bound}


def exact(setting: Setting) -> Iterator[Line]:
    from model.kernels.search import Table, search, search_all  # noqa: PLC0415  (needs Triton)

    for num_items, dim in searches(setting):
        items, queries = drawn(num_items, dim, setting.device, 0), drawn(setting.queries, dim, setting.device, 1)
        table = Table.halved(items)
        us = card_us(lambda: search(queries, table, K), setting)  # noqa: B023  (run at once)
        keys, doubtful = search(queries, table, K)
        sure = ~doubtful[:8].bool()
        same = bool(torch.equal(keys[:8, :K][sure], search_all(queries[:8], table, K)[:, :K][sure]))
        bound = setting.share(us, table.rough.nbytes, 2 * len(queries) * num_items * dim, "float16")
        yield {"items": num_items, "dim": dim, **bound, "in_doubt": int(doubtful.sum()), "as_all_scores": same}
        if num_items <= 1_000_000:
            index, asked = ExactIndex(items.cpu().numpy(), setting.device), queries.cpu().numpy()
            host = wall_us(lambda: index.search(asked, K), "cpu", setting.runs(20))  # noqa: B023
            yield {"items": num_items, "dim": dim, "to_the_host_us": statistics.median(host)}


def faiss(setting: Setting) -> Iterator[Line]:
    from index.faiss_index import FaissIndex, load_faiss  # noqa: PLC0415  (a wheel of its own)

    count = load_faiss().get_num_gpus() if setting.device == "cuda" else 0
    vectors, queries = (drawn(n, 64, "cpu", n).numpy() for n in (5_000 if setting.small else 1_000_000, 256))
    expected = ExactIndex(vectors, setting.device).search(queries, K).rows
    for spec in ("Flat", "IVF4096,Flat", "IVF4096,PQ16") if count else ("Flat",):
        built = FaissIndex.build(vectors, spec)
        figures = built.to_gpu() if count else built
        us = statistics.median(wall_us(lambda: figures.search(queries, K), "cpu", setting.runs(10)))  # noqa: B023
        pairs = zip(figures.search(queries, K).rows, expected, strict=True)
        yield {"spec": spec, "us": us, "recall": float(np.mean([len(np.intersect1d(*pair)) / K for pair in pairs]))}
