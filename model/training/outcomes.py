"""Trains the heads of outcomes behind a finished network: its weights and its plain answer stay as they are.

A sample is the history before an event that ended with the outcome, cut up to WINDOW places before it, with those of
the next WINDOW events as targets that ended so. Rate and epoch are those that are best on validation; where none is
better than the plain answer, the head gives the plain answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batch import Batch
from model.data.marks import Flags
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from model.networks.base import Network
from model.outcomes.heads import OutcomeFit, OutcomeHeads
from model.records import PromptPlan
from model.training.losses import catalogue_cross_entropy, target_shares

RANK, WINDOW, DECAY = 32, 20, 0.9
MAX_EPOCHS, WEIGHT_DECAY = 12, 0.1
RATES = 1e-3, 3e-3, 1e-2  # vectors of a network that was trained for long are longer, and so are the steps to take
MIN_BATCH, MAX_BATCH, STEPS = 32, 512, 28  # samples; steps of an epoch, where there are enough of them
MAX_SAMPLES = 50_000  # of an epoch
ENCODED = 256  # histories at a time


class Samples(NamedTuple):
    """The histories of one outcome and what followed them."""

    queries: Tensor  # (T, Q, D) plain query vectors
    targets: Tensor  # (T, WINDOW) the rows that each should rank first, 0 = none


@dataclass
class Head:
    """The weights of one head while it is trained."""

    down: Tensor  # (R, D)
    up: Tensor  # (D, R)
    shift: Tensor  # (D,)

    @classmethod
    def plain(cls, dim: int, seed: int, device: torch.device) -> "Head":
        """A head that gives the plain vector."""
        rank = min(RANK, dim)
        down = torch.randn(rank, dim, generator=torch.Generator().manual_seed(seed)) / dim**0.5
        weights = down, torch.zeros(dim, rank), torch.zeros(dim)
        return cls(*(weight.to(device).requires_grad_() for weight in weights))

    @property
    def weights(self) -> list[Tensor]:
        return [self.down, self.up, self.shift]

    def __call__(self, queries: Tensor) -> Tensor:
        return queries + (queries @ self.down.T) @ self.up.T + self.shift

    def copy(self) -> "Head":
        return Head(*(weight.detach().clone() for weight in self.weights))


class HeadTrainer:
    """The heads of one network on one data set."""

    def __init__(self, network: Network, data: SequenceData, plan: PromptPlan, seed: int) -> None:
        """plan: the one that makes the plain query vectors."""
        self.network, self.data, self.plan, self.seed = network.eval(), data, plan, seed
        self.table = network.item_vectors().detach()

    def fit(self, outcome: str, metric: str) -> tuple[OutcomeFit, Head]:
        """The best head on the validation targets that ended with an outcome, of all rates and epochs."""
        flags, head = self.data.outcomes[outcome].train, self._plain()
        fit = OutcomeFit(outcome, int(flags.sum()), 0)
        if not (self.is_needed(flags) and self.data.outcomes[outcome].valid.any()):
            return fit, head
        measured = Measured.of(self, EvalSplit.of(self.data.ended_with(outcome, "valid"), "valid"), metric)
        plain = measured.score(head)
        fit, samples = replace(fit, metric=metric, plain=plain, asked=plain), self.samples(flags)
        for rate in RATES:
            tried = self._plain()
            for epoch, _ in enumerate(self.epochs(tried, samples, rate, MAX_EPOCHS), start=1):
                # on a tie the earlier one, and the plain answer first of all
                if (score := measured.score(tried)) > fit.asked:
                    fit, head = replace(fit, epochs=epoch, rate=rate, asked=score), tried.copy()
        return fit, head

    def refit(self, fit: OutcomeFit) -> Head:
        """A head of as many epochs at the same rate, not measured."""
        head, flags = self._plain(), self.data.outcomes[fit.name].train
        if fit.epochs and self.is_needed(flags):
            for _ in self.epochs(head, self.samples(flags), fit.rate, fit.epochs):
                pass
        return head

    def is_needed(self, flags: Flags) -> bool:
        """False where all training events ended so, which is what the network has learnt, or none did."""
        return bool(flags.any()) and not flags.all()

    def epochs(self, head: Head, samples: Samples, rate: float, count: int) -> Iterator[None]:
        """Trains a head; after each epoch it is as good as so many have made it."""
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(head.weights, lr=rate, weight_decay=WEIGHT_DECAY)
        queries, targets = samples
        # few events are smaller batches: a head of a rare outcome takes as many steps as that of a frequent one
        size = min(max(len(queries) // STEPS, MIN_BATCH), MAX_BATCH)
        for _ in range(count):
            order = torch.randperm(len(queries), generator=generator).to(self.table.device)
            for part in torch.split(order, size):
                shares = target_shares(targets[part], DECAY)
                loss = catalogue_cross_entropy(
                    head(queries[part]), self.table, (targets[part] - 1).clamp(min=0), shares
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            yield

    def _plain(self) -> Head:
        return Head.plain(self.table.shape[1], self.seed, self.table.device)

    def samples(self, flags: Flags) -> Samples:
        """The samples of one outcome; the same for the same seed."""
        train, rng = self.data.train, np.random.default_rng([self.seed, int(flags.sum())])
        places = np.flatnonzero(flags)
        if len(places) > MAX_SAMPLES:
            places = np.sort(rng.choice(places, MAX_SAMPLES, replace=False))
        owners = np.searchsorted(train.offsets, places, side="right") - 1
        starts, ends = train.offsets[owners], train.offsets[owners + 1]
        cuts = np.maximum(places - rng.integers(0, WINDOW, len(places)), starts)
        histories = [train.values[start:cut] for start, cut in zip(starts.tolist(), cuts.tolist(), strict=True)]
        ahead = cuts[:, None] + np.arange(WINDOW)  # (T, W)
        inside = ahead < ends[:, None]
        ahead = np.where(inside, ahead, 0)
        targets = np.where(inside & flags[ahead], train.values[ahead], 0).astype(np.int64)
        queries = self.encode(histories, (owners + 1).tolist())
        return Samples(queries, torch.from_numpy(targets).to(self.table.device))

    @torch.no_grad()
    def encode(self, histories: Sequence[NDArray[np.int32]], users: Sequence[int]) -> Tensor:
        """(T, Q, D) plain query vectors."""
        parts = [
            self.network.queries(
                Batch.of(histories[start : start + ENCODED], users[start : start + ENCODED], self._window).to(
                    self.table.device
                ),
                self.plan,
            ).vectors
            for start in range(0, len(histories), ENCODED)
        ]
        return torch.cat(parts)

    @property
    def _window(self) -> int:
        return self.network.config.max_length


@dataclass(frozen=True)
class Measured:
    """The users of a split with their plain query vectors, so that a head is measured without the network."""

    eval_split: EvalSplit
    metric: str
    queries: Tensor  # (U, Q, D)
    table: Tensor  # (N, D)
    seen: Sequence[NDArray[np.int64]]  # places in the table, of each user

    @classmethod
    def of(cls, trainer: HeadTrainer, eval_split: EvalSplit, metric: str) -> "Measured":
        users = eval_split.users.tolist()
        histories = [eval_split.data.history(user, eval_split.split) for user in users]
        seen = [np.unique(history).astype(np.int64) - 1 for history in histories]
        return cls(eval_split, metric, trainer.encode(histories, users), trainer.table, seen)

    @torch.no_grad()
    def score(self, head: Head) -> float:
        cutoff = int(self.metric.split("@")[1])
        depth, starts = min(cutoff, len(self.table)), range(0, len(self.queries), ENCODED)
        lists = [self._lists(head, slice(start, start + ENCODED), depth) for start in starts]
        return self.eval_split.score(np.concatenate(lists), [cutoff])[self.metric]

    def _lists(self, head: Head, users: slice, cutoff: int) -> NDArray[np.int64]:
        scores = (head(self.queries[users]) @ self.table.T).amax(1)  # (B, N)
        for row, seen in zip(scores, self.seen[users], strict=True):
            row[torch.from_numpy(seen).to(row.device)] = -torch.inf
        best, rows = scores.topk(cutoff)
        return torch.where(best.isneginf(), 0, rows + 1).cpu().numpy()


def fit_outcomes(
    network: Network, data: SequenceData, plan: PromptPlan, metric: str, seed: int = 0
) -> OutcomeHeads | None:
    """The heads of a data set's outcomes; None where it has none."""
    trainer = HeadTrainer(network, data, plan, seed)
    return _joined([trainer.fit(outcome, metric) for outcome in data.outcomes])


def refit_outcomes(
    network: Network, data: SequenceData, plan: PromptPlan, chosen: OutcomeHeads | None, seed: int
) -> OutcomeHeads | None:
    """Heads with the epochs of those that were chosen, on other events; without their figures."""
    trainer = HeadTrainer(network, data, plan, seed)
    return _joined(
        [
            (
                replace(fit, num_events=int(data.outcomes[fit.name].train.sum()), metric="", plain=0.0, asked=0.0),
                trainer.refit(fit),
            )
            for fit in (chosen.fits if chosen else ())
        ]
    )


def _joined(heads: Sequence[tuple[OutcomeFit, Head]]) -> OutcomeHeads | None:
    if not heads:
        return None
    weights = zip(*(head.copy().weights for _, head in heads), strict=True)
    down, up, shift = (torch.stack(part).cpu().numpy() for part in weights)
    return OutcomeHeads(tuple(fit for fit, _ in heads), down, up, shift)
