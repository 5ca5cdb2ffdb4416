"""The padded batch that networks read, and the query vectors that they answer with, while both are on the device.

Histories are padded on the right, so causal attention alone hides the padding and a history gives the same states
alone, in any batch and under any padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Histories of B users, padded on the right with row 0."""

    rows: Tensor  # (B, L) item rows, oldest first
    lengths: Tensor  # (B,) real items in each row, 0..L
    users: Tensor  # (B,) user rows, 0 = unknown
    window: int = 1  # W items of the future that a place is trained to rank

    @classmethod
    def of(cls, histories: Sequence[Sequence[int] | NDArray[np.int32]], users: Sequence[int], max_length: int) -> Self:
        """Keeps the newest `max_length` items of each history."""
        # as_tensor of an empty list would be float
        kept = [torch.as_tensor(list(h[-max_length:]) if len(h) else [], dtype=torch.int64) for h in histories]
        lengths = torch.tensor([len(h) for h in kept])
        rows = nn.utils.rnn.pad_sequence(kept, batch_first=True) if kept else torch.zeros(0, 0, dtype=torch.int64)
        return cls(rows, lengths, torch.as_tensor(list(users), dtype=torch.int64))

    def to(self, device: torch.device) -> Self:
        if self.rows.device == device:
            return self
        return replace(self, rows=self.rows.to(device), lengths=self.lengths.to(device), users=self.users.to(device))

    @property
    def real(self) -> Tensor:
        """(B, L) true where a real item stands."""
        return torch.arange(self.rows.shape[1], device=self.rows.device) < self.lengths[:, None]

    @property
    def targets(self) -> Tensor:
        """(B, L, W) the item at each place and the W - 1 that follow it; 0 behind the end."""
        rows = self.rows * self.real
        return nn.functional.pad(rows, (0, self.window - 1)).unfold(1, self.window, 1)

    @property
    def before_last(self) -> Tensor:
        """(B, L) the rows without each history's last item and what stands behind it; 0 there."""
        places = torch.arange(self.rows.shape[1], device=self.rows.device)
        return self.rows * (places < self.lengths[:, None] - 1)

    def without_last(self) -> tuple[Self, Tensor]:
        """The histories (one item at least) without their last item, and the rows (B, W) of that item and what follows.

        What follows stands behind a history's own length, and W - 1 places behind the longest one; 0 = nothing.
        """
        before = self.lengths - 1
        targets = self.rows.gather(1, before[:, None] + torch.arange(self.window, device=self.rows.device))
        # what is left of a shorter history's targets lies in its padding
        return replace(self, rows=self.rows[:, : -self.window], lengths=before), targets


class Queries(NamedTuple):
    """QueryVectors before they leave the device."""

    vectors: Tensor  # (B, Q, D)
    prompts: Tensor  # (B, P) generated item rows
