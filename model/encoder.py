"""UserEncoder: histories in, query vectors out. The only door to the networks that the service uses.

On a CPU compiled code answers where it can, one history after another (model/fused). Torch's passes have few shapes: so
many sequences, padded to one of few lengths. With one compute thread the matrix kernels treat a row the same wherever
it stands, and sizes are used only when they are proven, on this machine and network, to give the same bits as the
others; so an answer does not depend, to the last bit, on who else is in the batch
(docs/decisions/0005-same-answer-in-any-batch.md). Few shapes are also what CUDA graphs need.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from model.batch import Batch
from model.checkpoint import Checkpoint
from model.compiled import CompiledForward, bit_identical
from model.fused.blend import FusedBlend
from model.fused.decoder import FusedDecoder
from model.fused.library import UnavailableError
from model.fused.proof import proven_decoder
from model.generation.greedy import NextItem
from model.networks.base import Network
from model.networks.blend import Blend
from model.records import History, PromptForm, PromptPlan, QueryVectors, ServingPlan, SoftItems

MAIN_SIZE = {"cpu": 8, "cuda": 256}  # sequences a pass; what other sizes are proven against
OTHER_SIZES = {"cpu": (1, 4, 16), "cuda": (1, 8, 64)}
MANY_ITEMS = (
    100_000  # scoring that many takes longer than the network: other sizes gain nothing, and take long to prove
)
NUM_NEAREST = 3  # items that tell of a soft one
SHORTEST = 15  # with START, 16 tokens


def padded_length(length: int, max_length: int) -> int:
    """15, 31, 63 .. up to max_length: the few lengths that passes have."""
    padded = SHORTEST
    while padded < length:
        padded = 2 * padded + 1
    return min(padded, max_length)


class UserEncoder:
    """Satisfies the service's `Encoder` protocol. Thread-safe; moves the network to the device, else leaves it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        next_item: NextItem | None = None,
        only_main_size: bool = False,
        fused: bool = True,
    ) -> None:
        """next_item: names what is generated in place of scores for the whole catalogue, such as an index over the same
        items; left unused where the network or its plan generates nothing. For catalogues so large that scoring all
        items for every generated one costs more than the rest (docs/decisions/0016-large-catalogues.md).

        only_main_size: no other size of a pass is tried, which saves the time and the memory of their traces.

        fused: compiled code answers where it can (model/fused); False: torch does.
        """
        self._only_main_size, self._may_fuse = only_main_size, fused
        self.device = torch.device(device)
        self.network = checkpoint.network.to(self.device).eval()
        self.plan: PromptPlan = checkpoint.plan.prompts
        self.max_length = self.network.config.max_length
        generates = self.network.takes_next_item and self.plan.num_steps + self.plan.num_prompts > 1
        # a soft item is the mean of all items: an index that names one cannot give it
        self.next_item = next_item if generates and self.plan.form is PromptForm.ARGMAX else None
        self._passes: dict[tuple[int, int], CompiledForward] = {}
        self.num_tokens = self._num_padding = 0  # computed so far: of items, and of nothing
        self._num_eager: Counter[str] = Counter()
        self._checkpoint = checkpoint
        self._others: list[UserEncoder] = []  # of the parts of a blend whose decoder is compiled

    def window(self, history: History) -> tuple[int, ...]:
        """The items that can change the answer: the newest `max_length`."""
        return history.items[-self.max_length :]

    def encode(self, histories: Sequence[History]) -> QueryVectors:
        """(B, Q, D) query vectors and (B, P) generated item rows, in the order of `histories` (B >= 1)."""
        if fused := self._fused[0]:
            return self._run_fused(fused, histories)
        parts = list(self._parts(histories))
        answers = [self._run([histories[i] for i in part], size, length) for part, size, length in parts]
        if len(answers) == 1:
            return answers[0]
        # passes are formed by length; the answers go back to the order that was asked for
        order = np.argsort([i for part, _, _ in parts for i in part])
        vectors = np.concatenate([answer.vectors for answer in answers])
        return QueryVectors(vectors[order], np.concatenate([answer.prompts for answer in answers])[order])

    def nearest(self, history: History) -> SoftItems:
        """The nearest items of the soft items that are generated for a history; none where the plan generates none.

        A pass of its own, since query vectors alone do not tell: a plan may add them up.
        """
        plan, network = self.plan.before_soft, self.network.generating
        if plan is None:
            return SoftItems(np.zeros((0, NUM_NEAREST), np.int64), np.zeros((0, NUM_NEAREST), np.float32))
        window = self.window(history)
        self._check([window], [history.user])
        rows = np.zeros((1, padded_length(len(window), self.max_length)), dtype=np.int64)
        rows[0, : len(window)] = window
        batch = Batch(torch.from_numpy(rows), torch.tensor([len(window)]), torch.tensor([history.user]))
        with torch.inference_mode():
            states = network.queries(batch.to(self.device), plan).vectors[0]  # (P, D)
            weights = torch.softmax(states @ network.item_vectors().T / plan.temperature, 1)
            best, places = weights.topk(min(NUM_NEAREST, weights.shape[1]), 1)
        return SoftItems(places.cpu().numpy() + 1, best.cpu().numpy())

    @property
    def not_fused(self) -> str:
        """Why torch computes, as a label; empty where compiled code does."""
        return self._fused[1]

    @cached_property
    def _fused(self) -> tuple[FusedDecoder | FusedBlend | None, str]:
        if not self._may_fuse or self.next_item is not None:
            return None, "index_proposes" if self._may_fuse else "not_asked"
        try:
            if isinstance(self.network, Blend):
                return FusedBlend(self.network, self.plan, self._encoder_of), ""
            return proven_decoder(self.network, self.plan), ""
        except UnavailableError as error:
            return None, str(error)

    def _encoder_of(self, part: Network) -> "UserEncoder":
        plain = replace(self._checkpoint, network=part, plan=ServingPlan())
        self._others.append(UserEncoder(plain, only_main_size=self._only_main_size, fused=False))
        return self._others[-1]

    @property
    def num_padding(self) -> int:
        """The padding that was computed so far."""
        return self._num_padding + sum(other.num_padding for other in self._others)

    @property
    def num_eager(self) -> Counter[str]:
        """Passes that ran operation by operation, by reason."""
        return sum((other.num_eager for other in self._others), Counter(self._num_eager))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Sequences a pass, largest first: those whose answers are the main size's to the bit. Traces every shape."""
        main, others = MAIN_SIZE[self.device.type], OTHER_SIZES[self.device.type]
        if self._only_main_size or (self.device.type == "cpu" and self.network.config.num_items > MANY_ITEMS):
            return (main,)
        return tuple(sorted([main, *(size for size in others if self._is_proven(size, main))], reverse=True))

    def _is_proven(self, size: int, main: int) -> bool:
        # the main size first: graphs on a GPU share memory best when the largest is captured first
        pairs = [(self._pass(main, length), self._pass(size, length)) for length in reversed(self.lengths)]
        return all(bit_identical(proven, candidate, self.network) for proven, candidate in pairs)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that histories are padded to."""
        return tuple(sorted({padded_length(length, self.max_length) for length in range(self.max_length + 1)}))

    def _pass(self, size: int, length: int) -> CompiledForward:
        if (size, length) not in self._passes:
            self._passes[size, length] = CompiledForward.of(self.network, self.plan, size, length, self.next_item)
        return self._passes[size, length]

    def _parts(self, histories: Sequence[History]) -> Iterator[tuple[list[int], int, int]]:
        """Indices that share a pass, its size, and the length it is padded to."""
        lengths = [padded_length(min(len(h.items), self.max_length), self.max_length) for h in histories]
        # a stable sort: the same histories always share the same passes
        by_length = sorted(range(len(histories)), key=lengths.__getitem__)
        for length, group in groupby(by_length, key=lengths.__getitem__):
            members = list(group)
            while members:
                size = self._fitting(len(members))
                yield members[:size], size, length
                members = members[size:]

    def _fitting(self, num_left: int) -> int:
        """The smallest size that holds them, else the largest: a pass costs about as much as 4 more sequences in it."""
        return next((size for size in reversed(self.sizes) if size >= num_left), self.sizes[0])

    def _run_fused(self, fused: FusedDecoder | FusedBlend, histories: Sequence[History]) -> QueryVectors:
        windows, users = [self.window(h) for h in histories], [h.user for h in histories]
        self._check(windows, users)
        self.num_tokens += sum(map(len, windows))
        return fused.run(windows, users)

    def _run(self, histories: Sequence[History], size: int, length: int) -> QueryVectors:
        windows: list[tuple[int, ...]] = [self.window(h) for h in histories]
        users = [h.user for h in histories]
        self._check(windows, users)
        # a pass that is not full is filled up with empty histories of the unknown user
        rows = np.zeros((size, length), dtype=np.int64)
        numbers = np.zeros((2, size), dtype=np.int64)  # lengths and users
        for row, window in zip(rows, windows, strict=False):
            row[: len(window)] = window
        numbers[:, : len(users)] = [len(window) for window in windows], users
        self.num_tokens += int(numbers[0].sum())
        self._num_padding += rows.size - int(numbers[0].sum())
        # few calls into torch: each gives the interpreter's lock away, and may wait to get it back
        batch = Batch(torch.from_numpy(rows), torch.from_numpy(numbers[0]), torch.from_numpy(numbers[1]))
        prepared = self._pass(size, length)
        if prepared.eager:
            self._num_eager[prepared.eager] += 1
        # numpy(force=True) would hold the interpreter's lock while the device works
        vectors, prompts = (part.cpu().numpy() for part in prepared.run(batch.to(self.device)))
        return QueryVectors(vectors[: len(users)], prompts[: len(users)])

    def _check(self, windows: Sequence[Sequence[int]], users: Sequence[int]) -> None:
        """Bounds on the host: an out-of-range row on a GPU poisons its context."""
        config = self.network.config
        # Python integers, checked before any tensor exists: NumPy would wrap or raise in its own words
        if any(window and not 1 <= min(window) <= max(window) <= config.num_items for window in windows):
            raise ValueError(f"an item row lies outside 1..{config.num_items}")
        if any(not 0 <= user <= config.num_users for user in users):
            raise ValueError(f"a user row lies outside 0..{config.num_users}")

    def item_vectors(self) -> Tensor:
        """(N, D) on the host: what the index is built from."""
        return self.network.item_vectors().detach().cpu().float()


def pin_compute_threads() -> None:
    """One compute thread: kernels that split work by thread would round rows differently by place.

    Holds for the calling thread, and for others that torch starts work in; every thread that computes calls it, since
    OpenMP keeps the number for each thread. Those of NumPy's products are the process's: they spin after each one, and
    where two services share a machine a request waits for theirs.
    """
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
