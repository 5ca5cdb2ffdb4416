"""Metrics of a trained system on the test split, from exact lists of the network itself; no bundle between."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.data.sequences import Protocol, SequenceData
from model.evaluation.protocol import EvalSplit, TopLists, top_lists
from model.evaluation.revealed import eval_splits
from model.networks.base import Network
from model.records import ServingPlan

LABELS = {"hr": "HR", "recall": "Recall", "precision": "Precision", "ndcg": "NDCG"}


@dataclass(frozen=True, slots=True)
class Measures:
    """The metrics that a protocol is compared by."""

    names: tuple[str, ...]
    cutoffs: tuple[int, ...]


# with one target a user recall is hr and precision is hr / k: said once
MEASURES: dict[Protocol, Measures] = {
    "leave-one-out": Measures(("hr", "ndcg"), (5, 10, 20, 50)),
    "by-time": Measures(("recall", "ndcg", "hr", "precision"), (10, 20, 50, 100)),
    "given": Measures(("precision", "recall", "ndcg"), (10, 50)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of one system on one split."""

    split: str
    metrics: dict[str, float]  # HR@5 ..
    num_users: int
    seconds: float


def measure_test(checkpoint: Checkpoint, data: SequenceData) -> list[Measured]:
    """The test split, once, with the plan that validation chose."""
    measured = []
    for split, eval_split in eval_splits(data, "test"):
        started = time.perf_counter()
        # the split was built before: seconds are those of ranking and scoring
        metrics = measure(checkpoint.network, checkpoint.plan, eval_split)
        measured.append(Measured(split, metrics, len(eval_split.users), time.perf_counter() - started))
    return measured


def measure(network: Network, plan: ServingPlan, eval_split: EvalSplit) -> dict[str, float]:
    """Metrics of a split in the names of the table."""
    wanted = MEASURES[eval_split.data.protocol]
    # the network runs once, at the longest cutoff; shorter lists are made of its hits
    lists = top_lists(network, eval_split, plan.prompts, wanted.cutoffs[-1])
    return measure_lists(lists, plan, eval_split, wanted)


def measure_lists(lists: TopLists, plan: ServingPlan, eval_split: EvalSplit, wanted: Measures) -> dict[str, float]:
    """A list for each cutoff: quotas are shares of the length asked for."""
    metrics: dict[str, float] = {}
    for k, ranked in zip(wanted.cutoffs, final_lists(lists, plan, wanted.cutoffs), strict=True):
        metrics |= eval_split.score(ranked, [k])
    return {f"{LABELS[name]}@{k}": round(metrics[f"{name}@{k}"], 6) for k in wanted.cutoffs for name in wanted.names}


def final_lists(lists: TopLists, plan: ServingPlan, cutoffs: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    if plan.quotas:
        yield from (lists.merged(plan, k) for k in cutoffs)
        return
    # without quotas a short list is the start of a long one
    longest = lists.merged(plan, cutoffs[-1])
    yield from (longest[:, :k] for k in cutoffs)
