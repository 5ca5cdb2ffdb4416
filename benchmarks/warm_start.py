"""A warm start on new data against a whole training: `make warm-start` (after `make quality-kuairand`).

The checkpoint to start from knows KuaiRand's train part, without 3 % of the items and 5 % of the users. Six days later
there are their events, those of the validation days, and 2 % of the old items are gone: a whole training and a warm
start train on that, with the recipe's own settings, and are measured on the test days: half of the users validate, the
other half is measured. One thread; seconds are CPU time.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.steady import add_row
from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from model.recipes.files import load_recipe
from model.training.fit import fit
from model.training.plans import measure_plan
from model.training.warm import WarmStart, warm_recipe

T = TypeVar("T")
METRICS = ("recall@50", "ndcg@50", "recall@100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--systems", default="gru4rec,sasrec")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--users", type=float, default=1.0, help="share of the users: quicker, with more spread")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before, after = days(some_users(SequenceData.load(options.data), options.users))
    for system in options.systems.split(","):
        for seed in range(options.seeds):
            row = compare(system, seed, before, after)
            add_row(row, options.output)


def compare(system: str, seed: int, before: SequenceData, after: SequenceData) -> dict[str, object]:
    recipe = load_recipe("kuairand", system)
    old, _ = timed(lambda: fit(recipe, before, seed))
    whole, whole_seconds = timed(lambda: fit(recipe, after, seed + 10))
    start = WarmStart.of(old)
    warm, warm_seconds = timed(lambda: fit(warm_recipe(recipe, start, after), after, seed + 10, start=start))
    eval_split = EvalSplit.of(after, "test")
    figures = {
        name: {metric: round(measure_plan(c.network.eval(), eval_split, c.plan, metric), 5) for metric in METRICS}
        for name, c in (("whole", whole), ("warm", warm))
    }
    first = METRICS[0]
    return {
        "system": system,
        "seed": seed,
        "loss_percent": round(100 * (1 - figures["warm"][first] / figures["whole"][first]), 2),
        "time_percent": round(100 * warm_seconds / whole_seconds, 1),
        "seconds": {"whole": round(whole_seconds, 1), "warm": round(warm_seconds, 1)},
        "epochs": {name: c.provenance.epochs for name, c in (("old", old), ("whole", whole), ("warm", warm))},
        "users": len(after.train),
    } | figures


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The outcome of the work, and its seconds of CPU."""
    began = time.process_time()
    return work(), time.process_time() - began


def days(data: SequenceData) -> tuple[SequenceData, SequenceData]:
    """The data set as it was, and six days later."""
    rng = np.random.default_rng(0)
    num_items, num_users = len(data.catalogue.items), len(data.catalogue.users)
    draw = rng.random(num_items)
    new_items, gone_items = draw < 0.03, draw > 0.98
    new_users = rng.random(num_users) < 0.05
    validates = rng.random(num_users) < 0.5
    nothing = np.zeros(0, dtype=np.int32)
    train, old_valid, old_test = parts_of(data)
    known = [np.concatenate(pair) for pair in zip(train, old_valid, strict=True)]
    valid, test = (
        [own if mark == wanted else nothing for own, mark in zip(old_test, validates, strict=True)]
        for wanted in (True, False)
    )
    return (
        part_of(data, ~new_items, ~new_users, [train, old_valid, old_test]),
        part_of(data, ~gone_items, np.ones(num_users, dtype=bool), [known, valid, test]),
    )


def some_users(data: SequenceData, share: float) -> SequenceData:
    users = np.random.default_rng(1).random(len(data.train)) < share
    return part_of(data, np.ones(len(data.catalogue.items), dtype=bool), users, parts_of(data))


def parts_of(data: SequenceData) -> list[list[NDArray[np.int32]]]:
    """The rows of every user in train, validation and test."""
    return [[part[user] for user in range(len(part))] for part in (data.train, data.valid, data.test)]


def part_of(
    data: SequenceData, items: NDArray[np.bool_], users: NDArray[np.bool_], parts: Sequence[Sequence[NDArray[np.int32]]]
) -> SequenceData:
    """The data set of some items and users, with rows of its own."""
    rows = np.concatenate([[0], np.where(items, np.cumsum(items), 0)]).astype(np.int32)
    kept = np.flatnonzero(users).tolist()
    train, valid, test = (Ragged.of(row[row > 0] for row in (rows[part[u]] for u in kept)) for part in parts)
    counts = np.bincount(train.values, minlength=int(items.sum()) + 1)[1:].astype(np.int64)
    catalogue = Catalogue(IdMap(data.catalogue.items.ids[items]), IdMap(data.catalogue.users.ids[users]), counts)
    return SequenceData(data.name, catalogue, train, valid, test, data.protocol)


if __name__ == "__main__":
    main()
