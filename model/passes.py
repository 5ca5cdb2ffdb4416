"""A pass: a network at one shape (B, L), traced once, so that its many small products run without the interpreter.

Eager calls spend a third of a small pass in Python and take the interpreter's lock after each of some hundred
operations, which in a busy service means waiting for it as often. A trace runs them all in one call, lock released.
What it computes is what the eager network computes, to the bit: `Pass.of` compares, and falls back where they differ.
Why torch.jit and not its successors: docs/decisions/0014-traced-passes.md.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.networks.base import Network, Queries
from model.networks.layers import Batch
from model.records import PromptPlan

Call = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class _Answers(nn.Module):
    """`Network.queries` between plain tensors, as tracing wants it."""

    def __init__(self, network: Network, plan: PromptPlan) -> None:
        super().__init__()
        self.network, self.plan = network, plan

    def forward(self, rows: Tensor, lengths: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.queries(Batch(rows, lengths, users), self.plan)


@dataclass(frozen=True)
class Pass:
    """Histories of B users, padded to L, to their query vectors."""

    size: int  # B
    length: int  # L
    traced: bool
    call: Call

    @classmethod
    def of(cls, network: Network, plan: PromptPlan, size: int, length: int) -> "Pass":
        """network: in eval mode, on the CPU, its weights final: a trace may hold them as constants."""
        eager = _Answers(network, plan).eval()
        # a trace would keep what an index proposed for the probe
        if network.item_vectors().device.type != "cpu" or getattr(network, "proposer", None):
            return cls(size, length, False, eager)
        probe = _probe(network, size, length)
        with torch.no_grad(), warnings.catch_warnings():
            # deprecated in favour of ways that need a compiler on the serving machine
            warnings.simplefilter("ignore")
            try:
                traced: Call = torch.jit.freeze(torch.jit.trace(eager, probe, check_trace=False).eval())  # type: ignore[no-untyped-call]
                # the second call is the optimised one
                same = all(_equal(traced(*given), eager(*given)) for given in (probe, _probe(network, size, length, 1)))
            except (RuntimeError, AttributeError):
                same = False
        return cls(size, length, same, traced if same else eager)

    @torch.no_grad()
    def run(self, batch: Batch) -> Queries:
        return Queries(*self.call(batch.rows, batch.lengths, batch.users))


def _probe(network: Network, size: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random histories of every length, the empty one included."""
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    lengths = torch.randint(0, length + 1, (size,), generator=generator)
    rows = torch.randint(1, config.num_items + 1, (size, length), generator=generator)
    rows = rows * (torch.arange(length) < lengths[:, None])
    return rows, lengths, torch.randint(0, config.num_users + 1, (size,), generator=generator)


def _equal(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def alike(one: Pass, other: Pass, network: Network) -> bool:
    """Whether two sizes give a history the same answer to the bit; sizes are multiples of each other."""
    small, large = sorted((one, other), key=lambda each: each.size)
    rows, lengths, users = _probe(network, large.size, large.length, 2)
    whole = large.run(Batch(rows, lengths, users))
    for start in range(0, large.size, small.size):
        part = slice(start, start + small.size)
        found = small.run(Batch(rows[part], lengths[part], users[part]))
        if not _equal(found, Queries(whole.vectors[part], whole.prompts[part])):
            return False
    return True
