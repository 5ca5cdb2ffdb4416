"""Filtered search of inverted lists: the lists nearest to a query among those that hold rows which pass.

A fixed number of probes finds less the fewer rows pass, and next to nothing where those lie together far from the
query (a language, a kind of video). Here a query visits lists until they hold a wanted number of passing rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits
from index.checks import empty_hits, first_permitted
from index.faiss_index import FaissIndex, load_faiss

SPARE = 2.0  # lists looked at for each one that would be needed, were all alike
EVEN = 0.9  # share of the lists that hold passing rows from which on a filter has nothing to do with where rows lie
MAX_SHARE = 0.33  # of the passing rows; so many find 98 % of the best hundred even of a far corner
FARTHER = 4.0  # times as many rows more for a query in whose own lists no row passes


@dataclass(frozen=True, eq=False)
class ListsOfRows:
    """The lists of an index: their centres and, for each row, the one that it lies in."""

    index: FaissIndex  # an IVF index, not wrapped in another
    centres: NDArray[np.float32]  # (L, D)
    list_of_row: NDArray[np.int32]  # (N,)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(L,) rows in each list."""
        return np.bincount(self.list_of_row, minlength=len(self.centres))

    @property
    def num_visited(self) -> float:
        """Rows that a query looks at without a filter, on the average."""
        return self.index.effort.nprobe * len(self.list_of_row) / len(self.centres)

    @classmethod
    def of(cls, index: FaissIndex) -> "ListsOfRows | None":
        """None for kinds of index that have no such lists."""
        faiss = load_faiss()
        native = faiss.downcast_index(index.native)
        if not isinstance(native, faiss.IndexIVF):
            return None
        lists = native.invlists
        owner = np.zeros(index.num_items, dtype=np.int32)
        for number in range(native.nlist):
            if size := lists.list_size(number):
                owner[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return cls(index, native.quantizer.reconstruct_n(0, native.nlist), owner)

    def passing(self, allowed: NDArray[np.bool_]) -> "PassingLists":
        per_list = np.bincount(self.list_of_row[allowed], minlength=len(self.centres))
        used = np.flatnonzero(per_list)
        return PassingLists(self, used, per_list[used], np.packbits(allowed, bitorder="little"))


@dataclass(frozen=True, eq=False)
class PassingLists:
    """The lists that hold rows which pass one filter, and how many each."""

    lists: ListsOfRows
    used: NDArray[np.int64]  # (M,) list numbers
    counts: NDArray[np.int64]  # (M,) rows that pass
    bitmap: NDArray[np.uint8]  # of all rows, as FAISS reads it

    @property
    def is_even(self) -> bool:
        """True when the passing rows lie everywhere: then the nearest lists are as good as any."""
        return len(self.used) >= EVEN * len(self.lists.centres)

    @property
    def num_rows(self) -> int:
        """Passing rows that are looked at for a query whose own lists hold some: fewer where they are thin."""
        share = self.counts.sum() / self.lists.sizes[self.used].sum()
        return int(self.lists.num_visited * min(1.0, 2 * share) ** 0.5) + 1

    @property
    def num_visited(self) -> float:
        """Rows, passing or not, in the lists that a query visits, on the average over queries from everywhere."""
        farther = 1 + FARTHER * (1 - len(self.used) / len(self.lists.centres))
        return float(farther * self.num_rows * self.lists.sizes[self.used].sum() / self.counts.sum())

    def search(self, queries: NDArray[np.float32], limit: int, excluded: Exclusions | None) -> Hits:
        """Hits (Q, limit) among the passing rows of lists near the query; a query may get fewer than there are."""
        deeper = limit + (excluded.most if excluded is not None else 0)
        numbers, scores = self._nearest(np.ascontiguousarray(queries), max(self.num_rows, 2 * deeper))
        hits = empty_hits(len(queries), deeper)
        faiss = load_faiss()
        selector = faiss.IDSelectorBitmap(self.bitmap)
        parameters = faiss.SearchParametersIVF(nprobe=numbers.shape[1], sel=selector)
        values, ids = np.empty(hits.scores.shape, dtype=np.float32), np.empty(hits.rows.shape, dtype=np.int64)
        asked, lists, closeness, best, best_ids = map(faiss.swig_ptr, (queries, numbers, scores, values, ids))
        native = faiss.downcast_index(self.lists.index.native)
        native.search_preassigned_c(len(queries), asked, deeper, lists, closeness, best, best_ids, False, parameters)
        hits.rows[:] = ids + 1
        hits.scores[:] = np.where(ids < 0, -np.inf, values)
        return hits if deeper == limit else first_permitted(hits, limit, excluded)

    def _nearest(self, queries: NDArray[np.float32], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Lists (Q, P) for each query, nearest first, and their scores; -1 behind those that are enough."""
        scores = queries @ self.lists.centres.T  # (Q, L)
        wanted = num_rows * (1 + FARTHER * self._empty_share(scores))[:, None]  # (Q, 1)
        wanted = np.minimum(wanted, max(num_rows, MAX_SHARE * float(self.counts.sum())))
        scores = scores[:, self.used]
        width = min(len(self.used), int(SPARE * float(wanted.max()) / float(self.counts.mean())) + 8)
        nearest = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        order = np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, 1)
        counts = self.counts[nearest]
        needed = np.cumsum(counts, axis=1) - counts < wanted
        most = int(needed.sum(1).max())
        numbers = np.where(needed, self.used[nearest], -1)[:, :most]
        return np.ascontiguousarray(numbers), np.ascontiguousarray(np.take_along_axis(scores, nearest, 1)[:, :most])

    def _empty_share(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """(Q,) the share of a query's own lists, those visited without a filter, that hold no passing row."""
        num_own = min(self.lists.index.effort.nprobe, scores.shape[1])
        if len(self.used) == scores.shape[1]:
            return np.zeros(len(scores))
        own = np.argpartition(-scores, num_own - 1, axis=1)[:, :num_own]
        is_used = np.zeros(scores.shape[1], dtype=np.bool_)
        is_used[self.used] = True
        shares: NDArray[np.float64] = 1 - is_used[own].mean(1)
        return shares
