"""Histories of different length behind one another: no token of padding is computed.

The tokens of user b are rows start .. start + length of one long matrix, and free rows behind them take what is
generated. Where each user begins stands in the first columns of the integer matrix that comes from the host.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

LENGTH, USER, START, TOTAL = range(4)  # columns; START: a user's first row, TOTAL: rows in use, the same for all users


class Packed(NamedTuple):
    """B users' tokens."""

    given: "Tensor"  # (B, any) int32, contiguous: length, user, start, total, ..
    most: int  # tokens of a history: START and its items

    @property
    def size(self) -> int:
        return len(self.given)

    @property
    def step(self) -> int:
        return self.given.shape[1]
