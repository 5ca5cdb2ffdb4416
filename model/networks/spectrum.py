"""A closed-form start for item tables: the leading singular vectors of how items follow each other in histories.

Training that starts here needs a tenth of the epochs of a random start (docs/experiments-log.md). Factoring
normalised co-occurrence counts is what word embeddings do implicitly: Levy and Goldberg, NIPS 2014.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from model.catalogue import Ragged

MAX_GAP = 20  # items further apart in a history do not count as a pair
NEARNESS = 0.7  # of what a pair counts, each further item between keeps
SHRINK = 5.0  # pairs added to each item: rare items are believed less
OVERSAMPLING, NUM_ITERATIONS = 32, 4  # of the randomised factorisation (Halko 2011)


class Factors(NamedTuple):
    """left @ right.T approximates the co-occurrence matrix."""

    left: Tensor  # (N, D) of the item that comes first
    right: Tensor  # (N, D) of the item that follows


def co_occurrence(histories: Ragged, num_items: int, backward: float) -> Tensor:
    """(N, N) sparse: how often row j follows row i, over the root of how often each does; `backward`: j before i."""
    counts = sparse(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), num_items)
    for gap in range(1, min(MAX_GAP, int(max(histories.lengths, default=0)))):
        first, second = pairs_apart(histories, gap)
        forward, nearness = torch.stack([first, second]), NEARNESS ** (gap - 1)
        for pairs, weight in ((forward, nearness), (forward.flip(0), backward * nearness)):
            values = torch.full((pairs.shape[1],), weight)
            # gap by gap: the pairs of all gaps at once would hold the log many times over
            counts = (counts + sparse(pairs, values, num_items)).coalesce()
    rows, columns = counts.indices()
    as_first = torch.zeros(num_items).index_add_(0, rows, counts.values()) + SHRINK
    as_second = torch.zeros(num_items).index_add_(0, columns, counts.values()) + SHRINK
    values = counts.values() / (as_first[rows] * as_second[columns]).sqrt()
    return sparse(counts.indices(), values, num_items)


def sparse(pairs: Tensor, values: Tensor, size: int) -> Tensor:
    """(size, size) with `values` (P,) at `pairs` (2, P)."""
    return torch.sparse_coo_tensor(pairs, values, (size, size), check_invariants=True).coalesce()


def pairs_apart(histories: Ragged, gap: int) -> tuple[Tensor, Tensor]:
    """0-based rows that stand `gap` apart in one history."""
    values: NDArray[np.int32] = histories.values
    history = np.repeat(np.arange(len(histories)), histories.lengths)
    # histories lie one after the other: a pair must not reach into the next one
    same = history[gap:] == history[:-gap]
    sides = [torch.from_numpy(part[same].astype(np.int64) - 1) for part in (values[:-gap], values[gap:])]
    return sides[0], sides[1]


def factorise(histories: Ragged, num_items: int, dim: int, backward: float) -> Factors:
    """The `dim` leading factors, each table scaled to standard deviation 1; zeros behind what the catalogue gives.

    Draws from torch's random state.
    """
    rank = min(dim, num_items)
    left, values, right = torch.svd_lowrank(
        co_occurrence(histories, num_items, backward), q=min(rank + OVERSAMPLING, num_items), niter=NUM_ITERATIONS
    )
    scale = values[:rank].sqrt()
    parts = (left[:, :rank] * scale, right[:, :rank] * scale)
    # a catalogue of one item gives one number, which has no deviation
    spreads = [part.std() if part.numel() > 1 else part.abs().max() for part in parts]
    scaled = (part / spread.clamp(min=1e-9) for part, spread in zip(parts, spreads, strict=True))
    return Factors(*(pad(part, (0, dim - rank)) for part in scaled))


@torch.no_grad()
def start_pair(read: Tensor, ranked: Tensor, histories: Ragged, spread: float, backward: float) -> None:
    """Fills two tables (N, D), of what was watched and what is ranked: pairs that are common in the logs score high.

    spread: their standard deviation; backward: what a pair counts against its order.
    """
    factors = factorise(histories, len(read), read.shape[1], backward)
    read.copy_(spread * factors.left)
    ranked.copy_(spread * factors.right)


def tied_factors(histories: Ragged, num_items: int, dim: int) -> Tensor:
    """(N, D) for a table that is read and ranks: order does not count, items that avoid each other do not either."""
    left, right = factorise(histories, num_items, dim, backward=1.0)
    # of a symmetric matrix the two sides are the same but for the sign of negative eigenvalues
    return left * ((left * right).sum(0) > 0)
