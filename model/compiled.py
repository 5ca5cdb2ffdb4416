"""A network at one shape (B, L), prepared once, so that its many small products run without the interpreter.

On the CPU it is traced. Eager calls spend a third of a small pass in Python and take the interpreter's lock after each
of some hundred operations, which in a busy service means waiting for it as often. A trace runs them all in one call,
lock released. Why torch.jit and not its successors: docs/decisions/0014-traced-passes.md. On CUDA it is captured as a
graph: one launch instead of some hundred. What either computes is what the eager network computes, to the bit:
`CompiledForward.of` compares, and falls back, with the reason, where they differ.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.batch import Batch, Queries
from model.generation.greedy import NextItem
from model.networks.base import Network
from model.products import LEAST, products
from model.records import PromptPlan

WARM_CALLS = 3
Call = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class _Answers(nn.Module):
    """`Network.queries` between plain tensors, as tracing wants it."""

    def __init__(self, network: Network, plan: PromptPlan, next_item: NextItem | None) -> None:
        super().__init__()
        self.network, self.plan, self.next_item = network, plan, next_item

    def forward(self, rows: Tensor, lengths: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
        with products(rows.device, len(rows)):
            return self.network.queries(Batch(rows, lengths, users), self.plan, self.next_item)


@dataclass(frozen=True)
class CompiledForward:
    """Histories of B users, padded to L, to their query vectors."""

    size: int  # B
    length: int  # L
    eager: str  # why it runs operation by operation, as a label; empty where it is traced or captured
    call: Call

    @classmethod
    def of(
        cls, network: Network, plan: PromptPlan, size: int, length: int, next_item: NextItem | None = None
    ) -> "CompiledForward":
        """network: in eval mode, its weights final."""
        eager = _Answers(network, plan, next_item).eval()
        if next_item is not None:
            # a trace would keep what it named for the probe
            return cls(size, length, "index_proposes", eager)
        device = network.item_vectors().device
        first, second = (probe_batch(network, size, length, seed) for seed in range(2))
        with torch.no_grad(), warnings.catch_warnings():
            # deprecated in favour of ways that need a compiler on the serving machine
            warnings.simplefilter("ignore")
            try:
                prepare = proven_graph if device.type == "cuda" else proven_trace
                prepared = prepare(eager, first, second)
                why = "" if prepared else "differs"
            except (RuntimeError, AttributeError) as error:
                prepared, why = None, type(error).__name__
        return cls(size, length, why, prepared or eager)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Queries:
        # not no_grad: views that nothing will ever differentiate cost a tenth of a small pass
        return Queries(*self.call(batch.rows, batch.lengths, batch.users))


# torch.jit keeps every trace until the process ends, with all tensors that it holds as constants. So a trace holds no
# weights, they are its arguments; and networks of one architecture share theirs, so that a bundle that takes another's
# place leaves nothing behind. Most networks' traces answer at any shape: a service starts with two, not a dozen.
Function = Callable[..., tuple[Tensor, Tensor]]
TRACES: dict[object, dict[torch.Size, Function]] = {}  # of what is computed, by shape


def proven_trace(eager: _Answers, *probes: tuple[Tensor, Tensor, Tensor]) -> Call | None:
    """A trace with this network's weights that answers as `eager` does at the shape of the probes; None = none does."""
    weights = [tensors[name].detach() for tensors, name in places_of(eager)]
    network, shape = eager.network, probes[0][0].shape
    sizes = tuple((*weight.shape, weight.dtype) for weight in weights)
    # products of few rows are filled up, which a trace records
    key = (type(network), repr(network.config), eager.plan, sizes, min(len(probes[0][0]), LEAST))
    shared = TRACES.setdefault(key, {})
    for function in dict.fromkeys([*filter(None, [shared.get(shape)]), *shared.values()]):
        call = with_weights(function, weights)
        # one made for another shape may fail at this, or hold something of another network
        with suppress(RuntimeError):
            if agree(call, eager, *probes):
                shared[shape] = function
                return call
    shared[shape] = trace(eager, probes[0], weights)
    call = with_weights(shared[shape], weights)
    # the second call of a trace is the optimised one
    return call if agree(call, eager, *probes) else None


def with_weights(function: Function, weights: Sequence[Tensor]) -> Call:
    def call(*batch: Tensor) -> tuple[Tensor, Tensor]:
        return function(*batch, *weights)

    return call


def trace(eager: _Answers, probe: tuple[Tensor, Tensor, Tensor], weights: Sequence[Tensor]) -> Function:
    """The network's operations as a function of (rows, lengths, users, *weights)."""
    # the network itself may be computing in another thread: a twin of it, with the same tensors, is traced
    twin = copy.deepcopy(eager, {id(own): own for own in (*eager.parameters(), *eager.buffers())})
    places = places_of(twin)

    def answers(rows: Tensor, lengths: Tensor, users: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        for (tensors, name), weight in zip(places, given, strict=True):
            tensors[name] = weight
        result: tuple[Tensor, Tensor] = twin(rows, lengths, users)
        return result

    function: Function = torch.jit.trace(answers, (*probe, *weights), check_trace=False)  # type: ignore[no-untyped-call]
    return function


def places_of(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """The places of the parameters and buffers of a module and of its parts, in a fixed order."""
    return [
        (tensors, name)
        for part in module.modules()
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]


def proven_graph(eager: Call, *probes: tuple[Tensor, Tensor, Tensor]) -> Call | None:
    """A CUDA graph that answers as `eager` does; None = it does not."""
    graph = captured(eager, probes[0])
    return graph if agree(graph, eager, *probes) else None


def captured(eager: Call, probe: tuple[Tensor, Tensor, Tensor]) -> Call:
    """One CUDA graph over tensors of its own; graphs share a pool of memory, so the largest shape is captured first.

    Called from one thread at a time. Raises RuntimeError for what cannot be captured; the stream is as it was before.
    """
    given = [tensor.clone() for tensor in probe]
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    # libraries choose kernels and workspaces in their first calls, which may not happen while capturing
    with torch.cuda.stream(beside):
        for _ in range(WARM_CALLS):
            eager(*given)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        answers = eager(*given)

    def replay(*batch: Tensor) -> tuple[Tensor, Tensor]:
        for own, tensor in zip(given, batch, strict=True):
            own.copy_(tensor)
        graph.replay()
        # the next replay writes over them
        return answers[0].clone(), answers[1].clone()

    return replay


# memory that graphs share, held for ever: a mere handle dies with its last graph
POOLS: list[Any] = []


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: Any = None) -> Iterator[None]:
    """Captures what runs inside; other threads may use the card meanwhile.

    A capture that fails raises, and leaves stream, random numbers and later captures as if it had not been tried.
    """
    if not POOLS:
        POOLS.append(torch.cuda.MemPool())
    before, succeeded = torch.cuda.current_stream(), False
    try:
        with torch.cuda.graph(graph, pool=POOLS[-1].id, stream=stream, capture_error_mode="thread_local"):
            yield
        succeeded = True
    finally:
        torch.cuda.set_stream(before)
        if not succeeded:
            _abandon_capture()


def _abandon_capture() -> None:
    """Undoes what torch leaves open when a capture ends in an error."""
    device = torch.cuda.current_device()
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device, POOLS[-1].id)
    # the pool of a broken capture takes no other
    POOLS.append(torch.cuda.MemPool())
    generator, fresh = torch.cuda.default_generators[device], torch.Generator("cuda")
    fresh.manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh.graphsafe_get_state())


def probe_batch(network: Network, size: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random histories of random lengths; of several, the first is empty and the second whole."""
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    lengths = torch.randint(0, length + 1, (size,), generator=generator)
    if size > 1:
        lengths[0], lengths[1] = 0, length
    rows = torch.randint(1, config.num_items + 1, (size, length), generator=generator)
    rows = rows * (torch.arange(length) < lengths[:, None])
    users = torch.randint(0, config.num_users + 1, (size,), generator=generator)
    device = network.item_vectors().device
    return rows.to(device), lengths.to(device), users.to(device)


def agree(prepared: Call, eager: Call, *probes: tuple[Tensor, Tensor, Tensor]) -> bool:
    """True where both give the same answers, to the bit."""
    return all(_equal(prepared(*given), eager(*given)) for given in probes)


def _equal(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(map(torch.equal, ours, theirs))


def bit_identical(first: CompiledForward, second: CompiledForward, network: Network) -> bool:
    """Compares two sizes: true where a history gets the same answer to the bit. They are multiples of each other."""
    small, large = sorted((first, second), key=lambda forward: forward.size)
    rows, lengths, users = probe_batch(network, large.size, large.length, 2)
    whole = large.run(Batch(rows, lengths, users))
    for start in range(0, large.size, small.size):
        part = slice(start, start + small.size)
        answers = small.run(Batch(rows[part], lengths[part], users[part]))
        if not _equal(answers, Queries(whole.vectors[part], whole.prompts[part])):
            return False
    return True
