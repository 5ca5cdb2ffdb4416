"""A bundle's answers without HTTP: the service's own encoder, index, merge and fill, so both give the same lists."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.sequences import SequenceData, Split
from model.evaluation.protocol import EvalSplit
from model.records import History
from model.rules import NO_RULES, ListRules
from service.engine.arms import Release
from service.engine.loading import LoadedArm
from service.engine.messages import EngineRequest
from service.lists.fill import complete
from service.stores.vector_codec import CachedVectors

BATCH = 64


@dataclass(frozen=True)
class OfflineArm:
    """An arm asked for whole splits of a data set; query vectors are computed once a history, as behind the cache."""

    arm: LoadedArm
    data: SequenceData
    known: dict[History, CachedVectors] = field(default_factory=dict)
    rules: ListRules = NO_RULES  # of every request

    def request(self, user: int, split: Split, limit: int) -> EngineRequest:
        """The request that the service would make of this user's."""
        [user_id] = self.data.catalogue.users.external([user])
        ids = self.data.catalogue.items.external(self.data.history(user, split).tolist())
        request = self.arm.release.request(user_id, ids, limit=limit, rules=self.rules)
        vectors = self.known.get(request.history)
        return request.with_vectors(vectors) if vectors else request

    def lists(self, users: Sequence[int], split: Split, limit: int) -> Iterator[list[int]]:
        """Item rows for each user row, `limit` of them whenever the catalogue allows."""
        items = self.arm.release.items
        for start in range(0, len(users), BATCH):
            requests = [self.request(user, split, limit) for user in users[start : start + BATCH]]
            for request, result in zip(requests, self.arm.compute.run(requests), strict=True):
                # one encoding serves the lists of all cutoffs
                self.known[request.history] = result.vectors
                yield complete(items, result.merged, request).rows.tolist()

    def asked_for(self, outcome: str | None) -> "OfflineArm":
        """The same arm, asked for an outcome; None = for what its plan gives."""
        return replace(self, rules=NO_RULES if outcome is None else ListRules(outcome=outcome))


class Evaluated(NamedTuple):
    """Metrics at each cutoff, and the longest lists (U, K) they were taken of, 0 behind the end."""

    metrics: dict[str, float]
    lists: NDArray[np.int64]


def evaluate(
    offline: OfflineArm,
    eval_split: EvalSplit,
    cutoffs: Sequence[int],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Evaluated:
    """Measures the bundle's own lists on the users of a split; cutoffs rise, one at least."""
    users: list[int] = eval_split.users.tolist()
    metrics, lists = dict[str, float](), np.zeros((0, 0), dtype=np.int64)
    done = 0
    # a list for each cutoff: quotas are shares of the length asked for, so a list of 10 is not the start of one of 100
    for cutoff in cutoffs:
        lists = np.zeros((len(users), cutoff), dtype=np.int64)
        for n, rows in enumerate(offline.lists(users, eval_split.split, cutoff)):
            lists[n, : len(rows)] = rows
            done += 1
            if done % BATCH == 0:
                on_progress(done)
        metrics |= eval_split.score(lists, [cutoff])
    on_progress(done)
    return Evaluated(metrics, lists)


class OutcomeRecall(NamedTuple):
    """Recall of the targets that ended with one outcome, by lists that were asked for another or the same."""

    asked: str | None  # None: the plan's own lists
    ended: str
    users: int  # who have such a target
    metrics: dict[str, float]


def evaluate_outcomes(offline: OfflineArm, eval_split: EvalSplit, cutoff: int) -> Iterator[OutcomeRecall]:
    """Each list that the arm can be asked for, measured by the targets of each outcome that the data mark."""
    split, inside = eval_split.split, set(eval_split.users.tolist())
    for ended in eval_split.data.outcomes:
        data = eval_split.data.ended_with(ended, split)
        users = [user for user in data.users_with_targets(split).tolist() if user in inside]
        if not users:
            continue
        own = EvalSplit(data, split, np.array(users))
        for asked in (None, *offline.arm.release.outcomes):
            metrics = evaluate(offline.asked_for(asked), own, [cutoff]).metrics
            yield OutcomeRecall(asked, ended, len(users), metrics)


def check_same_data(release: Release, data: SequenceData) -> None:
    """Raises ValueError when rows of the data set and of the bundle do not mean the same ids."""
    for name, ours, theirs in (
        ("items", release.catalogue.items.ids, data.catalogue.items.ids),
        ("users", release.catalogue.users.ids, data.catalogue.users.ids),
    ):
        if not np.array_equal(ours, theirs):
            raise ValueError(
                f"the bundle and the data set {data.name} have different {name}: train and evaluate on the same data"
            )
