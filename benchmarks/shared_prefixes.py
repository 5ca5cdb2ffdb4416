"""A training pass of STAMP and NARM: random prefixes that share one pass over the history against each read on its own.

256 histories of one length, 8 prefixes each, 12,101 items, width 64, one thread; forward and backward, medians.

    python -m benchmarks.shared_prefixes
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.networks import build_network
from model.networks.one_pass import SharedPrefixes
from model.networks.sampling import random_prefixes

USERS, PREFIXES, ITEMS = 256, 8, 12_101


def milliseconds(queries: Callable[[Batch], Tensor], batch: Batch, rounds: int) -> float:
    def once() -> float:
        started = time.perf_counter()
        queries(batch).sum().backward()  # type: ignore[no-untyped-call]  # of torch
        return time.perf_counter() - started

    return statistics.median(once() for _ in range(rounds)) * 1e3


def compare(kind: str, rng: np.random.Generator, rounds: int) -> Iterator[dict[str, str | int | float]]:
    network = build_network(kind, {"num_items": ITEMS, "prefixes_per_user": PREFIXES}).train()
    assert isinstance(network, SharedPrefixes)
    for length in (8, 20, 50):
        rows = rng.integers(1, ITEMS, size=(USERS, length)).tolist()
        batch = Batch.of(rows, [0] * USERS, length)
        alone = milliseconds(lambda batch: network.vectors(random_prefixes(batch, PREFIXES)[0]), batch, rounds)
        shared = milliseconds(lambda batch: network.pairs(batch)[0], batch, rounds)
        times = {"alone_ms": round(alone, 1), "shared_ms": round(shared, 1), "times": round(alone / shared, 1)}
        yield {"system": kind, "length": length} | times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="passes of which the median counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for kind in ("stamp", "narm"):
        for line in compare(kind, rng, options.rounds):
            print(json.dumps(line))


if __name__ == "__main__":
    main()
