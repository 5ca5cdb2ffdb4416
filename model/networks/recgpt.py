"""RecGPT: a causal Transformer over item ids, expanded with items it generates itself.

Source: "RecGPT: Generative Personalized Prompts for Sequential Recommendation", Kuaishou 2024, arXiv 2404.08675. The
state of a token is item + position + user + segment embedding (0 = real, 1 = generated); attention is softmax
attention as in the paper's text. With `recency` a token holds the items before its own as well, older ones less
(docs/decisions/0099-recency.md). A generated token bears the position of the real item it stands before, so prompts do
not move real items. The table that ranks is the item embedding: it is also what picks prompts, and what the index
holds.
"""

import math
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
    # tokens hold what came before them too, by exponential smoothing: what is left of the past from one item to the
    # next, and what all of it weighs against a token's own item. Training begins there. None = its own item alone
    recency: float | None = None
    past_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.recency is not None and not (isinstance(self.recency, float) and 0 < self.recency < 1):
            raise ValueError(f"recency is {self.recency!r}; it is a number between 0 and 1, such as 0.7, or nothing")
        if not isinstance(self.past_weight, float) or not 0 < self.past_weight < math.inf:
            raise ValueError(f"past_weight is {self.past_weight!r}; it is a number above 0, such as 1.0")
        if self.past_weight != 1 and self.recency is None:
            raise ValueError("past_weight is of a past that is smoothed; it needs a recency")


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
        self.recency = self.past_weight = None
        if config.recency is not None:
            self.recency = nn.Parameter(torch.tensor(config.recency).logit())
            self.past_weight = nn.Parameter(torch.tensor(config.past_weight))
        block = partial(Block, self.width, config.dropout, config.attention_dropout)
        self.blocks = nn.ModuleList(block() for _ in range(config.num_layers))
        self.apply(init_weights)
        with torch.no_grad():
            self.items.weight[0].zero_()
            self.users.weight.zero_()  # a user unseen in training is the unknown user, not noise

    @property
    def past(self) -> tuple[float, float] | None:
        """The numbers r and w of `smoothed`, as learnt; None where each token is its own item alone."""
        if self.recency is None or self.past_weight is None:
            return None
        return float(self.recency.detach().sigmoid()), float(self.past_weight.detach())

    def embed(self, tokens: Tokens, users: Tensor) -> Tensor:
        """(B, T, D) of sequences from their start on."""
        return self._embed(self.smoothed(self._items(tokens))[0], tokens, users)

    def _items(self, tokens: Tokens) -> Tensor:
        return self.items(tokens.rows) if tokens.vectors is None else tokens.vectors

    def smoothed(self, items: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, D) what tokens are made of, and the sums that they pass on; of `items` (B, T, D) in a row.

        With `recency` r and `past_weight` w: item_t + w r s_(t-1), and s_t = item_t + r s_(t-1); else the items alone.
        before (B, D): s of the token before the first; None = nothing stands there.
        """
        if self.recency is None or self.past_weight is None:
            return items, items
        share, places = self.recency.sigmoid(), torch.arange(items.shape[1], device=items.device)
        ages = places[:, None] - places
        # one product in place of T steps, each of which would wait for the one before
        past = torch.where(ages > 0, share ** ages.clamp(min=0), 0.0) @ items
        if before is not None:
            past = past + (share ** (1 + places))[:, None] * before[:, None]
        return items + self.past_weight * past, items + past

    def _embed(self, items: Tensor, tokens: Tokens, users: Tensor) -> Tensor:
        if self.config.user_dropout == 1:
            # a row that was never trained is not the unknown user
            users = torch.zeros_like(users)
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
        smoothed, sums = self.smoothed(self._items(tokens))
        x, keys, values = self._embed(smoothed, tokens, users), list[list[Tensor]](), list[list[Tensor]]()
        for block in self.blocks:
            x, k, v = block.remember(x)  # type: ignore[operator]
            keys.append([k])
            values.append([v])
        states = [x]
        positions = (tokens.positions + 1).clamp(max=self.config.max_length)
        for number in range(1, num_steps):
            vectors = soft_items(x.detach(), table, temperature)
            segments = torch.full_like(tokens.rows, number)
            step = Tokens(tokens.rows, segments, positions, vectors)
            # every token has a branch of its own: the item behind it follows its sum, and nothing else
            each = self.smoothed(self._items(step).flatten(0, 1).unsqueeze(1), sums.flatten(0, 1))
            smoothed, sums = (part.view_as(sums) for part in each)
            x = self._embed(smoothed, step, users)
            for layer, block in enumerate(self.blocks):
                x = block.branch(x, keys[layer], values[layer])  # type: ignore[operator]
            states.append(x)
        return states

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        shape = (batch_size, self.width.num_heads, capacity, self.width.head_width)
        sum_width = 0 if self.recency is None else self.config.dim
        return KeyValueCache(shape, self.config.num_layers, self.items.weight.detach(), sum_width)

    def _embed_behind(self, tokens: Tokens, users: Tensor, cache: KeyValueCache) -> Tensor:
        """(B, T, D) of tokens that follow what the cache holds."""
        num_new = tokens.rows.shape[1]
        # first: each block reads back what it has just written, up to this width
        cache.reserve(num_new)
        items = self._items(tokens)
        if self.recency is not None:
            items, sums = self.smoothed(items, None if cache.is_first(num_new) else cache.last_sums())
            cache.write_sums(cache.slots(num_new), sums)
        return self._embed(items, tokens, users)

    def extend(self, tokens: Tokens, users: Tensor, cache: KeyValueCache) -> Tensor:
        """(B, T, D) states of tokens that follow what the cache holds; the caller then advances `cache.lengths`."""
        x = self._embed_behind(tokens, users, cache)
        for layer, block in enumerate(self.blocks):
            x = block.extend(x, cache, layer)  # type: ignore[operator]
        return x

    def extend_last(self, tokens: Tokens, users: Tensor, cache: KeyValueCache, last: Tensor) -> Tensor:
        """(B, D) as `extend`, but the state of one new token a sequence alone: `last` (B,), 0 .. T - 1.

        The last block then needs keys and values of all tokens, and the rest of its work for one.
        """
        x = self._embed_behind(tokens, users, cache)
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
