"""Brute force in torch, CPU or CUDA: the oracle for every other index, and the default up to some million items."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.base import EXACT, Exclusions, Hits
from index.best import NONE, Best, best_on_cpu
from index.checks import check_allowed, check_items, check_search, empty_hits
from model.kernels import available
from model.kernels.block_max import best_items
from model.native.sieve import MOST_QUERIES, Sieve
from model.products import MANY, by_onednn, has_onednn, reordered

if TYPE_CHECKING:
    from model.kernels.search import Table

QUERIES_PER_PASS = {"cpu": 16, "cuda": 256}
MOST_KEYS = 512  # that kernels put in order for one query
MOST_NAMED = 4096  # rows that a filter leaves out, up to which a few queries are searched through the copy in 8 bits
COPIED = 1 << 26  # bytes of items that are copied as oneDNN reads them fastest
FEWER = {"cpu": (4, 8), "cuda": ()}  # a few queries alone need not pay for all, where their scores come out the same


class ExactIndex:
    """Every inner product, computed. Equal scores stand in row order, also where the limit cuts through a tie.

    A pass has one of few numbers of queries, filled up, and only such as give the same scores to the last bit: with one
    compute thread a query's answer is the same in any batch. Between devices near ties may swap. On the CPU a pass
    holds 4 N bytes a query; on CUDA kernels answer (exact_device.py), with a second copy of the items in fp16.
    On the CPU a writeable C-contiguous array is shared, not copied, as is a tensor that lies on the device: leave it
    unchanged afterwards. Where oneDNN multiplies, up to 64 MiB of items are copied once more, in its own order, and
    once in 8 bits a number, by which a few queries are searched (model/native/sieve.py).
    """

    spec = EXACT

    def __init__(self, vectors: NDArray[np.float32] | Tensor, device: str = "cpu", sifts: bool = True) -> None:
        """sifts: a few queries are searched through a copy in 8 bits, which their first search makes."""
        source = vectors if isinstance(vectors, Tensor) else _as_tensor(vectors)
        self._items = source.to(device)  # (N, D)
        self._sifts = sifts

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) on the host; shared on the CPU."""
        vectors: NDArray[np.float32] = self._items.cpu().numpy()
        return vectors

    @property
    def num_items(self) -> int:
        return self._items.shape[0]

    @property
    def dim(self) -> int:
        return self._items.shape[1]

    @property
    def num_bytes(self) -> int:
        return self._items.nbytes

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, D) the vectors of rows 1..N, on the host."""
        if self._items.device.type == "cpu":
            # a fifth of what the index of a tensor takes
            taken: NDArray[np.float32] = self._items.numpy().take(rows - 1, axis=0)
            return taken
        vectors: NDArray[np.float32] = self._items[torch.from_numpy(rows - 1).to(self._items.device)].cpu().numpy()
        return vectors

    def part(self, places: NDArray[np.int64]) -> "ExactIndex":
        """An index over a copy of the rows at `places` (row r at r - 1), in their order."""
        own = self._items[torch.from_numpy(places).to(self._items.device)]
        # a filter's first search is a request's: it does not wait for such a copy
        return ExactIndex(own, str(own.device), sifts=False)

    def over(self, table: Tensor) -> "ExactIndex":
        """The same index in the memory of `table` (N, D), where that holds the same numbers; else itself."""
        same = table.device == self._items.device and table.dtype == self._items.dtype
        same = same and table.is_contiguous() and torch.equal(table, self._items)
        return ExactIndex(table, str(table.device), self._sifts) if same else self

    @cached_property
    def table(self) -> "Table":
        """The items as kernels read them; the first call copies them in fp16."""
        from model.kernels.search import Table  # noqa: PLC0415  (needs Triton)

        return Table.halved(self._items)

    @cached_property
    def pass_sizes(self) -> tuple[int, ...]:
        """Sizes of a pass, smallest first: those that give a query the scores of the largest, proven on random ones."""
        device = self._items.device
        probe = torch.randn(QUERIES_PER_PASS[device.type], self.dim, generator=torch.Generator().manual_seed(0))
        whole = self._scores(probe.to(device))

        def same_bits(size: int) -> bool:
            parts = [probe[start : start + size].to(device) for start in range(0, len(probe), size)]
            return torch.equal(torch.cat([self._scores(part) for part in parts]), whole)

        return (*(size for size in FEWER[device.type] if same_bits(size)), len(probe))

    def _scores(self, queries: Tensor, into: Tensor | None = None) -> Tensor:
        """(Q, N) inner products; `into`: a buffer of an earlier pass, used where it fits."""
        if self._weight is not None:
            return by_onednn(queries, self._weight)
        num_queries = len(queries)
        if into is None or len(into) < num_queries:
            into = torch.empty(num_queries, self.num_items, device=self._items.device)
        return torch.mm(queries, self._items.T, out=into[:num_queries])

    @cached_property
    def _weight(self) -> Tensor | None:
        """The items as oneDNN multiplies with them; None where it does not."""
        if self._items.device.type != "cpu" or len(self._items) < MANY or not has_onednn():
            return None
        return reordered(self._items, QUERIES_PER_PASS["cpu"]) if self.num_bytes <= COPIED else self._items

    @cached_property
    def _sieve(self) -> Sieve | None:
        """The items in 8 bits; None where they are few, too many to be copied, or scored otherwise."""
        if not self._sifts or self._weight is None or self.num_bytes > COPIED:
            return None
        # it is proven against a pass of so many, which has to be one of those that give the same bits
        if self._pass_of(MOST_QUERIES) != MOST_QUERIES:
            return None
        vectors = np.ascontiguousarray(self._items.numpy())
        return Sieve.of(vectors, lambda queries: self._scores(torch.from_numpy(queries)).numpy())

    def _kernels_take(
        self, num_queries: int, limit: int, excluded: Exclusions | None, allowed: NDArray[np.bool_] | None
    ) -> bool:
        """Tells if the kernels answer a search: they are there, its lists are short, and no item is filtered out."""
        if not num_queries or self._items.device.type != "cuda" or not available("cuda"):
            return False
        most = excluded.most if excluded is not None else 0
        return limit + most <= MOST_KEYS and (allowed is None or bool(allowed.all()))

    def _search_on_device(self, queries: NDArray[np.float32], limit: int, excluded: Exclusions | None) -> Best:
        from index.exact_device import search_on_device  # noqa: PLC0415  (needs Triton)

        return search_on_device(self.table, queries, limit, excluded)

    @torch.inference_mode()
    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        check_search(queries, limit, self.dim)
        check_allowed(allowed, self.num_items)
        real, device = min(limit, self.num_items), self._items.device
        if device.type == "cpu" and 0 < len(queries) <= QUERIES_PER_PASS["cpu"]:
            return _filled_up(self._search_at_once(queries, real, excluded, allowed), limit)
        hits = empty_hits(len(queries), limit)
        if self._kernels_take(len(queries), real, excluded, allowed):
            hits.rows[:, :real], hits.scores[:, :real] = self._search_on_device(queries, real, excluded)
            return hits
        largest = QUERIES_PER_PASS[device.type]
        padded = np.zeros((largest, self.dim), dtype=np.float32)
        batch, scores = torch.from_numpy(padded), torch.empty(0, device=device)  # (Q, D), (Q, N)
        for start in range(0, len(queries), largest):
            part = slice(start, min(start + largest, len(queries)))
            num_queries = part.stop - start
            size = self._pass_of(num_queries)
            # what an earlier pass left behind them is computed and not read
            padded[:num_queries] = queries[part]
            own = excluded.within(part) if excluded else None
            if device.type == "cuda":
                best = best_on_gpu(batch[:size].to(device), self._items, real, own, allowed)
            else:
                scores = self._scores(batch[:size], scores)
                best = best_on_cpu(scores[:num_queries].numpy(), real, own, allowed)
            hits.rows[part, :real], hits.scores[part, :real] = (column[:num_queries] for column in best)
        # fewer than `limit` items may be left: the places behind them are empty
        hits.rows[np.isneginf(hits.scores)] = 0
        return hits

    def _search_at_once(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None,
        allowed: NDArray[np.bool_] | None,
    ) -> Best:
        """The same of queries that one pass on the CPU holds: a few steps less, for a user who is alone."""
        num_queries, size = len(queries), self._pass_of(len(queries))
        if num_queries <= MOST_QUERIES and self._sieve:
            pairs = _left_out(num_queries, excluded, allowed)
            if pairs and (best := self._sieve.search(np.ascontiguousarray(queries), limit, pairs)):
                return best
        padded = np.zeros((size, self.dim), dtype=np.float32)
        padded[:num_queries] = queries
        scores = self._scores(torch.from_numpy(padded)).numpy()
        return best_on_cpu(scores[:num_queries], limit, excluded, allowed)

    def _pass_of(self, num_queries: int) -> int:
        """The smallest size of a pass that holds so many queries."""
        return next(size for size in self.pass_sizes if size >= num_queries)


def _left_out(
    num_queries: int, excluded: Exclusions | None, allowed: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Pairs of a query and a row that it may not find; None where a filter leaves out too many to name them."""
    whose, rows = excluded or (NONE, NONE)
    hidden = NONE if allowed is None else np.flatnonzero(~allowed) + 1
    if len(hidden) > MOST_NAMED:
        return None
    if len(hidden):
        whose = np.append(whose, np.repeat(np.arange(num_queries), len(hidden)))
        rows = np.append(rows, np.tile(hidden, num_queries))
    return np.ascontiguousarray(whose), np.ascontiguousarray(rows)


def _filled_up(best: Best, limit: int) -> Hits:
    """Hits (Q, limit), with row 0 where a score is -inf."""
    rows, scores = best
    if rows.shape[1] < limit:
        hits = empty_hits(len(rows), limit)
        hits.rows[:, : rows.shape[1]], hits.scores[:, : rows.shape[1]] = best
        rows, scores = hits
    # scores fall: a list without a gap at its end has none; beside no number anything may stand
    if not scores[:, -1].min() > -np.inf:
        rows[np.isneginf(scores)] = 0
    return Hits(rows, scores)


def _as_tensor(vectors: NDArray[np.float32]) -> Tensor:
    check_items(vectors)
    # torch warns about read-only memory, which it cannot represent
    return torch.from_numpy(np.require(vectors, requirements=["C", "W"]))


def best_on_gpu(
    queries: Tensor,
    items: Tensor,
    limit: int,
    excluded: Exclusions | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Best:
    """The same from (Q, D) queries and (N, D) items where they lie, without the scores of all items.

    allowed: costs a copy of the item vectors that it lets through, on the device.
    """
    if allowed is not None and not allowed.all():
        return _best_of_allowed(queries, items, limit, excluded, allowed)
    most = excluded.most if excluded is not None else 0
    # one more shows a tie at the cut
    scores, rows = best_items(queries, items, min(limit + 1, len(items)), most)
    if excluded is not None:
        pairs = torch.from_numpy(excluded.queries * len(items) + excluded.rows - 1).to(items.device)
        owners = torch.arange(len(rows), device=rows.device)[:, None] * len(items)
        scores = scores.masked_fill(torch.isin(owners + rows, pairs), -torch.inf)
    # rows rise along the candidates, so a stable sort keeps them in row order within a tie
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return (rows.gather(1, order)[:, :limit] + 1).cpu().numpy(), values[:, :limit].cpu().numpy()


def _best_of_allowed(
    queries: Tensor, items: Tensor, limit: int, excluded: Exclusions | None, allowed: NDArray[np.bool_]
) -> Best:
    """Searches the allowed items alone; their order, and so the order within a tie, is that of all items."""
    hits = empty_hits(len(queries), limit)
    places = np.flatnonzero(allowed)
    if not len(places):
        return hits
    if excluded is not None:
        inside = allowed[excluded.rows - 1]
        rows = np.searchsorted(places, excluded.rows[inside] - 1) + 1
        excluded = Exclusions(excluded.queries[inside], rows)
    real = min(limit, len(places))
    own = items[torch.from_numpy(places).to(items.device)]
    rows, hits.scores[:, :real] = best_on_gpu(queries, own, real, excluded)
    hits.rows[:, :real] = places[rows - 1] + 1
    return hits
