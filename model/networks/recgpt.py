"""RecGPT: a causal Transformer over item ids, expanded with items it generates itself.

Source: "RecGPT: Generative Personalized Prompts for Sequential Recommendation", Kuaishou 2024, arXiv 2404.08675. The
state of a token is item + position + user + segment embedding (0 = real, 1 = generated); attention is softmax
attention as in the paper's text. A generated token bears the position of the real item it stands before, so prompts
do not move real items. The table that ranks is the item embedding: it is also what picks prompts, and what the index
holds.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.batch import Batch, Queries
from model.generation import prompts
from model.generation.greedy import NextItem, soft_items
from model.generation.kv_cache import KeyValueCache
from model.generation.tokens import Tokens
from model.networks.base import Network, NetworkConfig
from model.networks.layers import Block, Width, init_weights
from model.networks.sampling import hide_users
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RecGPTConfig(NetworkConfig):
    num_layers: int = 2
    num_heads: int = 2
    attention_dropout: float | None = None  # None = dropout
    # share of training sequences whose user id is hidden: trains the unknown user; 1 = everybody is unknown, always
    user_dropout: float = 0.5
    num_segments: int = 2  # real, and generated in step 1, 2 ..; later steps share the last


class RecGPT(Network):
    kind: ClassVar[str] = "recgpt"
    generates: ClassVar[bool] = True
    takes_next_item: ClassVar[bool] = True
    has_place_pairs: ClassVar[bool] = True
    config: RecGPTConfig

    def __init__(self, config: RecGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.width = Width(config.dim, config.num_heads)
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.positions = nn.Embedding(config.max_length + 2, config.dim)
        self.users = nn.Embedding(config.num_users + 1, config.dim)
        self.segments = nn.Embedding(config.num_segments, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.drop = nn.Dropout(config.dropout)
        block = partial(Block, self.width, config.dropout, config.attention_dropout)
        self.blocks = nn.ModuleList(block() for _ in range(config.num_layers))
        self.apply(init_weights)
        with torch.no_grad():
            self.items.weight[0].zero_()
            self.users.weight.zero_()  # a user unseen in training is the unknown user, not noise

    def embed(self, tokens: Tokens, users: Tensor) -> Tensor:
        if self.config.user_dropout == 1:
            # a row that was never trained is not the unknown user
            users = torch.zeros_like(users)
        items = self.items(tokens.rows) if tokens.vectors is None else tokens.vectors
        x = items + self.positions(tokens.positions) + self.users(users).unsqueeze(1)
        segments = self.segments(tokens.segments.clamp(max=self.config.num_segments - 1))
        return self.drop(self.norm(x + segments))  # type: ignore[no-any-return]  # (B, T, D)

    def states(self, tokens: Tokens, users: Tensor) -> Tensor:
        """(B, T, D) in one parallel pass."""
        x = self.embed(tokens, users)
        for block in self.blocks:
            x = block(x)
        return x

    def branches(self, tokens: Tokens, users: Tensor, num_steps: int, temperature: float) -> list[Tensor]:
        """(B, T, D) the states of real tokens, then of the soft items that follow each of them: S in all.

        One parallel pass a step. The items behind a token are seen by nobody but their own successors, so the states
        are those of `recall_queries` at every cut of the history. An item is generated without gradient.
        """
        table = self.item_vectors().detach()
        x, keys, values = self.embed(tokens, users), list[list[Tensor]](), list[list[Tensor]]()
        for block in self.blocks:
            x, k, v = block.remember(x)  # type: ignore[operator]
            keys.append([k])
            values.append([v])
        states = [x]
        positions = (tokens.positions + 1).clamp(max=self.config.max_length)
        for number in range(1, num_steps):
            vectors = soft_items(x.detach(), table, temperature)
            segments = torch.full_like(tokens.rows, number)
            x = self.embed(Tokens(tokens.rows, segments, positions, vectors), users)
            for layer, block in enumerate(self.blocks):
                x = block.branch(x, keys[layer], values[layer])  # type: ignore[operator]
            states.append(x)
        return states

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        shape = (batch_size, self.width.num_heads, capacity, self.width.head_width)
        return KeyValueCache(shape, self.config.num_layers, self.items.weight.detach())

    def extend(self, tokens: Tokens, users: Tensor, cache: KeyValueCache) -> Tensor:
        """(B, T, D) states of tokens that follow what the cache holds; the caller then advances `cache.lengths`."""
        # first: each block reads back what it has just written, up to this width
        cache.reserve(tokens.rows.shape[1])
        x = self.embed(tokens, users)
        for layer, block in enumerate(self.blocks):
            x = block.extend(x, cache, layer)  # type: ignore[operator]
        return x

    def extend_last(self, tokens: Tokens, users: Tensor, cache: KeyValueCache, last: Tensor) -> Tensor:
        """(B, D) as `extend`, but the state of one new token a sequence alone: `last` (B,), 0 .. T - 1.

        The last block then needs keys and values of all tokens, and the rest of its work for one.
        """
        cache.reserve(tokens.rows.shape[1])
        x = self.embed(tokens, users)
        for layer, block in enumerate(self.blocks[:-1]):
            x = block.extend(x, cache, layer)  # type: ignore[operator]
        top = len(self.blocks) - 1
        return self.blocks[top].extend_last(x, cache, top, last).squeeze(1)  # type: ignore[no-any-return, operator]

    def training_pairs(self, batch: Batch, num_prompts: int = 0) -> tuple[Tensor, Tensor]:
        """Pre-training, or prompt-tuning on the expanded sequence; targets exist at real positions only."""
        users = hide_users(batch.users, self.config.user_dropout, self.training)
        # the last item is a target only
        inputs = Batch(batch.rows[:, :-1], (batch.lengths - 1).clamp(min=0), users)
        states = self.states(prompts.expanded_tokens(self, inputs, num_prompts), users)
        stride = 1 + num_prompts
        # generated positions have no target: take START, v_1, and every (K + 1)-th token behind it
        states = torch.cat([states[:, :1], states[:, 1::stride]], 1)  # START, v_1 .. v_L
        real = batch.real
        return states[real], batch.targets[real]

    def last_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        users = hide_users(batch.users, self.config.user_dropout, self.training)
        inputs, targets = batch.without_last()
        x = self.embed(self.plain_tokens(inputs), users)
        for block in self.blocks[:-1]:
            x = block(x)
        # the last block needs keys and values of all tokens, and the rest of its work for one
        return self.blocks[-1].at(x, inputs.lengths)[:, 0], targets  # type: ignore[operator]

    def step_pairs(self, batch: Batch, num_steps: int, temperature: float) -> tuple[list[Tensor], Tensor]:
        users = hide_users(batch.users, self.config.user_dropout, self.training)
        inputs = Batch(batch.rows[:, :-1], (batch.lengths - 1).clamp(min=0), users)
        states = self.branches(self.plain_tokens(inputs), users, num_steps, temperature)
        return [state[batch.real] for state in states], batch.targets[batch.real]

    def plain_tokens(self, batch: Batch) -> Tokens:
        return Tokens.plain(batch.rows, self.start_row)

    def queries(self, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:
        return prompts.recall_queries(self, batch, plan, next_item)
