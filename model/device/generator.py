"""RecGPT on the kernels, for plans that expand the end of a history, or nothing.

The operations are those of model/generation/prompts.py, the arithmetic that of networks/recgpt.py and
networks/layers.py, to rounding; proof.py decides which of the two answers. A generated item is
the exact search's first, over the table in fp16 with a proof for each state.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from model.device.layout import ROWS
from model.kernels.attention import Heads, attend, attend_one
from model.kernels.blocks import LAST_ROW
from model.kernels.embed import Embeddings, Past, embed, embed_generated, no_past
from model.kernels.linear import Affine, Norm, feed_forward, linear, linear_norm
from model.kernels.packed import Packed
from model.kernels.search import Table, search
from model.networks.layers import Block
from model.networks.recgpt import RecGPT
from model.records import Placement, PromptForm, PromptPlan


class EncodedBatch(NamedTuple):
    """Vectors of B users, on the device."""

    vectors: Tensor  # (B, Q, D)
    prompts: Tensor  # (B, P) int64
    doubtful: Tensor  # (B,) int32; not 0 where an item may have been generated wrongly


def _affine(layer: nn.Module, largest: float, longest: float) -> Affine:
    weight, bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
    return Affine.of(weight.detach(), bias.detach(), largest, longest)


def _norm(layer: nn.Module) -> Norm:
    return Norm(cast(Tensor, layer.weight).detach(), cast(Tensor, layer.bias).detach())


class _Layer(NamedTuple):
    """One block, prepared."""

    qkv: Affine
    out: Affine
    norm_attention: Norm
    first: Affine
    second: Affine
    norm_forward: Norm

    @classmethod
    def of(cls, block: Block, before: Norm) -> "_Layer":
        """before: the normalisation that gives the block its input."""
        attention, net = block.attention, block.forward_net
        norm_attention = _norm(block.norm_attention)
        qkv = _affine(attention.qkv, before.largest, before.longest)
        # attention mixes values; GELU makes nothing larger
        out = _affine(attention.out, qkv.bound, qkv.bound * block.attention.width.dim**0.5)
        first = _affine(net[0], norm_attention.largest, norm_attention.longest)
        # n numbers up to a bound are a vector of at most sqrt(n) times that length
        second = _affine(net[2], first.bound, first.bound * len(first.high) ** 0.5)
        return cls(qkv, out, norm_attention, first, second, _norm(block.norm_forward))

    def rest(self, x: Tensor, attended: Tensor, packed: Packed | None = None) -> Tensor:
        """All behind attention, for as many rows as `attended` has."""
        x = linear_norm(attended, self.out, x, self.norm_attention, packed)
        return feed_forward(x, self.first, self.second, self.norm_forward, packed)

    def rest_of_last(self, x: Tensor, attended: Tensor, packed: Packed) -> Tensor:
        """The same for the last token of each user: attended (B, D)."""
        x = linear_norm(attended, self.out, x, self.norm_attention, packed, last=True)
        return feed_forward(x, self.first, self.second, self.norm_forward)


@dataclass(frozen=True)
class Generator:
    """A RecGPT and its plan, prepared; weights are copied in halves, tables are shared."""

    plan: PromptPlan
    table: Table
    embeddings: Embeddings
    layers: tuple[_Layer, ...]
    heads: Heads

    @classmethod
    def of(cls, network: RecGPT, plan: PromptPlan, table: Table | None = None) -> "Generator":
        """table: of the network's own items, where there is one."""
        config = network.config
        norm = _norm(network.norm)
        layers, before = [], norm
        for block in network.blocks:
            layers.append(_Layer.of(cast(Block, block), before))
            before = layers[-1].norm_forward
        embeddings = Embeddings(
            network.items.weight.detach(),
            network.positions.weight.detach(),
            network.users.weight.detach(),
            network.segments.weight.detach(),
            norm,
            config.max_length,
            config.user_dropout != 1,
            Past(*network.past) if network.past else None,
        )
        heads = Heads(config.num_heads, config.dim // config.num_heads)
        return cls(plan, table or Table.halved(network.item_vectors().detach()), embeddings, tuple(layers), heads)

    @staticmethod
    def supports(network: RecGPT, plan: PromptPlan) -> bool:
        """Tells if the plan generates at the end of a history only, single items of one segment, one vector a step."""
        at_the_end = plan.placement is not Placement.ALL or plan.num_prompts == 0
        # the kernel marks all that is generated as segment 1: more segments make a difference from the second item on
        is_simple = network.config.num_segments == 2 or plan.num_prompts + plan.num_steps <= 2
        return at_the_end and is_simple and plan.form is PromptForm.ARGMAX and not plan.step_weights

    @property
    def num_prompts(self) -> int:
        """Items that are generated behind the end, at a full history or an empty one."""
        tail = self.plan.num_prompts if self.plan.placement is Placement.TAIL else 0
        return tail + self.plan.num_steps - 1

    def encode(self, given: Tensor) -> EncodedBatch:
        """given (B, ..) int32, as in layout.py."""
        packed = Packed(given, 1 + self.embeddings.max_length)
        states, prompts = [], []
        passed = no_past(packed, self.embeddings)
        state, kept = self._read(packed, passed)
        doubtful = torch.zeros(len(given), dtype=torch.int32, device=given.device)
        for number in range(self.num_prompts):
            states.append(state)
            rows, unsure = self._next(state)
            prompts.append(rows)
            doubtful = doubtful + unsure
            state = self._step(packed, rows, kept, 1 + number, passed)
        # states before the last `num_steps` generated prompts, and answer nothing
        vectors = torch.stack([*states, state][-self.plan.num_steps :], 1)
        generated = torch.stack(prompts, 1) if prompts else given.new_zeros(len(given), 0, dtype=torch.int64)
        return EncodedBatch(vectors, generated, doubtful)

    def _read(self, packed: Packed, passed: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """(B, D) states of the last real items, and (M, 3 D) what each layer keeps, with free rows.

        passed (B, D): is filled with what the last items pass on.
        """
        # as if all histories were full: a captured graph has one size, and TOTAL says how much of it is in use
        num_rows = packed.size * (packed.most + self.num_prompts)
        x, kept = embed(packed, ROWS, self.embeddings, num_rows, passed), []
        for layer in self.layers[:-1]:
            kept.append(linear(x, layer.qkv, packed))
            x = layer.rest(x, attend(kept[-1], self.heads, packed), packed)
        # the last block needs keys and values of all, and the rest of its work for one token
        top = self.layers[-1]
        kept.append(linear(x, top.qkv, packed))
        return top.rest_of_last(x, attend_one(kept[-1], self.heads, packed), packed), kept

    def _next(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) int64 rows of the items that states rank first, and where that is in doubt."""
        keys, doubtful = search(state, self.table, 1)
        return LAST_ROW + 1 - (keys[:, 0] & 0xFFFFFFFF), doubtful

    def _step(self, packed: Packed, rows: Tensor, kept: list[Tensor], after: int, passed: Tensor | None) -> Tensor:
        """(B, D) the states after one more generated item, `after` rows behind the last real one."""
        x = embed_generated(packed, rows, self.embeddings, passed)
        for layer, tokens in zip(self.layers, kept, strict=True):
            x = layer.rest(x, attend_one(tokens, self.heads, packed, after, linear(x, layer.qkv)))
        return x
