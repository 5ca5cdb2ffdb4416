"""The protocol: rank the whole catalogue for every user who has a target, never what is in the user's history.

Where a data set names candidates, those alone are ranked (KuaiRec's fully observed videos).
The validation split is predicted from the training sequence, the test split from training and validation.
Used while training, on the validation split; `recall evaluate` scores a bundle's own answers instead
(service/engine/offline.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import Batch
from model.catalogue import Ragged
from model.data.sequences import SequenceData, Split
from model.evaluation.metrics import Relevance, ranking_metrics
from model.merging import merge
from model.networks.base import Network
from model.records import PromptPlan, ServingPlan

MAX_BATCH_USERS = 256
MAX_SCORES = 2**24  # of a batch, so that a large catalogue does not need a large machine


@dataclass(frozen=True)
class EvalSplit:
    """The users a split is measured on."""

    data: SequenceData
    split: Split
    users: NDArray[np.int64]  # user rows

    @classmethod
    def of(cls, data: SequenceData, split: Split, max_users: int | None = None, seed: int = 0) -> "EvalSplit":
        """All users with a target, or a random `max_users` of them (the same for a seed)."""
        users = data.users_with_targets(split)
        if max_users is not None and len(users) > max_users:
            users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
        if not len(users):
            raise ValueError(f"data set {data.name} has no user with a {split} target")
        return cls(data, split, users)

    @property
    def excluded(self) -> NDArray[np.bool_] | None:
        """(N,) items that are not ranked; None = all are."""
        if self.data.candidates is None:
            return None
        excluded = np.ones(len(self.data.catalogue.items), dtype=np.bool_)
        excluded[self.data.candidates - 1] = False
        return excluded

    def score(self, lists: NDArray[np.int64], cutoffs: Sequence[int]) -> dict[str, float]:
        """Metrics of lists (U, K) in the order of `users`."""
        targets = [self.data.targets(user, self.split) for user in self.users.tolist()]
        return ranking_metrics(Relevance.of(lists, targets), cutoffs)

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Positions in `users`, similar lengths together."""
        size = max(1, min(MAX_BATCH_USERS, MAX_SCORES // len(self.data.catalogue.items)))
        lengths = [len(self.data.history(user, self.split)) for user in self.users.tolist()]
        order = np.argsort(lengths, kind="stable")
        return (order[start : start + size] for start in range(0, len(order), size))


@dataclass(frozen=True)
class TopLists:
    """Each query vector's own best items, history already left out."""

    rows: NDArray[np.int64]  # (U, Q, K)
    scores: NDArray[np.float32]  # (U, Q, K)
    categories: Ragged | None = None  # of the catalogue, for plans with diversity

    def merged(self, plan: ServingPlan, limit: int) -> NDArray[np.int64]:
        """(U, limit) final lists, 0 where a list is short."""
        parts = range(0, len(self.rows), MAX_BATCH_USERS)
        lists = [self._merged(slice(start, start + MAX_BATCH_USERS), plan, limit) for start in parts]
        return np.concatenate(lists)

    def _merged(self, part: slice, plan: ServingPlan, limit: int) -> NDArray[np.int64]:
        return merge(self.rows[part], self.scores[part], limit, plan, self.categories).rows


@torch.inference_mode()
def top_lists(network: Network, eval_split: EvalSplit, plan: PromptPlan, cutoff: int) -> TopLists:
    """Exact top `cutoff` of every query vector, on the network's device."""
    parts: list[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor]] = []
    table = network.item_vectors()
    cutoff = min(cutoff, len(table))
    excluded = torch.as_tensor(eval_split.excluded, device=table.device) if eval_split.excluded is not None else None
    for part in eval_split.batches():
        users = eval_split.users[part].tolist()
        histories = [eval_split.data.history(user, eval_split.split) for user in users]
        batch = Batch.of(histories, users, network.config.max_length).to(table.device)
        # all scores, not the index: plans are chosen by what a system finds, not by what an index loses
        scores = network.queries(batch, plan).vectors @ table.T  # (B, Q, N)
        # minus infinity, not 0: negative scores must not rank behind what was seen
        owners = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        seen = np.concatenate([*histories, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        pairs = torch.from_numpy(np.stack([owners, seen - 1])).to(table.device)  # (2, E)
        scores[pairs[0], :, pairs[1]] = -torch.inf
        if excluded is not None:
            scores.masked_fill_(excluded, -torch.inf)
        best, rows = scores.topk(cutoff)
        parts.append((part, (rows + 1).cpu(), best.cpu()))
    order = np.argsort(np.concatenate([part for part, _, _ in parts]))
    best_rows = torch.cat([rows for _, rows, _ in parts]).numpy()[order]
    values = torch.cat([best for _, _, best in parts]).numpy()[order]
    return TopLists(np.where(np.isneginf(values), 0, best_rows), values, eval_split.data.catalogue.categories)
