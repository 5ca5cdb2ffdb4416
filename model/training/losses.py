"""Ranking losses: softmax cross-entropy over the catalogue, or against one drawn item.

The softmax never holds the whole score matrix. Rows go through in chunks; the gradient of a chunk is formed while its
scores are still in cache. The products run in bf16 with fp32 softmax where the processor multiplies bf16 by itself:
three to six times faster than fp32 with AMX or AVX512-BF16, up to forty times slower without. Gradients equal the plain
way's to about 1e-3 (tests/model/training/test_losses.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.generation.greedy import ROWS_STEP, product_type, whole_steps

# rows of scores held at a time; a row with Q query vectors counts Q times
CHUNK_ROWS = {"cpu": 256, "cuda": 8192}


class _CatalogueSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, table: Tensor, targets: Tensor, shares: Tensor, seen: Tensor | None
    ) -> Tensor:
        num_rows, num_queries, _ = queries.shape
        # rows of zeros: they have no share in the loss, and their products are zeros
        queries, targets, shares = (whole_steps(rows) for rows in (queries, targets, shares))
        seen = None if seen is None else whole_steps(seen)
        # once a batch: every chunk reads it
        w = table.to(product_type(table.device))
        grad_q, grad_w = torch.empty_like(queries), torch.zeros_like(table)
        loss = queries.new_zeros(())
        size = max(1, CHUNK_ROWS[queries.device.type] // num_queries // ROWS_STEP) * ROWS_STEP
        # written again by each chunk: fresh pages for every matrix of scores cost as much as the scores
        buffers, products = w.new_empty(num_queries + 1, min(size, len(queries)), len(w)), torch.empty_like(w)
        for part in (slice(start, start + size) for start in range(0, len(queries), size)):
            q = queries[part].to(w.dtype)  # (C, Q, D)
            *scores, grad = buffers[:, : len(q)]  # (C, N) each
            for k, matrix in enumerate(scores):
                torch.mm(q[:, k], w.T, out=matrix)
                if seen is not None:
                    _leave_out(matrix, seen[part])
            highest, owned = _highest(scores)
            loss += _softmax_gradient(highest, targets[part], shares[part], grad)
            for k, share in enumerate(owned):
                # an item's gradient goes to the query vector that gave it its score
                own = grad if share is None else share.mul_(grad)
                grad_q[part, k] = own @ w
                grad_w += torch.mm(own.T, q[:, k], out=products)
        ctx.save_for_backward(grad_q[:num_rows].div_(num_rows), grad_w.div_(num_rows))
        return loss / num_rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_q, grad_w = ctx.saved_tensors
        return grads[0] * grad_q, grads[0] * grad_w, None, None, None


def _leave_out(scores: Tensor, seen: Tensor) -> None:
    """Scores (C, N) of the items that stand in `seen` (C, L) become minus infinity; 0 = none."""
    rows, places = seen.nonzero(as_tuple=True)
    # the table that ranks begins with row 1
    scores[rows, seen[rows, places] - 1] = -torch.inf


def _highest(scores: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Element-wise maximum of Q matrices (C, N), and each one's share in it (ties share); None = all of it."""
    if len(scores) == 1:
        return scores[0], [None]
    highest = scores[0]
    for matrix in scores[1:]:
        highest = torch.maximum(highest, matrix)
    # bf16 scores tie often enough that a tie must not count twice
    shares = [(matrix == highest).to(matrix.dtype) for matrix in scores]
    ties = sum(shares[1:], start=shares[0])
    return highest, [share.div_(ties) for share in shares]


def _softmax_gradient(scores: Tensor, wanted: Tensor, shares: Tensor, grad: Tensor) -> Tensor:
    """Summed loss of a chunk; `grad` (C, N) becomes its gradient. scores: (C, N), wanted and shares: (C, W)."""
    # one pass a row, fp32 inside
    torch.softmax(scores, 1, out=grad)
    # log of the denominator from the likeliest item, whose probability never underflows
    total = scores.amax(1).float() - grad.amax(1).float().log()
    loss = (shares * (total[:, None] - scores.gather(1, wanted).float())).sum()
    # an item that stands in the window twice has both shares
    grad.scatter_add_(1, wanted, shares.neg().to(grad.dtype))
    return loss


def target_shares(targets: Tensor, decay: float) -> Tensor:
    """(T, W) the share of each target of a row: decay^distance, 0 where there is none (row 0); they sum to 1."""
    weights = (targets > 0) * decay ** torch.arange(targets.shape[1], device=targets.device)
    return weights / weights.sum(1, keepdim=True)


def catalogue_cross_entropy(
    queries: Tensor, table: Tensor, targets: Tensor, shares: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """Mean over T of the cross-entropy between shares and softmax(scores); a score is the highest over Q vectors.

    queries (T, D) or (T, Q, D), table (N, D), targets (T, W) 0-based rows of `table`, shares (T, W) that sum to 1.
    One target a row: targets (T,), without shares. seen (T, L): items 1 .. N that are not ranked there, no target
    among them; 0 = none.
    """
    if shares is None:
        targets = targets[:, None]
        shares = torch.ones_like(targets, dtype=table.dtype)
    rows = queries if queries.dim() == 3 else queries[:, None]
    return _CatalogueSoftmax.apply(rows, table, targets, shares, seen)  # type: ignore[no-any-return, no-untyped-call]


def sampled_bce(queries: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean over T of -log sigmoid(target) - log(1 - sigmoid(other)): SASRec's public way, shapes as above.

    The other item is drawn uniformly from the catalogue without the target.
    """
    other = highest_scores(queries, table, draw_others(targets, len(table)))
    return (F.softplus(-highest_scores(queries, table, targets)) + F.softplus(other)).mean()


def sampled_bpr(queries: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean over T of -log sigmoid(target - other), the other item drawn as in `sampled_bce`."""
    other = highest_scores(queries, table, draw_others(targets, len(table)))
    return F.softplus(other - highest_scores(queries, table, targets)).mean()


def highest_scores(queries: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """(T,) score of one item a row: the highest over the row's query vectors."""
    queries = queries if queries.dim() == 3 else queries[:, None]
    return (queries @ table[rows][:, :, None])[:, :, 0].amax(1)


def draw_others(targets: Tensor, num_items: int) -> Tensor:
    """(T,) 0-based rows, uniform over all but the target."""
    # one draw among N - 1 that steps over the target is the same as drawing again until it differs
    drawn = torch.randint(num_items - 1, targets.shape, device=targets.device)
    return drawn + (drawn >= targets)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
SAMPLED: dict[str, Loss] = {"bce": sampled_bce, "bpr": sampled_bpr}  # of the next item alone
