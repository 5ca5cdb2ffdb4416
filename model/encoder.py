"""UserEncoder: histories in, query vectors out. The only door to the networks that the service uses.

A pass always has the same shape: `ROWS_PER_PASS` sequences, padded to one of few lengths. With one compute thread the
matrix kernels then treat a row the same wherever it stands, so an answer does not depend, to the last bit, on who
else is in the batch (docs/decisions/0005-same-answer-in-any-batch.md). Few shapes are also what CUDA graphs need.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.networks.base import Queries
from model.networks.layers import Batch
from model.records import History, PromptPlan, QueryVectors

ROWS_PER_PASS = {"cpu": 8, "cuda": 256}
SHORTEST = 15  # with START, 16 tokens


def padded_length(length: int, max_length: int) -> int:
    """15, 31, 63 .. up to max_length: the few lengths that passes have."""
    padded = SHORTEST
    while padded < length:
        padded = 2 * padded + 1
    return min(padded, max_length)


class UserEncoder:
    """Satisfies the service's `Encoder` protocol. Thread-safe; never changes the network."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = checkpoint.network.to(self.device).eval()
        self.plan: PromptPlan = checkpoint.plan.prompts
        self.max_length = self.network.config.max_length

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> "UserEncoder":
        return cls(Checkpoint.load(folder), device)

    def window(self, history: History) -> tuple[int, ...]:
        """The items that can change the answer: the newest `max_length`."""
        return history.items[-self.max_length :]

    def encode(self, histories: Sequence[History]) -> QueryVectors:
        """(B, Q, D) query vectors and (B, P) generated item rows, in the order of `histories` (B >= 1)."""
        passes = list(self._passes(histories))
        answers = [self._run([histories[i] for i in part], length) for part, length in passes]
        # passes are formed by length; the answers go back to the order that was asked for
        order = np.argsort([i for part, _ in passes for i in part])
        vectors = torch.cat([answer.vectors for answer in answers]).cpu().numpy()
        prompts = torch.cat([answer.prompts for answer in answers]).cpu().numpy()
        return QueryVectors(vectors[order], prompts[order])

    def _passes(self, histories: Sequence[History]) -> Iterator[tuple[list[int], int]]:
        """Indices that share a pass, and the length it is padded to."""
        size = ROWS_PER_PASS[self.device.type]
        lengths = [padded_length(min(len(h.items), self.max_length), self.max_length) for h in histories]
        # a stable sort: the same histories always share the same passes
        by_length = sorted(range(len(histories)), key=lengths.__getitem__)
        for length, group in groupby(by_length, key=lengths.__getitem__):
            members = list(group)
            for start in range(0, len(members), size):
                yield members[start : start + size], length

    @torch.inference_mode()
    def _run(self, histories: Sequence[History], length: int) -> Queries:
        size = ROWS_PER_PASS[self.device.type]
        windows: list[tuple[int, ...]] = [self.window(h) for h in histories]
        users = [h.user for h in histories]
        self._check(windows, users)
        rows = np.zeros((size, length), dtype=np.int64)
        for row, window in zip(rows, windows, strict=False):
            row[: len(window)] = window
        # a pass that is not full is filled up with empty histories of the unknown user
        spare = [0] * (size - len(histories))
        batch = Batch(
            torch.from_numpy(rows), torch.tensor([len(w) for w in windows] + spare), torch.tensor(users + spare)
        )
        answer = self.network.queries(batch.to(self.device), self.plan)
        return Queries(*(part[: len(histories)] for part in answer))

    def _check(self, windows: Sequence[Sequence[int]], users: Sequence[int]) -> None:
        """Bounds on the host: an out-of-range row on a GPU poisons its context."""
        config = self.network.config
        # Python integers, checked before any tensor exists: NumPy would wrap or raise in its own words
        if any(not 1 <= row <= config.num_items for window in windows for row in window):
            raise ValueError(f"an item row lies outside 1..{config.num_items}")
        if any(not 0 <= user <= config.num_users for user in users):
            raise ValueError(f"a user row lies outside 0..{config.num_users}")

    def item_vectors(self) -> Tensor:
        """(N, D) on the host: what the index is built from."""
        return self.network.item_vectors().detach().cpu().float()


def pin_compute_threads() -> None:
    """One compute thread for this process: kernels that split work by thread would round rows differently by place."""
    torch.set_num_threads(1)
