"""The item of the catalogue that a state ranks first, which generation asks for at every step.

Alone, a batch's product with the table and its arg max in two passes. For many batches over one table, `TopItem`: the
product in bf16, which says what may still be first, and fp32 for that alone. The item is the same.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.kernels import available
from model.kernels.block_max import best_items

NextItem = Callable[[Tensor], Tensor]  # states (B, D) -> rows (B,) of the items to generate, 0 where it names none
BLOCK = 64  # scores that are compared at once
MIN_BATCH = 32  # states; below it the bf16 product of oneDNN takes longer than the fp32 one
UNIT = 1.01 * 2.0**-8  # what rounding to bf16 changes at most, of the number itself
SUMS = 1e-5  # the same of what the order of an fp32 sum changes, of the product of the lengths
SOFT_ROWS = 256  # states whose scores are held at a time
# oneDNN keeps a compiled bf16 product for every number of rows it has met, .3 MB each, and the heap between is lost
# to large tensors: products of any number of rows, as in training, have a multiple of this many
ROWS_STEP = 32
MOST_CANDIDATES = 16  # a state; where more tie, scoring all costs less than looking for them


def top_item(states: Tensor, table: Tensor) -> Tensor:
    """(B,) rows 1..N of the highest inner product, the first of equal ones; states (B, D), table (N, D)."""
    if states.is_cuda and available("cuda"):
        from model.kernels.search import best_rows  # noqa: PLC0415  (needs Triton)

        return best_rows(states, table) + 1
    if states.is_cuda:
        scores, rows = best_items(states, table, 1)
        return rows.gather(1, scores.argmax(1, keepdim=True))[:, 0] + 1
    scores = states @ table.T
    num_items = scores.shape[1]
    if num_items <= BLOCK:
        return scores.argmax(1) + 1
    # finding the highest score is several times faster than finding where it is: the block first, then the place in it
    whole = num_items // BLOCK * BLOCK
    blocks = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(2)  # type: ignore[no-untyped-call]
    best = torch.cat([blocks, scores[:, whole - 1 :].amax(1, keepdim=True)], 1).argmax(1)
    # the last block is as long as the others and overlaps the one before, where nothing is as high
    start = (best * BLOCK).clamp(max=num_items - BLOCK)
    return start + scores.gather(1, start[:, None] + torch.arange(BLOCK, device=scores.device)).argmax(1) + 1


def product_type(device: torch.device) -> torch.dtype:
    """bf16 where the processor multiplies it by itself, else fp32: emulated, a bf16 product takes up to forty times."""
    is_fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else torch.float32


def whole_steps(rows: Tensor) -> Tensor:
    """(T', ..) `rows` (T, ..) with zeros behind them, T' a multiple of ROWS_STEP."""
    return torch.cat([rows, rows.new_zeros(-len(rows) % ROWS_STEP, *rows.shape[1:])])


def soft_item(states: Tensor, table: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(B,) rows of the items that rank first, and (B, D) the mean of all, by the softmax of scores / temperature."""
    scores = states @ table.T
    return scores.argmax(1) + 1, torch.softmax(scores / temperature, 1) @ table


def soft_items(states: Tensor, table: Tensor, temperature: float) -> Tensor:
    """(B, T, D) `soft_item` of each state, piece by piece and roughly, for training; states (B, T, D)."""
    # roughly is enough: the item is an input of training, no gradient and no list follows from its last bits
    rough = table.to(product_type(table.device))
    flat = whole_steps((states.flatten(0, 1) / temperature).to(rough.dtype))
    chunks = (flat[start : start + SOFT_ROWS] for start in range(0, len(flat), SOFT_ROWS))
    means = torch.cat([torch.softmax(chunk @ rough.T, 1) @ rough for chunk in chunks])[: states.shape[:2].numel()]
    return means.to(states.dtype).view_as(states)


class TopItem:
    """`top_item` of one table, prepared once; worth it from some ten batches on."""

    def __init__(self, table: Tensor) -> None:
        """table: (N, D) fp32 on the CPU, N > 0; copied in bf16."""
        half = table.bfloat16()
        # the last item again until blocks are whole: it ties with itself
        self.half = torch.cat([half, half[-1:].expand(-len(half) % BLOCK, -1)])
        self.table = table
        self.longest = _lengths(table).amax()
        self.rounding = _lengths(table - half).amax() + SUMS * self.longest

    @staticmethod
    def pays(table: Tensor, batch_size: int) -> bool:
        """True where this processor multiplies bf16 by itself and the batch is large enough."""
        return not table.is_cuda and batch_size >= MIN_BATCH and product_type(table.device) is torch.bfloat16

    def __call__(self, states: Tensor) -> Tensor:
        """(B,) as `top_item`; states (B, D)."""
        rounded = states.bfloat16()
        # |s t - s' t'| <= |s - s'| |t| + |s'| |t - t'|
        error = _lengths(states - rounded) * self.longest + _lengths(rounded.float()) * self.rounding
        rows: Tensor = _candidates_first(states, self.table, self.half, error)
        return rows


def best_of(table: Tensor, batch_size: int, repeated: bool) -> NextItem:
    """`top_item` of one table; `repeated`: prepared for many batches of that size, where this pays."""
    return TopItem(table) if repeated and TopItem.pays(table, batch_size) else partial(top_item, table=table)


def or_best_of(next_item: NextItem, table: Tensor) -> NextItem:
    """`next_item`, and the table's own best item where it names none: an approximate index may find nothing at all."""

    def choose(states: Tensor) -> Tensor:
        rows = next_item(states)
        return torch.where(rows > 0, rows, top_item(states, table)) if (rows < 1).any() else rows

    return choose


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths


def _first_of_candidates(
    states: Tensor,
    table: Tensor,
    half: Tensor,
    error: Tensor,
    size: int = BLOCK,
    most: int = MOST_CANDIDATES,
    unit: float = UNIT,
) -> Tensor:
    """error: (B,) by how much a product in bf16 may be off before it is rounded itself."""
    B, N = states.shape[0], table.shape[0]
    # (N / size, size, B): the maximum of a block is taken lane by lane
    rough = (half @ states.to(half.dtype).t()).view(-1, size, B)
    maxima = rough.amax(1).float()
    highest = maxima.amax(0)
    # the true score of the roughly highest is no lower than this; rough ones below `least` cannot reach it
    # twice: the highest may be too high by one error, another item too low by one
    sure = highest - unit * highest.abs() - 2 * error
    least = sure - unit * sure.abs()
    block, user = (maxima >= least).nonzero().unbind(1)
    pair, place = (rough[block, :, user].float() >= least[user][:, None]).nonzero().unbind(1)
    if len(pair) > most * B:
        return (states @ table.T).argmax(1) + 1
    user, rows = user[pair], (block[pair] * size + place).clamp(max=N - 1)
    # fp32 decides between the few that are left, and of equal ones the first row
    scores = (states[user] * table[rows]).sum(1)
    best = torch.full_like(error, -torch.inf).scatter_reduce(0, user, scores, "amax")
    first = torch.where(scores == best[user], rows, N - 1)
    return torch.full_like(highest, N - 1, dtype=torch.int64).scatter_reduce(0, user, first, "amin") + 1


# its branch must survive in a traced pass; scripted, a function sees no constants but its own defaults
_candidates_first = torch.jit.script_if_tracing(_first_of_candidates)  # type: ignore[no-untyped-call]
