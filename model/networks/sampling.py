"""The random draws of training: prefixes of a history, hidden items, and users whose id is hidden."""

import torch
from torch import Tensor

from model.batch import Batch


def random_cuts(batch: Batch, per_user: int) -> tuple[Tensor, Tensor]:
    """Up to `per_user` different places of each history, at random: (B, P), and (B, P) which of them are real."""
    # sorted noise is a draw without repetition; 2 is above all noise, so padding comes last
    cuts = torch.rand(batch.rows.shape, device=batch.rows.device).masked_fill(~batch.real, 2).argsort(1)[:, :per_user]
    return cuts, cuts < batch.lengths[:, None]


def random_prefixes(batch: Batch, per_user: int) -> tuple[Batch, Tensor]:
    """Up to `per_user` different prefixes of each history, empty to all but one item, and what follows them (T, W)."""
    cuts, real = random_cuts(batch, per_user)
    users, nth = real.nonzero(as_tuple=True)
    cut = cuts[users, nth]  # the prefix is what stands before it, the target what stands at it
    prefixes = Batch(batch.rows[users, : int(cut.max()) if len(cut) else 0], cut, batch.users[users])
    return prefixes, batch.targets[users, cut]


def hide_users(users: Tensor, share: float, training: bool) -> Tensor:
    """User rows (B,) of which, while training, a random share becomes row 0: that trains the unknown user."""
    if not training or not share:
        return users
    return users * (torch.rand(len(users), device=users.device) >= share)


def hide_items(batch: Batch, share: float) -> Tensor:
    """(B, L) true at a random share of the real items, and at one item at least of each history."""
    hidden = (torch.rand(batch.rows.shape, device=batch.rows.device) < share) & batch.real
    return hidden | (one_item(batch) & ~hidden.any(1, keepdim=True))


def one_item(batch: Batch) -> Tensor:
    """(B, L) true at one random real item of each history."""
    # the product may round up to the length itself
    cut = (torch.rand(len(batch.lengths), device=batch.rows.device) * batch.lengths).long()
    cut = torch.minimum(cut, batch.lengths - 1)
    return torch.arange(batch.rows.shape[1], device=batch.rows.device) == cut[:, None]
