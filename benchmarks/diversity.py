"""Microseconds of 100 items chosen by maximal marginal relevance among 500 hits, against the definition; of reasons.

    python -m benchmarks.diversity [--output benchmarks/results/diversity.jsonl]     (make diversity)

Items lie in clusters, as trained ones do, and hits are the 500 best of a query near one. `plain` computes what the
definition says, all hits against each item taken; its lists are compared with those of the service, item by item. CPU
time of one thread, in alternation; `choose` is the service's whole step, with checks of repeats and the plan's phases.
A last row has what `explain` costs: the reasons of 100 items beside a history of 50, as columns of the answer.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.base import Hits
from index.exact import ExactIndex
from model.catalogue import Catalogue, IdMap
from model.encoder import pin_compute_threads
from model.native.loops import LOADED
from model.records import ServingPlan
from model.rules import ListRules
from recall.bench.index import clustered
from recall.reproduction.facts import machine, versions
from service.catalogue.live import LiveItems
from service.lists.diversity import Novelty
from service.lists.reasons import MAX_HISTORY, columns_of, reasons_of
from service.lists.shaping import Shaper

NUM_ITEMS, DIM, LIMIT, HITS, QUERIES = 20_000, 64, 100, 500, 100
ROUNDING = 1e-6  # of likenesses in single precision: worth so much less is worth the same


def plain(
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    share: float,
    index: ExactIndex,
    given: list[int] | None = None,
) -> tuple[list[int], float]:
    """The list by the definition, in double precision, and the most that an item of `given` is worth less than it."""
    own = index.gather(rows).astype(np.float64)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    relevance = (scores - scores.min()) / np.ptp(scores).astype(np.float64)
    nearest, taken, short = np.zeros(len(rows)), list[int](), 0.0
    for step in range(LIMIT):
        values = (1 - share) * relevance - share * nearest
        values[taken] = -np.inf
        best = int(np.argmax(values))
        taken.append(best if given is None else int(np.flatnonzero(rows == given[step])[0]))
        short = max(short, float(values[best] - values[taken[-1]]))
        nearest = np.maximum(nearest, own @ own[taken[-1]])
    return rows[taken].tolist(), short


def novelty(rows: NDArray[np.int64], scores: NDArray[np.float32], share: float, index: ExactIndex) -> list[int]:
    taken: list[int] = rows[Novelty(rows, scores, share, index.gather).choose(LIMIT, ())].tolist()
    return taken


def cpu_us(call: Callable[[], object]) -> float:
    """Microseconds of a list, on the average."""
    start = time.process_time()
    call()
    return 1e6 * (time.process_time() - start) / QUERIES


def measure(share: float, index: ExactIndex, hits: Hits, shaper: Shaper, rounds: int) -> dict[str, Any]:
    pairs = list(zip(hits.rows, hits.scores, strict=True))
    rules = ListRules(diversity=share)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "plain": lambda: [plain(*pair, share, index)[0] for pair in pairs],
        "novelty": lambda: [novelty(*pair, share, index) for pair in pairs],
        "choose": lambda: [shaper.choose(LIMIT, rules, Hits(r[None], s[None])).rows.tolist() for r, s in pairs],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            times[name].append(cpu_us(call))
    lists = {name: call() for name, call in ways.items()}
    short = [plain(*pair, share, index, own)[1] for pair, own in zip(pairs, lists["choose"], strict=True)]
    return {
        "diversity": share,
        "different_lists": sum(lists["plain"][n] != lists["choose"][n] for n in range(QUERIES)),
        "lists": QUERIES,
        "worth_less_at_most": float(f"{max(short):.1e}"),
        "us": {name: round(statistics.median(own), 1) for name, own in times.items()},
    }


def explained(index: ExactIndex, hits: Hits, live: LiveItems, rounds: int) -> dict[str, Any]:
    """Microseconds of the reasons of a list, the median and the most of all rounds."""
    history = np.random.default_rng(2).choice(NUM_ITEMS, MAX_HISTORY, replace=False) + 1
    lists = [rows[:LIMIT] for rows in hits.rows]

    def explain() -> None:
        for listed, rows in zip(lists, hits.rows, strict=True):
            columns_of(reasons_of(history.tolist(), listed, rows[None], index.gather), listed, live.catalogue)

    times = [cpu_us(explain) for _ in range(rounds)]
    return {"explain_us": round(statistics.median(times), 1), "most_us": round(max(times), 1), "history": len(history)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pin_compute_threads()
    vectors = clustered(NUM_ITEMS, DIM, 0)
    index = ExactIndex(vectors)
    rng = np.random.default_rng(1)
    queries = vectors[rng.choice(NUM_ITEMS, QUERIES)] + rng.normal(scale=0.3, size=(QUERIES, DIM)).astype(np.float32)
    hits = index.search(queries.astype(np.float32), HITS)
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of([]), np.ones(NUM_ITEMS, dtype=np.int64))
    live = LiveItems(catalogue)
    shaper = Shaper(ServingPlan(), live, live.snapshot, index.gather)
    rows = [measure(share, index, hits, shaper, options.rounds) for share in (0.1, 0.3, 0.5, 0.9)]
    rows.append(explained(index, hits, live, options.rounds))
    facts = {"loops": LOADED.reason, "hits": HITS, "limit": LIMIT, "machine": machine("cpu"), "versions": versions()}
    rows = [row | facts for row in rows]
    for row in rows:
        print(json.dumps(row), flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sys.exit(any(row.get("worth_less_at_most", 0) > ROUNDING for row in rows))


if __name__ == "__main__":
    main()
