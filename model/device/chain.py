"""Encode, search and merge of one batch on the device: the integer matrix in, lists and vectors out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.device.encoders import DeviceEncoder, encoder_of
from model.device.layout import COUNT, LIMIT, OWN, ROWS, Layout
from model.kernels.merge import Limits, Lists, merge_pooled, merge_quotas
from model.kernels.score import Excluded, Range
from model.kernels.search import Table, search
from model.merging import split_limit
from model.networks.base import Network
from model.records import Placement, ServingPlan

MAX_LIMIT = 100  # items of a list; longer ones take the general path
MAX_EXCLUDED = 128  # items, at least; more take the general path


@dataclass(frozen=True)
class AnswerShape:
    """Sizes of one user's answer, and where the parts of a batch's answers stand in one buffer."""

    limit: int
    num_queries: int
    dim: int
    num_prompts: int

    def sizes(self, batch: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types in the order of `Answers`."""
        return [
            ((batch, self.limit), torch.int64),
            ((batch, self.num_prompts), torch.int64),
            ((batch, self.limit), torch.float32),
            ((batch, self.num_queries, self.dim), torch.float32),
            ((batch, self.limit), torch.int32),
            ((batch,), torch.int32),
        ]

    def views(self, batch: int, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer of `num_bytes`."""
        sizes = zip(self.places(batch), self.sizes(batch), strict=True)
        return [buffer[place].view(kind).view(shape) for place, (shape, kind) in sizes]

    def places(self, batch: int) -> list[slice]:
        """The bytes of each part of a buffer."""
        places, start = [], 0
        for shape, kind in self.sizes(batch):
            stop = start + int(np.prod(shape)) * kind.itemsize
            places.append(slice(start, stop))
            # bytes become numbers of 8 bytes only at places that 8 divides
            start = _aligned(stop)
        return places

    def num_bytes(self, batch: int) -> int:
        return sum(_aligned(int(np.prod(shape)) * kind.itemsize) for shape, kind in self.sizes(batch))


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64


@dataclass(frozen=True)
class Chain:
    """One network, plan and table; the same for every batch size."""

    encoder: DeviceEncoder
    table: Table
    layout: Layout
    shape: AnswerShape
    shares: Tensor | None  # (limit + 1, Q) int32 places of each step; None: all queries are pooled

    @classmethod
    def of(cls, network: Network, plan: ServingPlan, table: Table, num_queries: int) -> "Chain":
        """table: of the items that `network` ranks; num_queries: vectors it gives a user."""
        config, prompts = network.config, plan.prompts
        limit = min(MAX_LIMIT, config.num_items - 1)
        tail = prompts.num_prompts if prompts.placement is Placement.TAIL else 0
        layout = Layout(
            config.max_length,
            max(MAX_EXCLUDED, 2 * config.max_length),
            config.num_items,
            config.num_users,
            tail + prompts.num_steps,
        )
        shape = AnswerShape(limit, num_queries, table.items.shape[1], tail + prompts.num_steps - 1)
        shares = None
        if plan.quotas:
            places = [split_limit(length, plan.quotas) for length in range(limit + 1)]
            shares = torch.tensor(places, dtype=torch.int32, device=table.items.device)
        return cls(encoder_of(network, prompts, table), table, layout, shape, shares)

    @torch.no_grad()
    def run(self, given: Tensor, into: list[Tensor]) -> None:
        """Writes the answers to `given` (B, width) into tensors of `shape.sizes(B)`."""
        rows, prompts, scores, vectors, sources, doubtful = into
        encoded = self.encoder.encode(given)
        vectors.copy_(encoded.vectors)
        prompts.copy_(encoded.prompts)
        # kernels count queries, exclusions are kept once a user
        steps = vectors.shape[1]
        own = Range(OWN, ROWS, self.layout.max_length)
        others = Range(COUNT, self.layout.excluded_at, self.layout.max_excluded)
        excluded = Excluded(given, own, others, steps)
        # histories are excluded nearly always: their places are looked into beforehand
        keys, unsure = search(
            vectors.view(-1, vectors.shape[2]), self.table, self.shape.limit, self.layout.max_length, excluded
        )
        torch.add(encoded.doubtful, unsure.view(-1, steps).amax(1), out=doubtful)
        lists, limits = Lists(rows, scores, sources), Limits(given, LIMIT)
        if self.shares is None:
            merge_pooled(keys, limits, lists)
        else:
            merge_quotas(keys, self.shares, limits, lists)
