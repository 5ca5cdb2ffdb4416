"""Algorithm 1 and the auto-regressive recall of RecGPT: the same functions in training, evaluation and serving.

A history START, v_1 .. v_n is expanded with items the model itself would show next: with placement "all", K generated
items stand before every real item but the first; with "tail", K stand after the last; with "none", nothing is
inserted. Then S query vectors are read: the state of the last token, and after it S - 1 times the state of one more
generated item. Keys and values of everything before are kept, so a generated item costs one token, not the whole
window again. Source: arXiv 2404.08675, Algorithm 1 and section "two-step auto-regressive recall". Never generates
padding or START.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from model.batch import Batch, Queries
from model.generation.greedy import NextItem, best_of, or_best_of, soft_item
from model.generation.kv_cache import KeyValueCache
from model.generation.tokens import Tokens
from model.records import Placement, PromptForm, PromptPlan


class Window(Protocol):
    """The settings of a network that generation reads."""

    @property
    def max_length(self) -> int: ...


class Generator(Protocol):
    """A causal network that generation can drive (RecGPT; any other decoder over the same tokens)."""

    training: bool

    @property
    def config(self) -> Window: ...
    def plain_tokens(self, batch: Batch) -> Tokens: ...
    def train(self, mode: bool = True) -> object: ...
    def item_vectors(self) -> Tensor: ...
    def states(self, tokens: Tokens, users: Tensor) -> Tensor: ...
    def extend(self, tokens: Tokens, users: Tensor, cache: KeyValueCache) -> Tensor: ...
    def extend_last(self, tokens: Tokens, users: Tensor, cache: KeyValueCache, last: Tensor) -> Tensor: ...
    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache: ...


@contextmanager
def eval_mode(network: Generator) -> Iterator[None]:
    """Dropout off inside, as it was afterwards."""
    # called within a training step too: then dropout has to be on again behind it
    was_training = network.training
    network.train(False)
    try:
        yield
    finally:
        network.train(was_training)


def gather_states(states: Tensor, index: Tensor) -> Tensor:
    """(B, D) the state of one token of each sequence; states (B, T, D), index (B,)."""
    return states[torch.arange(len(states), device=states.device), index]


class Decoding:
    """B sequences that grow token by token on the device; `next_item` names what is generated."""

    def __init__(
        self,
        network: Generator,
        users: Tensor,
        capacity: int,
        next_item: NextItem,
        soft_item: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """soft_item: names what is generated behind the end, and gives its vectors (B, D), in place of `next_item`."""
        self.network, self.users, self.next_item, self.soft_item = network, users, next_item, soft_item
        self.cache = network.new_cache(users.shape[0], capacity)
        self.generated: list[Tensor] = []  # (B,) each

    def feed(self, tokens: Tokens) -> Tensor:
        """(B, T, D) states of T more tokens of every sequence."""
        states = self.network.extend(tokens, self.users, self.cache)
        self.cache.advance(tokens.rows.shape[1])
        return states

    def feed_all(self, tokens: Tokens, lengths: Tensor) -> Tensor:
        """(B, D) the state of token `lengths` of every sequence; those behind it were padding and are forgotten."""
        state = self.network.extend_last(tokens, self.users, self.cache, lengths)
        # the next token of each sequence goes right behind its own last item
        self.cache.cut_to(1 + lengths)
        return state

    def generate(self, state: Tensor) -> Tensor:
        """(B,) the items that follow the states."""
        self.generated.append(self.next_item(state))
        return self.generated[-1]

    def step(self, state: Tensor, positions: Tensor, number: int = 1) -> Tensor:
        """(B, D) the state after one more generated item, which bears the given positions (B,) and its number."""
        rows, vectors = self.soft_item(state) if self.soft_item else (self.next_item(state), None)
        self.generated.append(rows)
        segments = torch.full_like(rows, number).unsqueeze(1)
        given = vectors if vectors is None else vectors.unsqueeze(1)
        return self.feed(Tokens(rows.unsqueeze(1), segments, positions.unsqueeze(1), given)).squeeze(1)


def expand_history(decoding: Decoding, batch: Batch, num_prompts: int) -> Tensor:
    """Placement "all": feeds START, v_1, then for each next real item K generated ones and the item itself.

    Returns (B, D): the state of each history's last real item. Sequences shorter than the longest run on through
    padding and are cut back to their own length afterwards.
    """
    B, L = batch.rows.shape
    plain = decoding.network.plain_tokens(batch)
    states = decoding.feed(plain.cut(0, min(2, L + 1)))
    state = states[:, -1]
    last = gather_states(states, batch.lengths.clamp(max=states.shape[1] - 1))
    # t is the position of the next real item; the state before it is what generates
    for t in range(2, L + 1):
        position = plain.positions[:, t]
        for _ in range(num_prompts - 1):
            state = decoding.step(state, position)
        # the last generated item and the real one go in together: one pass of two tokens instead of two passes
        rows = torch.stack([decoding.generate(state), batch.rows[:, t - 1]], 1)
        segments = (1 - torch.arange(2, device=rows.device)).expand(B, 2)
        state = decoding.feed(Tokens(rows, segments, position[:, None].expand(B, 2)))[:, 1]
        last = torch.where((batch.lengths == t)[:, None], state, last)
    # shorter histories ran on through padding: what was stored for it lies behind their length and is overwritten next
    decoding.cache.cut_to(1 + batch.lengths + num_prompts * (batch.lengths - 1).clamp(min=0))
    return last


def expanded_tokens(network: Generator, batch: Batch, num_prompts: int) -> Tokens:
    """The whole expanded sequence (B, 1 + L + K (L - 1)) of placement "all", for a parallel training pass.

    The prompts come from the network as it is now, without dropout and without gradient.
    """
    L = batch.rows.shape[1]
    plain = network.plain_tokens(batch)
    if L < 2 or not num_prompts:
        return plain
    next_item = best_of(network.item_vectors(), len(batch.users), repeated=True)
    decoding = Decoding(network, batch.users, 1 + L + num_prompts * (L - 1), next_item)
    with torch.no_grad(), eval_mode(network):
        expand_history(decoding, batch, num_prompts)
    return plain.interleave(torch.stack(decoding.generated, 1).view(-1, L - 1, num_prompts))


def recall_queries(network: Generator, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:
    """S query vectors of each history, after expanding it as the plan says.

    next_item: names the generated items; without it, and where it names none, scores of the whole catalogue decide.
    """
    L = batch.rows.shape[1]
    inside = plan.num_prompts * max(L - 1, 0) if plan.placement is Placement.ALL else 0
    tail = plan.num_prompts if plan.placement is Placement.TAIL else 0
    table = network.item_vectors()
    # inside a history it is asked K (L - 1) times
    choose = or_best_of(next_item, table) if next_item else best_of(table, len(batch.users), repeated=bool(inside))
    soft = partial(soft_item, table=table, temperature=plan.temperature) if plan.form is PromptForm.SOFT else None
    decoding = Decoding(network, batch.users, 1 + L + inside + tail + plan.num_steps, choose, soft)
    plain = network.plain_tokens(batch)
    state = expand_history(decoding, batch, plan.num_prompts) if inside else decoding.feed_all(plain, batch.lengths)
    # what was generated inside the history is not an answer; only what follows the last real item is reported
    decoding.generated.clear()
    # generated items after the end all stand before the same, unknown next item
    position = (batch.lengths + 1).clamp(max=network.config.max_length)  # no later position is ever trained
    for number in range(1, 1 + tail):
        state = decoding.step(state, position, number)
    vectors = [state]
    for number in range(1 + tail, tail + plan.num_steps):
        vectors.append(decoding.step(vectors[-1], position, number))
    generated = decoding.generated or [batch.lengths.new_zeros(len(batch.lengths), 0)]
    prompts = torch.stack(generated, 1) if decoding.generated else generated[0]
    if plan.step_weights:
        # numbers, not a tensor of weights: a copy to the card may not happen while a graph is captured
        weighted = [weight * vector for weight, vector in zip(plan.step_weights, vectors, strict=True)]
        vectors = [sum(weighted[1:], start=weighted[0])]
    return Queries(torch.stack(vectors, 1), prompts)
