"""Parts of a split that are measured apart: users by the length of their history, targets by how popular they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.evaluation.protocol import EvalSplit

By = Literal["history", "popularity"]
GROUPINGS: tuple[By, ...] = get_args(By)
LENGTHS = (0, 1, 4, 7, 11, 21, 51)  # where a group of histories begins
NUM_DECILES = 10


@dataclass(frozen=True)
class Group:
    """Some users of a split, and those of their targets that count here: one at least for each."""

    label: str
    users: NDArray[np.int64]  # places in the split's users
    targets: Sequence[NDArray[np.int32]]  # of these users

    def of(self, lists: NDArray[np.int64]) -> NDArray[np.int64]:
        """The lists (U, K) of this group's users."""
        return lists[self.users]


def groups(eval_split: EvalSplit, by: By) -> Iterator[Group]:
    """The groups that hold at least one user."""
    return {"history": by_history, "popularity": by_popularity}[by](eval_split)


def by_history(eval_split: EvalSplit) -> Iterator[Group]:
    """Users by the number of items that are known of them when the split is predicted."""
    users = eval_split.users.tolist()
    lengths = np.array([len(eval_split.data.history(user, eval_split.split)) for user in users])
    for start, stop in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        label = f"{start} and more" if stop is None else str(start) if stop == start + 1 else f"{start} to {stop - 1}"
        inside = np.flatnonzero((lengths >= start) & (lengths < (stop if stop is not None else lengths.max() + 1)))
        yield from _group(label, inside, eval_split, lambda targets: targets)


def by_popularity(eval_split: EvalSplit) -> Iterator[Group]:
    """Targets by their item's training events: ten groups of items with about as many events each, 1 the most watched.

    What has no training event stands apart.
    """
    num_items = len(eval_split.data.catalogue.items)
    counts = np.bincount(eval_split.data.train.values, minlength=num_items + 1)
    order = np.argsort(-counts, kind="stable")
    # the share of all events that lies above an item, itself half
    above = np.empty(len(counts))
    above[order] = np.cumsum(counts[order]) - counts[order] / 2
    decile = np.minimum(1 + NUM_DECILES * above / max(counts.sum(), 1), NUM_DECILES).astype(np.int64)
    # group 0: popularity says nothing of an item that nobody watched in training
    decile[counts == 0] = 0
    everyone = np.arange(len(eval_split.users))
    for number in (*range(1, NUM_DECILES + 1), 0):
        label = str(number) if number else "without an event"
        yield from _group(
            label,
            everyone,
            eval_split,
            lambda targets, number=number: targets[decile[targets] == number],  # type: ignore[misc]
        )


def _group(
    label: str,
    users: NDArray[np.int64],
    eval_split: EvalSplit,
    keep: Callable[[NDArray[np.int32]], NDArray[np.int32]],
) -> Iterator[Group]:
    kept = [keep(eval_split.data.targets(user, eval_split.split)) for user in eval_split.users[users].tolist()]
    some = np.array([len(targets) > 0 for targets in kept], dtype=np.bool_)
    if some.any():
        yield Group(label, users[some], [targets for targets in kept if len(targets)])


def coverage(lists: NDArray[np.int64], num_ranked: int) -> float:
    """Share of the items that can be ranked which stand in at least one list (U, K)."""
    return len(np.unique(lists[lists > 0])) / max(num_ranked, 1)
