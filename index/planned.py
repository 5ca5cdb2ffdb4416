"""An index whose filtered searches are planned by how many rows pass, and where they lie.

    none, or all pass        the index as it is
    few pass                 exact search over a copy of the passing rows, kept while their filter is asked again
    most pass, everywhere    the index, deeper by what may fall out, with more probes
    between                  inverted lists of the passing rows alone, kept in the same way; other kinds exact

A list that comes back short of rows that pass is searched again exactly: it is always full.
Measured in benchmarks/filters.py (docs/decisions/0066-filtered-lists.md).
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits, ItemIndex, OuterIndex
from index.checks import check_allowed, check_search, empty_hits, first_permitted
from index.exact import ExactIndex
from index.faiss_index import FaissIndex
from index.lists import ListPlan, ListsOfRows, PassingLists

FEW_ROWS, EXACT_ROWS = 3_000, 100_000  # passing rows that are searched exactly; and where the index has no lists
EXACT_US, EXACT_ROW_US = 50.0, 0.025  # of an exact search, and of a row in it; measured, as those of lists are
MOST, MOST_IN_GRAPHS = 0.7, 0.3  # share from which on the index is asked deeper
DEEPER, PROBES, GRAPH_PROBES = 1.3, 1.25, 1.6  # by what, with how many probes
MAX_TABLES_BYTES, MAX_KNOWN = 256 * 2**20, 256  # of copies, and filters, that are kept
FEWER = 8  # exact search copies where at most an eighth of the rows pass


@dataclass(frozen=True, eq=False)
class PassingRows:
    """The rows that a filter lets through, with an exact index or lists where the plan has those."""

    allowed: NDArray[np.bool_]  # (N,), kept so that its identity is not given to another array
    count: int
    rows: NDArray[np.int64]  # (C,) rising, where `table` is there
    table: ExactIndex | None = None
    lists: PassingLists | None = None

    @property
    def num_bytes(self) -> int:
        copies = (copy.num_bytes for copy in (self.table, self.lists) if copy)
        return len(self.allowed) + sum(copies)


class PlannedIndex(OuterIndex):
    """An `ItemIndex` with a plan for filters, over an index and the exact one of the same rows. Thread-safe."""

    def __init__(self, inner: ItemIndex, exact: ExactIndex, few_rows: int = FEW_ROWS) -> None:
        super().__init__(inner)
        self.exact, self._few_rows = exact, few_rows
        self._known: OrderedDict[int, PassingRows] = OrderedDict()
        self._lock = Lock()

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        if allowed is None:
            return self.inner.search(queries, limit, excluded)
        check_search(queries, limit, self.dim)
        check_allowed(allowed, self.num_items)
        passing = self._passing(allowed)
        if passing.count == self.num_items:
            return self.inner.search(queries, limit, excluded)
        if passing.table is not None or not passing.count:
            return search_rows(passing, queries, limit, excluded)
        if self.inner is self.exact:
            return self.exact.search(queries, limit, excluded, allowed)
        hits = self._search_approximately(queries, limit, excluded, passing)
        return self._filled_up(hits, queries, limit, excluded, passing)

    def _search_approximately(
        self, queries: NDArray[np.float32], limit: int, excluded: Exclusions | None, passing: PassingRows
    ) -> Hits:
        if passing.lists is not None:
            return passing.lists.search(queries, limit, excluded)
        share = passing.count / self.num_items
        if share < self._most:
            return self.exact.search(queries, limit, excluded, passing.allowed)
        deep = int(DEEPER * (limit + (excluded.most if excluded is not None else 0)) / share)
        hits = self._harder.search(queries, min(deep, self.num_items))
        return first_permitted(hits, limit, excluded, passing.allowed)

    @cached_property
    def _harder(self) -> ItemIndex:
        """The index, looked through harder: the hits that remain lie further away."""
        if not isinstance(self.inner, FaissIndex):
            return self.inner
        # a graph gives no more hits than it keeps candidates, and is asked for up to limit / MOST_IN_GRAPHS
        effort, ef = self.inner.effort, GRAPH_PROBES / MOST_IN_GRAPHS
        more = replace(effort, nprobe=int(PROBES * effort.nprobe), ef_search=int(ef * effort.ef_search))
        return self.inner.with_effort(more)

    @property
    def _most(self) -> float:
        return MOST if self._lists else MOST_IN_GRAPHS

    @cached_property
    def _lists(self) -> ListsOfRows | None:
        return ListsOfRows.of(self.inner, self.exact) if isinstance(self.inner, FaissIndex) else None

    def _filled_up(
        self,
        hits: Hits,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None,
        passing: PassingRows,
    ) -> Hits:
        """The hits, with those of queries that lack some which exist searched exactly."""
        if hits.rows.all():
            return hits
        own = np.zeros(len(queries), dtype=np.int64)
        if excluded is not None:
            np.add.at(own, excluded.queries, passing.allowed[excluded.rows - 1])
        short = np.flatnonzero((hits.rows > 0).sum(1) < np.minimum(limit, passing.count - own))
        if not len(short):
            return hits
        again = None
        if excluded is not None:
            inside = np.isin(excluded.queries, short)
            again = Exclusions(np.searchsorted(short, excluded.queries[inside]), excluded.rows[inside])
        hits.rows[short], hits.scores[short] = self.exact.search(queries[short], limit, again, passing.allowed)
        return hits

    def _passing(self, allowed: NDArray[np.bool_]) -> PassingRows:
        """The facts of a filter; kept, newest last, while their copies fit."""
        with self._lock:
            if (known := self._known.get(id(allowed))) is not None:
                self._known.move_to_end(id(allowed))
                return known
        passing = self._read(allowed)
        with self._lock:
            self._known[id(allowed)] = passing
            while len(self._known) > 1 and self._is_too_much():
                self._known.popitem(last=False)
        return passing

    def _is_too_much(self) -> bool:
        return len(self._known) > MAX_KNOWN or sum(kept.num_bytes for kept in self._known.values()) > MAX_TABLES_BYTES

    def _read(self, allowed: NDArray[np.bool_]) -> PassingRows:
        places, nothing = np.flatnonzero(allowed), np.zeros(0, dtype=np.int64)
        count = len(places)
        lists = self._lists if self._few_rows < count < self.num_items else None
        plan = lists.plan(places) if lists else None
        if count and self._is_exact(count, plan):
            return PassingRows(allowed, count, places + 1, self.exact.part(places))
        # where most rows pass everywhere, as where items were deleted, a copy of nearly all would gain little
        if lists and plan and not (count >= MOST * self.num_items and plan.is_even):
            return PassingRows(allowed, count, nothing, None, lists.passing(places, plan))
        return PassingRows(allowed, count, nothing)

    def _is_exact(self, count: int, plan: ListPlan | None) -> bool:
        """Tells if so many passing rows are best copied and searched exactly."""
        if self.inner is self.exact:
            return count * FEWER <= self.num_items
        if plan or self._lists:
            return count <= self._few_rows or bool(plan and EXACT_US + EXACT_ROW_US * count <= plan.cost_us)
        return count <= self._few_rows or (count <= EXACT_ROWS and count < MOST_IN_GRAPHS * self.num_items)


def search_rows(passing: PassingRows, queries: NDArray[np.float32], limit: int, excluded: Exclusions | None) -> Hits:
    """Hits among the passing rows alone, all scored; their order within a tie is that of all rows."""
    if passing.table is None:
        return empty_hits(len(queries), limit)
    if excluded is not None:
        inside = passing.allowed[excluded.rows - 1]
        rows = np.searchsorted(passing.rows, excluded.rows[inside]) + 1
        excluded = Exclusions(excluded.queries[inside], rows)
    hits = passing.table.search(queries, limit, excluded)
    return Hits(np.append(0, passing.rows)[hits.rows], hits.scores)
